"""Public tasks and a fresh adapter's answers to them in, a calibration for the base with this adapter out.

An adapter moves the model's log-probabilities, so the base's threshold no longer means what it says. The tasks are
public, so calibrating on them costs no privacy budget. It takes an answer to each of a few hundred tasks: minutes on a
CPU, so it is for a night that has time, and no admission waits for it.
"""

from collections.abc import Callable, Iterable
from typing import Any

from sdk.confidence import Calibration, Evidence, Rated, calibrated

__all__ = ["recalibrated"]

Answered = Callable[[str], tuple[str, Evidence]]
"""Answers a prompt on the device: the text and how sure the model was."""


def recalibrated(
    tasks: Iterable[dict[str, Any]],
    answered: Answered,
    right: Callable[[dict[str, Any], str], bool],
    *,
    base_digest: str,
    risk: float,
    stop: Callable[[], bool] = lambda: False,
) -> Calibration | None:
    """Calibrate the base as it answers now.

    Args:
        tasks: Public ones, each with `prompt`.
        answered: The base with its adapter.
        right: Whether an answer to a task counts as right.
        base_digest: Of the base; what stands in the file.
        risk: Highest chance that an answer is wrong and kept.
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
    return calibrated(rated, base_digest=base_digest, risk=risk)
