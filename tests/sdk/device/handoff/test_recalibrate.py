"""After an adapter has moved the scores, the old threshold misses its risk and the new one holds it."""

import pytest

from sdk.confidence import Calibration, Evidence, Rated, calibrated
from sdk.device.handoff.recalibrate import recalibrated
from sdk.errors import RouterError
from tests.sdk.confidence.test_calibration import rated

TASKS = [{"prompt": str(number), "task": "reply"} for number in range(1000)]


def surer(one: Rated) -> Evidence:
    """The same answer by a model that an adapter has made too sure of itself."""
    fields = one.evidence.to_dict()
    return Evidence.from_dict(fields | {name: fields[name] / 4 for name in ("least", "tenth", "mean", "most_entropy")})


def wrong_and_kept(calibration: Calibration, answers: list[Rated]) -> float:
    kept = [calibration.head.confidence(surer(one).row()) > calibration.threshold for one in answers]
    return sum(keep and not one.right for keep, one in zip(kept, answers, strict=True)) / len(answers)


def test_the_risk_holds_again_after_an_adapter_made_the_model_too_sure() -> None:
    answers = rated(1000)
    old = calibrated(answers, base_digest="x")
    new = recalibrated(
        TASKS,
        lambda prompt: ("", surer(answers[int(prompt)])),
        lambda task, text: answers[int(task["prompt"])].right,
        base_digest="x",
        risk=0.05,
    )
    assert new is not None
    fresh = rated(4000, seed=9)
    assert wrong_and_kept(old, fresh) > 0.08
    assert wrong_and_kept(new, fresh) < 0.06


def test_it_can_be_stopped_and_refuses_too_few_tasks() -> None:
    evidence = rated(1)[0].evidence
    asked: list[str] = []

    def answered(prompt: str) -> tuple[str, Evidence]:
        asked.append(prompt)
        return "", evidence

    told = recalibrated(
        TASKS, answered, lambda task, text: True, base_digest="x", risk=0.05, stop=lambda: len(asked) == 3
    )
    assert (told, len(asked)) == (None, 3)
    with pytest.raises(RouterError, match="cannot calibrate"):
        recalibrated(TASKS[:5], answered, lambda task, text: True, base_digest="x", risk=0.05)
