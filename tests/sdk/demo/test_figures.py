"""Places of bars, dots and bins follow from the numbers by arithmetic that can be done by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk.demo.figures import Axis, bars, dots, histogram, mean_with_interval

values = st.floats(min_value=-1e6, max_value=1e6, allow_nan=False)


def test_an_axis_places_its_ends_inside_the_margin_and_its_middle_in_the_middle() -> None:
    axis = Axis(low=2.0, high=6.0, margin=5.0)
    assert [axis.place(value) for value in (2.0, 4.0, 6.0)] == [5.0, 50.0, 95.0]


def test_what_lies_outside_an_axis_is_drawn_at_its_end() -> None:
    axis = Axis(low=0.0, high=1.0, margin=4.0)
    assert (axis.place(-3.0), axis.place(7.0)) == (4.0, 96.0)


def test_ticks_are_round_and_inside() -> None:
    assert Axis(low=0.97, high=1.36).ticks == [1.0, 1.1, 1.2, 1.3]
    assert Axis(low=-0.5, high=1.3).ticks == [-0.5, 0.0, 0.5, 1.0]


@given(found=st.lists(values, min_size=1, max_size=20))
def test_an_axis_around_values_holds_them_all_and_has_some_ticks(found: list[float]) -> None:
    axis = Axis.around(found, margin=4.0)
    assert axis.low < min(found)
    assert max(found) < axis.high
    assert 1 <= len(axis.ticks) <= 12


def test_bars_start_at_zero_and_share_one_scale_with_their_whiskers() -> None:
    first, second = bars([2.0, 1.0], [(1.5, 4.0), None])
    assert (first.width, second.width) == (50.0, 25.0)
    assert first.whisker == (37.5, 100.0)
    assert second.whisker is None


def test_bars_of_zero_have_no_width() -> None:
    assert [bar.width for bar in bars([0.0, 0.0], [None, None])] == [0.0, 0.0]


def test_dots_stand_where_the_axis_says() -> None:
    (dot,) = dots(Axis(low=0.0, high=10.0), [2.5], [(1.0, 3.0)])
    assert (dot.x, dot.whisker) == (25.0, (10.0, 30.0))


def test_a_histogram_counts_by_hand() -> None:
    edges, counts = histogram([-0.4, 0.1, 0.1, 0.6, 1.2])
    assert edges == [-0.5, 0.0, 0.5, 1.0, 1.5]
    assert counts == [1, 2, 1, 1]


@given(found=st.lists(values, min_size=1, max_size=200))
def test_a_histogram_loses_no_value_and_has_zero_among_its_edges(found: list[float]) -> None:
    edges, counts = histogram(found)
    assert sum(counts) == len(found)
    assert 0.0 in edges
    assert len(edges) == len(counts) + 1 <= 64


def test_the_interval_of_a_mean_is_the_textbook_one() -> None:
    found = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]
    mean, interval = mean_with_interval(found)
    half = 1.96 * math.sqrt(55 / 6) / math.sqrt(10)  # Sample variance of 1..10 is 55/6.
    assert mean == 5.5
    assert interval == pytest.approx((5.5 - half, 5.5 + half))


def test_fewer_than_ten_values_have_a_mean_but_no_interval() -> None:
    assert mean_with_interval([1.0, 3.0]) == (2.0, None)
