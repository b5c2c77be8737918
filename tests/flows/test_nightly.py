"""A night that looks at the device first, stops when something comes up, and leaves a note of what became of it."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from personalize.errors import NightStoppedError, TrainingError
from personalize.learner import Learner
from personalize.night import NightReport
from personalize.nightly import NoNight, learn_noted, learn_when_idle
from personalize.schedule import NightPolicy
from personalize.sensors import Sensors
from tests.nights import PLAN, one_day, opened_learner, tiny_base

BASE = tiny_base()
AT = datetime(2026, 11, 24, 3, 30, tzinfo=UTC)
QUIET = Sensors(
    clock=lambda: AT, idle_minutes=lambda: 60.0, charger=lambda: True, battery_percent=lambda: 90.0,
    celsius=lambda: 40.0, load=lambda: 0.1, free_megabytes=lambda folder: 9_000.0,
)  # fmt: skip


@pytest.fixture
def learner(tmp_path: Path) -> Iterator[Learner]:
    opened = opened_learner(tmp_path / "home", BASE)
    opened.remember(one_day())
    yield opened
    opened.close()


def last(learner: Learner) -> dict[str, object]:
    note = learner.status()["last_night"]
    assert isinstance(note, dict)
    return note


def test_an_idle_device_learns_and_the_home_says_so(learner: Learner) -> None:
    report = learn_when_idle(learner, PLAN, NightPolicy(), sensors=QUIET)
    assert isinstance(report, NightReport)
    assert last(learner) == {
        "format": "last_night/1", "at": "2026-11-24T03:30:00+00:00", "ran": True, "outcome": "admitted",
        "why": "idle, powered and cool enough", "adapter": report.adapter,
    }  # fmt: skip


def test_a_device_in_use_does_not_learn_charges_nothing_and_says_why(learner: Learner) -> None:
    busy = replace(QUIET, charger=lambda: False, idle_minutes=lambda: 2.0)
    made = learn_when_idle(learner, PLAN, NightPolicy(), sensors=busy)
    assert isinstance(made, NoNight)
    assert made.summary() == "nothing was learned: in use 2 minutes ago, idle means 10; not on the charger"
    assert made.to_dict()["ran"] is False
    assert learner.ledger.spent() == 0
    assert (last(learner)["outcome"], last(learner)["why"]) == ("not begun", made.decision.why())


def test_with_too_little_to_learn_it_is_not_begun(learner: Learner) -> None:
    learner.learn(PLAN)
    made = learn_when_idle(learner, PLAN, NightPolicy(), sensors=QUIET)
    assert isinstance(made, NoNight)
    assert made.decision.against == ("too few fresh records that can pay for a night",)


def test_pulling_the_plug_stops_the_night_and_plugging_in_goes_on_with_it(learner: Learner) -> None:
    readings = itertools.chain([True] * 14, itertools.repeat(False))
    unplugged = replace(QUIET, charger=lambda: next(readings))
    made = learn_when_idle(learner, PLAN, NightPolicy(), sensors=unplugged, watch_seconds=0)
    assert isinstance(made, NoNight)
    assert made.stopped
    assert made.summary() == "stopped, the next call goes on at no new charge: not on the charger"
    assert (last(learner)["outcome"], last(learner)["why"]) == ("stopped", "not on the charger")
    assert learner.status()["can_go_on"] is not None
    report = learn_when_idle(learner, PLAN, NightPolicy(), sensors=QUIET)
    assert isinstance(report, NightReport)
    assert report.resumed
    assert sum(entry.kind == "reserve" for entry in learner.ledger.entries()) == 1


def test_its_own_load_does_not_stop_a_night(learner: Learner) -> None:
    readings = itertools.chain([0.1], itertools.repeat(9.0))
    made = learn_when_idle(
        learner, PLAN, NightPolicy(), sensors=replace(QUIET, load=lambda: next(readings)), watch_seconds=0
    )
    assert isinstance(made, NightReport)


def test_a_stop_of_the_caller_is_told_to_the_caller(learner: Learner) -> None:
    with pytest.raises(NightStoppedError):
        learn_when_idle(learner, PLAN, NightPolicy(), sensors=QUIET, stop=lambda: bool(learner.ledger.open_receipts()))
    assert last(learner)["outcome"] == "stopped"


def test_a_refusal_is_noted_with_its_reason(learner: Learner) -> None:
    learner.forget(everything=True)
    with pytest.raises(TrainingError):
        learn_noted(learner, PLAN, at=AT)
    assert last(learner)["ran"] is False
    assert last(learner)["why"] == "asked for now; 0 fresh records, a night needs 20; remember 20 more"


def test_a_policy_that_is_not_asked_is_caught(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    from personalize import nightly
    from personalize.schedule import Decision

    monkeypatch.setattr(nightly, "decide", lambda *args, **more: Decision(run=True))
    with pytest.raises(AssertionError):
        test_a_device_in_use_does_not_learn_charges_nothing_and_says_why(learner)
