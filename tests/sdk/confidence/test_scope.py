"""States that lie elsewhere are farther away than those that lie where they should, in the directions that matter."""

import numpy as np
import pytest

from sdk.confidence.calibration import auroc
from sdk.confidence.scope import Scope
from sdk.errors import RouterError

RNG = np.random.default_rng(0)
SCALES = np.array([10.0, 1.0, 0.1])
CENTERS = np.array([[0.0, 0, 0], [5, 5, 0]])


def drawn(count: int) -> tuple[np.ndarray, list[str]]:
    place = RNG.integers(0, 2, count)
    return CENTERS[place] + RNG.normal(size=(count, 3)) * SCALES, [str(one) for one in place]


def test_a_small_step_in_a_tight_direction_is_stranger_than_a_large_one_in_a_wide_direction() -> None:
    scope = Scope.fit(*drawn(2000))
    tight, wide = scope.distances(np.array([[0.0, 0, 1.0], [10.0, 0, 0]]))
    assert tight == pytest.approx(10, rel=0.2)
    assert wide == pytest.approx(1, rel=0.3)


def test_what_lies_elsewhere_is_told_from_what_lies_where_it_should() -> None:
    scope = Scope.fit(*drawn(2000))
    inside, _ = drawn(300)
    outside = inside + np.array([0, 0, 0.5])
    told = scope.distances(np.concatenate([inside, outside]))
    found = auroc(told.tolist(), [False] * 300 + [True] * 300)
    assert found is not None
    assert found > 0.95


def test_what_is_odd_whatever_is_asked_for_counts_in_the_distance_and_not_in_the_strangeness() -> None:
    scope = Scope.fit(*drawn(4000))
    usual, odd = (
        np.array([[0.0, 0, 0]]),
        np.array([[60.0, 0, 0]]),
    )  # Along a direction that is the same for all classes.
    neither = np.array([[2.5, -5.0, 0.0]])  # As far from both classes, where no request lies between.
    assert scope.distances(odd) > scope.distances(usual) + 4
    assert scope.strangeness(odd) < scope.strangeness(neither)
    assert scope.strangeness(neither) > scope.strangeness(usual)


def test_too_few_requests_or_a_state_that_is_no_number_are_refused() -> None:
    with pytest.raises(RouterError, match="too little"):
        Scope.fit(np.zeros((3, 2)), ["a", "b", "c"])
    with pytest.raises(RouterError, match="non-finite"):
        Scope.fit(np.full((4, 2), np.nan), ["a", "a", "b", "b"])
