"""SNIPS' validation requests in; intents and slots that the model reads out of them, and how many are right, out.

The seven intents of the 2017 benchmark, 100 requests each, asked in the device's own words (sdk.tasks, task `intent`).
F1 is over all slots of all requests, letter by letter and whatever the intent.

Source: Coucke et al., arXiv:1805.10190.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from sdk.build.evaluate.device_tasks import STRUCTURED_SCORES, Task, tasks_leg
from sdk.build.evaluate.interval import Estimate
from sdk.errors import EvaluationError
from sdk.tasks import Intent, as_answer, prompt

__all__ = ["read_snips", "request_of", "snips"]

SEED = 7


def snips(model: Any, tokenizer: Any, folder: Path, *, each: int | None = None) -> dict[str, Estimate]:
    """Valid answers, right intents (`named`), slot F1, wholly right answers and copied values on the validation split.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer, with a chat template.
        folder: Where validate_*.json stand.
        each: Requests of each intent; None takes all 100.
    """
    return tasks_leg(model, tokenizer, read_snips(folder, each=each), scores=STRUCTURED_SCORES).estimates()


def read_snips(folder: Path, *, each: int | None) -> list[Task]:
    """The validation split, or a seeded choice of `each` requests of every intent.

    Raises:
        EvaluationError: No such files, or others than SNIPS'.
    """
    requests = []
    files = sorted(folder.glob("validate_*.json"))
    if not files:
        raise EvaluationError(f"{folder} holds no validate_*.json of SNIPS")
    for file in files:
        try:
            ((intent, rows),) = json.loads(_decoded(file.read_bytes())).items()
            made = [request_of(f"{intent}-{place}", intent, row["data"]) for place, row in enumerate(rows)]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
            raise EvaluationError(f"{file} is no readable SNIPS file ({cause!r:.60}); get it again") from cause
        places = sorted(Random(SEED).sample(range(len(made)), min(each or len(made), len(made))))
        requests += [made[place] for place in places]
    return requests


def request_of(name: str, intent: str, parts: Sequence[dict[str, str]]) -> Task:
    """A request from its marked parts; blanks are single and none stands at an end, in the text and in the slots."""
    slots: dict[str, list[str]] = {}
    for part in parts:
        if "entity" in part and part["text"].strip():
            slots.setdefault(part["entity"], []).append(" ".join(part["text"].split()))
    wanted = Intent(intent=intent, slots={slot: said if len(said) > 1 else said[0] for slot, said in slots.items()})
    text = " ".join("".join(part["text"] for part in parts).split())
    return Task(name=name, group=intent, task="intent", prompt=prompt("intent", text), wanted=as_answer(wanted))


def _decoded(content: bytes) -> str:
    """Some files of the set are UTF-8 and some Latin-1."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")
