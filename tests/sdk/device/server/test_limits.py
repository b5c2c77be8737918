"""Bounds that are bounds, and a rate that is kept whatever the clients do."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk.device.server.limits import Limits, Rate


@pytest.mark.parametrize(
    "bound",
    [{"at_once": 0}, {"waiting": -1}, {"answer_seconds": 0.0}, {"idle_seconds": math.nan}, {"wait_seconds": math.inf}],
)
def test_bounds_that_would_answer_nobody_are_refused(bound: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bound))):
        Limits(**bound)  # type: ignore[arg-type]


@given(per_minute=st.integers(1, 50), pauses=st.lists(st.floats(0, 20), min_size=1, max_size=60))
def test_no_minute_grants_more_than_twice_the_rate_and_waiting_as_told_is_enough(
    per_minute: int, pauses: list[float]
) -> None:
    now = 0.0
    rate, granted = Rate(per_minute, clock=lambda: now), []
    for pause in pauses:
        now += pause
        seconds = rate.take()
        if seconds == 0:
            granted.append(now)
        else:
            now += seconds + 1e-6
            assert rate.take() == 0
            granted.append(now)
    for first in granted:  # A full bucket and what flows into it in that minute.
        assert sum(first <= each < first + 60 for each in granted) <= 2 * per_minute + 1
