"""Public tasks and a fresh adapter's answers to them in, a calibration for the base with this adapter out.

An adapter moves the model's log-probabilities, so the base's threshold no longer means what it says. The tasks are
public, so calibrating on them costs no privacy budget. It takes an answer to each of a few hundred tasks: minutes on a
CPU, so it is for a night that has time, and no admission waits for it. What came out is kept in the home, as
`router.json`, for the adapter that answered; with another adapter it counts for nothing.

The tasks are of the maker's held-out side (`limbeck build curriculum --held-out`): no student has learned from them.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from typing import Any

from personalize.home import Home
from sdk.confidence import Calibration, Evidence, Rated, calibrated
from sdk.confidence.evidence import agreement
from sdk.device.answers.session import drawn
from sdk.device.assistant import Assistant
from sdk.scoring import is_right
from sdk.tasks import STRUCTURED, fits

__all__ = ["FILE", "public_tasks", "recalibrate", "recalibrated"]

FILE = "router.json"
MOST_TOKENS = 96  # As the maker's calibration.

Answered = Callable[[str], tuple[str, Evidence]]
"""Answers a prompt on the device: the text and how sure the model was."""
Task = Mapping[str, str]
Told = Callable[[str, int, int], None]


def public_tasks(most: int | None = None) -> list[dict[str, str]]:
    """The tasks that come with the package, each with `task`, `prompt` and `answer`; at most `most`, of all kinds."""
    lines = resources.files("sdk.confidence").joinpath("tasks.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[:most]]


def recalibrate(
    assistant: Assistant,
    home: Home,
    *,
    risk: float = 0.05,
    most: int | None = None,
    samples: int = 0,
    stop: Callable[[], bool] = lambda: False,
    progress: Told = lambda what, done, total: None,
) -> Calibration | None:
    """Measure again how sure is sure enough, with the adapter that answers now, and keep it in the home.

    Args:
        assistant: Who answers.
        home: Its home.
        risk: Highest chance that an answer is wrong and kept on the device, in (0, 1).
        most: Of the public tasks; None takes all.
        samples: Further answers to draw for each, whose agreement is weighed; as many are drawn for each answer later.
        stop: Asked between tasks; True gives None, and the calibration before holds.
        progress: Told (what, done, total).

    Raises:
        RouterError: Too few tasks; the calibration before holds.
        HomeError: It cannot be written; the calibration before holds.
    """
    tasks, asked = public_tasks(most), assistant.adapter_name
    kinds, done = {task["prompt"]: task["task"] for task in tasks}, 0

    def answered(prompt: str) -> tuple[str, Evidence]:
        nonlocal done
        answer = assistant.answer(prompt, max_new_tokens=MOST_TOKENS)
        done += 1
        progress("answer public tasks", done, len(tasks))
        valid = fits(kinds[prompt], answer.text) if kinds[prompt] in STRUCTURED else None
        others = [drawn(assistant, prompt, seed=seed, max_new_tokens=MOST_TOKENS) for seed in range(samples)]
        return answer.text, Evidence.of_steps(answer.steps, valid=valid, agreement=agreement(answer.text, others))

    made = recalibrated(
        tasks,
        answered,
        lambda task, text: is_right(task["task"], text, task["answer"], prompt=task["prompt"]),
        base_digest=assistant.bundle.base_digest,
        risk=risk,
        adapter=asked,
        samples=samples,
        stop=stop,
    )
    if made is not None and assistant.adapter_name == asked:  # A night may have changed it meanwhile.
        home.put(FILE, made.to_json())
    return made


def recalibrated(
    tasks: Iterable[dict[str, Any]],
    answered: Answered,
    right: Callable[[dict[str, Any], str], bool],
    *,
    base_digest: str,
    risk: float,
    adapter: str | None = None,
    samples: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> Calibration | None:
    """Calibrate the base as it answers now.

    Args:
        tasks: Public ones, each with `prompt`.
        answered: The base with its adapter.
        right: Whether an answer to a task counts as right.
        base_digest: Of the base; what stands in the file.
        risk: Highest chance that an answer is wrong and kept.
        adapter: Name of what the base wears.
        samples: Further answers that `answered` draws for each, to tell how far they agree.
        stop: Asked between tasks; True gives None, and the calibration before holds.

    Raises:
        RouterError: Too few tasks; the calibration before holds.
    """
    rated = []
    for task in tasks:
        if stop():
            return None
        text, evidence = answered(task["prompt"])
        rated.append(Rated(evidence=evidence, right=right(task, text), kind=str(task.get("task", ""))))
    return calibrated(rated, base_digest=base_digest, risk=risk, adapter=adapter, samples=samples)
