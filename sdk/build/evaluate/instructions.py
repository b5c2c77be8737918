"""Prompts of IFEval in; the share of verifiable instructions that the model follows out.

Asked are the prompts whose instructions can all be checked here; the others are counted as not scored, never as wrong.
An answer is cut at a stated number of tokens, which makes long answers fail: compare models at the same limit only.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from sdk.build.evaluate.card import Leg
from sdk.build.evaluate.decoding import greedy_texts
from sdk.build.evaluate.likelihood import Told
from sdk.build.evaluate.verifiers import follows
from sdk.errors import EvaluationError

__all__ = ["Instructed", "followed", "ifeval_leg", "read_ifeval"]

SEED = 7


@dataclass(frozen=True, kw_only=True)
class Instructed:
    """A prompt with its verifiable instructions."""

    name: str
    prompt: str
    instructions: tuple[tuple[str, Mapping[str, Any]], ...]
    """Kind and arguments of each."""


def ifeval_leg(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Instructed],
    *,
    max_new_tokens: int,
    told: Told = lambda done, total: None,
) -> Leg:
    """Answer every prompt greedily and check the answers."""
    asked = [one.prompt for one in prompts]
    answers = greedy_texts(model, tokenizer, asked, max_new_tokens=max_new_tokens, told=told)
    return replace(followed(prompts, answers), facts={"max_new_tokens": max_new_tokens})


def followed(prompts: Sequence[Instructed], answers: Sequence[str]) -> Leg:
    """Score each instruction, and each prompt by whether all of its own are followed."""
    verdicts = [
        [bool(follows(kind, wanted, answer)) for kind, wanted in one.instructions]
        for one, answer in zip(prompts, answers, strict=True)
    ]
    counts = tuple(float(len(each)) for each in verdicts)
    return Leg(
        ids=tuple(one.name for one in prompts),
        groups=tuple(one.instructions[0][0].partition(":")[0] for one in prompts),
        scores={
            "prompts": (tuple(float(all(each)) for each in verdicts), (1.0,) * len(prompts)),
            "instructions": (tuple(float(sum(each)) for each in verdicts), counts),
        },
    )


def read_ifeval(file: Path, *, most: int | None) -> tuple[list[Instructed], dict[str, int]]:
    """Prompts that can be scored, or a seeded choice of them, and how many instructions of each kind cannot.

    Raises:
        EvaluationError: The file cannot be read or is not IFEval's.
    """
    prompts: list[Instructed] = []
    left_out: Counter[str] = Counter()
    try:
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            pairs = tuple(zip(row["instruction_id_list"], row["kwargs"], strict=True))
            if lacking := [kind for kind, wanted in pairs if follows(kind, wanted, "x") is None]:
                left_out.update(lacking)
                left_out["prompts"] += 1
            elif pairs:
                prompts.append(Instructed(name=f"ifeval-{row['key']}", prompt=row["prompt"], instructions=pairs))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
        raise EvaluationError(f"{file} is no readable IFEval file ({cause!r:.60}); get it again") from cause
    if not prompts:
        raise EvaluationError(f"{file} holds no prompt that can be scored")
    if most is not None and len(prompts) > most:
        prompts = [prompts[place] for place in sorted(Random(SEED).sample(range(len(prompts)), most))]
    return prompts, dict(left_out)
