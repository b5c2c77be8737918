"""A child process measures alone: its figures are positive, and the parent's memory is not among them."""

from pathlib import Path

import pytest

from sdk.build.evaluate import cost
from sdk.build.evaluate.cost import cost_leg, measure
from sdk.errors import EvaluationError
from tests.tiny import tiny_bundle


def test_a_child_measures_speed_and_memory(tmp_path: Path) -> None:
    ballast = bytearray(600_000_000)  # Held by the parent while the child runs; touched, so that it is there.
    ballast[::4096] = b"x" * len(ballast[::4096])
    found = cost_leg(tiny_bundle(tmp_path).folder, repeats=2)
    assert len(found.samples["answer_ms"]) == 2
    assert all(value > 0 for values in found.samples.values() for value in values)
    assert found.facts["libraries_megabytes"] < 600, "the child counts what its parent holds"
    assert 0 <= found.facts["peak_megabytes"] - found.facts["libraries_megabytes"] < 150
    for first, rate in zip(found.samples["first_token_ms"], found.samples["prefill_tokens_per_second"], strict=True):
        assert rate == pytest.approx(64 / first * 1000)


def test_a_child_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"measuring speed and memory failed \(.* is not a folder"):
        cost_leg(tmp_path / "nowhere", repeats=1)


def test_a_child_that_takes_too_long_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "CHILD_SECONDS", 0.05)
    with pytest.raises(EvaluationError, match="did not answer 1 questions in 0 seconds"):
        cost_leg(tmp_path, repeats=1)


def test_the_first_question_is_not_counted(tmp_path: Path) -> None:
    assert len(measure(tiny_bundle(tmp_path).folder, 1)["first_token_ms"]) == 1
