"""When a night may run: a table of devices, and the rule for what a sensor cannot tell."""

import re
from dataclasses import replace
from datetime import UTC, datetime, time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalize.errors import TrainingError
from personalize.schedule import Decision, NightPolicy, Snapshot, decide

POLICY = NightPolicy(window="22:00-06:00")
ASLEEP = Snapshot(
    at=datetime(2026, 11, 24, 3, 30, tzinfo=UTC),
    idle_minutes=45.0,
    charger=True,
    battery_percent=80.0,
    celsius=41.0,
    load=0.1,
    free_megabytes=5_000.0,
)


def test_a_laptop_that_sleeps_on_its_charger_may_learn() -> None:
    assert decide(POLICY, ASLEEP, learnable=24) == Decision(run=True)
    assert decide(POLICY, ASLEEP).why() == "idle, powered and cool enough"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"at": datetime(2026, 11, 24, 12, 5, tzinfo=UTC)}, "it is 12:05, outside 22:00-06:00"),
        ({"at": datetime(2026, 11, 24, 6, 0, tzinfo=UTC)}, "it is 06:00, outside 22:00-06:00"),
        ({"idle_minutes": 3.0}, "in use 3 minutes ago, idle means 10"),
        ({"idle_minutes": None}, "the idle time cannot be told on this machine; set idle_minutes=0 to go without it"),
        ({"charger": False}, "not on the charger"),
        ({"battery_percent": 49.0}, "battery at 49 %, less than 50 %"),
        ({"celsius": 91.0}, "91 °C, more than 80 °C"),
        ({"load": 0.75}, "load 0.75 a processor, more than 0.5"),
        ({"free_megabytes": 12.0}, "12 MB free, fewer than 200 MB"),
    ],
)
def test_one_thing_that_stands_against_it_is_enough_and_is_named(change: dict[str, Any], said: str) -> None:
    decision = decide(POLICY, replace(ASLEEP, **change))
    assert (decision.run, decision.against) == (False, (said,))


def test_all_that_stands_against_it_is_named() -> None:
    noon = replace(ASLEEP, at=datetime(2026, 11, 24, 12, 5, tzinfo=UTC), charger=False, celsius=91.0)
    assert len(decide(POLICY, noon, learnable=0).against) == 4


@pytest.mark.parametrize("name", ["charger", "battery_percent", "celsius", "load"])
def test_what_is_not_known_is_passed_over_and_named(name: str) -> None:
    nothing: dict[str, Any] = {name: None}
    decision = decide(POLICY, replace(ASLEEP, **nothing))
    assert decision.run
    assert decision.why() == f"idle, powered and cool enough (not known here: {name.replace('_percent', '')})"


def test_a_computer_without_a_battery_runs_on_mains() -> None:
    assert decide(POLICY, replace(ASLEEP, charger=None, battery_percent=None)).run


@pytest.mark.parametrize(
    ("setting", "change"),
    [
        ("idle_minutes=0", {"idle_minutes": 0.0}),
        ("idle-minutes=0", {"idle_minutes": None}),
        ("charger=no", {"charger": False}),
        ("battery_percent=10", {"battery_percent": 12.0}),
        ("celsius=95", {"celsius": 91.0}),
        ("load=2", {"load": 1.5}),
        ("free_megabytes=1", {"free_megabytes": 2.0}),
        ("window=00:00-24:00", {"at": datetime(2026, 11, 24, 12, 5, tzinfo=UTC)}),
    ],
)
def test_each_limit_can_be_moved(setting: str, change: dict[str, Any]) -> None:
    there = replace(ASLEEP, **change)
    assert not decide(POLICY, there).run
    assert decide(POLICY.changed([setting]), there).run


def test_a_running_night_is_not_stopped_by_its_own_load_room_or_budget() -> None:
    busy = replace(ASLEEP, load=3.0, free_megabytes=1.0)
    assert not decide(POLICY, busy, learnable=0).run
    assert decide(POLICY, busy, learnable=0, running=True).run
    changes: list[dict[str, Any]] = [
        {"charger": False},
        {"celsius": 99.0},
        {"idle_minutes": 0.0},
        {"battery_percent": 5.0},
    ]
    for change in changes:
        assert not decide(POLICY, replace(busy, **change), running=True).run


def test_nothing_to_learn_is_a_reason_not_to_begin() -> None:
    assert decide(POLICY, ASLEEP, learnable=0).against == ("too few fresh records that can pay for a night",)


@given(first=st.times(), last=st.times(), now=st.times())
def test_a_window_and_its_complement_share_the_day(first: time, last: time, now: time) -> None:
    first, last = (value.replace(second=0, microsecond=0) for value in (first, last))
    there = replace(ASLEEP, at=datetime.combine(ASLEEP.at.date(), now, tzinfo=UTC))
    inside = decide(NightPolicy(window=f"{first:%H:%M}-{last:%H:%M}"), there).run
    outside = decide(NightPolicy(window=f"{last:%H:%M}-{first:%H:%M}"), there).run
    assert inside != outside if first != last else inside


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("moon=full", "a policy has no 'moon'; it has idle_minutes, charger"),
        ("load=heavy", "load is a number, got 'heavy'"),
        ("load=0", "load above 0"),
        ("load=nan", "must be a number from 0 up, got nan"),
        ("battery_percent=120", "at most 100"),
        ("idle_minutes=-1", "from 0 up"),
        ("charger=maybe", "charger is yes or no, got 'maybe'"),
        ("window=night", "a window is HH:MM-HH:MM"),
        ("window=25:00-26:00", "a window is HH:MM-HH:MM"),
    ],
)
def test_a_policy_that_can_never_hold_is_refused(setting: str, said: str) -> None:
    with pytest.raises(TrainingError, match=re.escape(said)):
        POLICY.changed([setting])
