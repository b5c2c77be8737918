"""Figures get the intervals that closed forms and known tables give, and pairs are told apart better than strangers."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk.build.evaluate import interval
from sdk.build.evaluate.interval import difference, median, ratio, wilson


def test_a_share_gets_wilsons_interval() -> None:
    # Brown, Cai & DasGupta, Statistical Science 16 (2001): the score interval solves |p − 0.8| = z √(p(1−p)/10).
    found = wilson(8, 10)
    assert found.value == 0.8
    for end in (found.low, found.high):
        assert abs(end - 0.8) == pytest.approx(1.959963984540054 * (end * (1 - end) / 10) ** 0.5, rel=1e-9)
    assert found == ratio([1] * 8 + [0] * 2, [1] * 10)


def test_a_share_of_nothing_or_all_is_not_certain() -> None:
    assert (wilson(0, 35).low, wilson(35, 35).high) == (0.0, 1.0)
    assert wilson(0, 35).high == pytest.approx(1.959963984540054**2 / (35 + 1.959963984540054**2))
    assert wilson(35, 35).low == pytest.approx(1 - wilson(0, 35).high)


def test_a_ratio_is_of_sums_and_its_interval_is_about_its_standard_error() -> None:
    rng = np.random.default_rng(0)
    bottoms = rng.integers(200, 1000, 300).astype(float)
    tops = bottoms * rng.normal(1.2, 0.1, 300)
    found = ratio(tops.tolist(), bottoms.tolist())
    assert found is not None
    assert found.value == pytest.approx(tops.sum() / bottoms.sum())
    # Delta method: variance of a ratio of sums is that of its residuals over the squared sum.
    error = np.sqrt(((tops - found.value * bottoms) ** 2).sum()) / bottoms.sum()
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_items_that_do_not_count_change_nothing_and_none_that_count_give_no_figure() -> None:
    assert ratio([1, 0, 5], [1, 1, 0]) == wilson(1, 2)
    assert ratio([0, 0], [0, 0]) is None
    assert difference(([0], [0]), ([1], [1])) is None
    assert median([]) is None


@given(st.lists(st.tuples(st.floats(0.1, 9), st.floats(0.5, 5)), min_size=2, max_size=30))
def test_a_figure_lies_in_its_interval_up_to_skew(pairs: list[tuple[float, float]]) -> None:
    found = ratio([top for top, _ in pairs], [bottom for _, bottom in pairs])
    assert found is not None
    shares = [top / bottom for top, bottom in pairs]
    assert min(shares) - 1e-9 <= found.low <= found.high <= max(shares) + 1e-9
    assert min(shares) - 1e-9 <= found.value <= max(shares) + 1e-9


def test_the_same_items_twice_differ_by_exactly_nothing() -> None:
    scores = ([1.5, 2.5, 0.5], [1.0, 2.0, 3.0])
    found = difference(scores, scores)
    assert found is not None
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_a_small_steady_gain_is_seen_in_pairs_and_not_between_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(3)
    other = [draw.gauss(1.5, 0.4) for _ in range(100)]
    mine = [value - 0.02 + draw.gauss(0, 0.01) for value in other]
    ones = [1.0] * 100
    found = difference((mine, ones), (other, ones))
    assert found is not None
    assert -0.03 < found.low < found.high < -0.01
    honest = interval.resampled

    def apart(count: int, *sums: interval.Vector, seed: int = 0) -> list[interval.Vector]:
        return [*honest(count, *sums[:2], seed=1), *honest(count, *sums[2:], seed=2)]

    monkeypatch.setattr(interval, "resampled", apart)
    unpaired = difference((mine, ones), (other, ones))
    assert unpaired is not None
    assert unpaired.low < 0 < unpaired.high


def test_a_median_of_one_measurement_has_no_width() -> None:
    found = median([3.0])
    assert found is not None
    assert (found.value, found.low, found.high, found.items) == (3.0, 3.0, 3.0, 1)
