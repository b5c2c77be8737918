"""Sensitivity against every participation pattern of small streams and closed forms; noise that is correlated."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from privacy.accounting import epsilon, gaussian_epsilon
from privacy.events import MatrixFactorisationRun, Neighbours
from privacy.matrix_factorisation import coefficients, correlate, mean_square_error, sensitivity


def toeplitz(column: NDArray[np.float64]) -> NDArray[np.float64]:
    steps = len(column)
    return np.array([[column[i - j] if i >= j else 0.0 for j in range(steps)] for i in range(steps)])


def brute_force(steps: int, bands: int, apart: int, most: int) -> float:
    """Try every set of participations: all contributions equal is the worst, for C has no negative entry."""
    factor, worst = toeplitz(coefficients(steps, bands)), 0.0
    for count in range(1, most + 1):
        for chosen in itertools.combinations(range(steps), count):
            if all(later - earlier >= apart for earlier, later in itertools.pairwise(chosen)):
                worst = max(worst, float(np.linalg.norm(factor[:, list(chosen)].sum(axis=1))))
    return worst


@given(st.integers(1, 10), st.integers(1, 10), st.integers(1, 11), st.integers(1, 11))
@settings(deadline=None, max_examples=120)
def test_sensitivity_is_that_of_the_worst_participation_pattern(steps: int, bands: int, apart: int, most: int) -> None:
    bands = min(bands, steps)
    found = sensitivity(steps=steps, bands=bands, min_separation=apart, max_participations=most)
    assert found == pytest.approx(brute_force(steps, bands, apart, min(most, steps)), rel=1e-12)


def test_the_factor_is_the_square_root_of_the_matrix_of_ones() -> None:
    factor = toeplitz(coefficients(12, 12))
    assert factor @ factor == pytest.approx(np.tril(np.ones((12, 12))), abs=1e-12)
    assert coefficients(4, 4) == pytest.approx([1, 1 / 2, 3 / 8, 5 / 16])
    assert coefficients(4, 2) == pytest.approx([1, 1 / 2, 0, 0])


def test_one_participation_costs_the_norm_of_the_first_column() -> None:
    exact = math.sqrt(sum((math.comb(2 * k, k) / 4**k) ** 2 for k in range(50)))
    assert sensitivity(steps=50, bands=50, min_separation=50, max_participations=1) == pytest.approx(exact, rel=1e-12)


def test_bands_narrower_than_the_separation_cost_the_root_of_the_participations() -> None:
    """Columns that far apart do not overlap: arXiv:2306.08153."""
    one = sensitivity(steps=100, bands=8, min_separation=10, max_participations=1)
    assert sensitivity(steps=100, bands=8, min_separation=10, max_participations=4) == pytest.approx(2 * one, rel=1e-12)


def test_one_band_is_dp_sgd_without_sampling() -> None:
    shape = {"steps": 30, "bands": 1, "min_separation": 10}
    assert sensitivity(**shape, max_participations=3) == pytest.approx(math.sqrt(3))
    run = MatrixFactorisationRun(noise_multiplier=5.0, steps=30, bands=1, min_separation=10, max_participations=3)
    assert epsilon(run, delta=1e-5) == pytest.approx(gaussian_epsilon(5 / math.sqrt(3), 1e-5), rel=1e-9)


@pytest.mark.parametrize(("steps", "bands"), [(1, 1), (9, 1), (9, 4), (9, 9)])
def test_correlated_noise_is_the_inverse_of_the_factor_times_independent_noise(steps: int, bands: int) -> None:
    draws = np.random.default_rng(0).normal(size=(steps, 3))
    noise = np.array(list(correlate(iter(draws), bands, steps)))
    assert toeplitz(coefficients(steps, bands)) @ noise == pytest.approx(draws, abs=1e-12)


def test_correlated_noise_makes_running_totals_far_less_noisy() -> None:
    shape = {"steps": 256, "min_separation": 64, "max_participations": 4}
    independent, correlated = (mean_square_error(bands=bands, **shape) for bands in (1, 64))
    assert independent == pytest.approx(4 * 257 / 2)
    assert correlated < independent / 10


def test_the_error_is_that_of_the_explicit_matrices() -> None:
    steps, bands = 12, 5
    factor = toeplitz(coefficients(steps, bands))
    other = np.tril(np.ones((steps, steps))) @ np.linalg.inv(factor)
    worst = brute_force(steps, bands, 3, 4)
    expected = (other**2).sum() / steps * worst**2
    found = mean_square_error(steps=steps, bands=bands, min_separation=3, max_participations=4)
    assert found == pytest.approx(expected, rel=1e-9)


def test_replacing_a_unit_doubles_the_change() -> None:
    shape = {"steps": 20, "bands": 5, "min_separation": 5, "max_participations": 4}
    replaced = MatrixFactorisationRun(noise_multiplier=16.0, neighbours=Neighbours.REPLACE, **shape)  # type: ignore[arg-type]
    assert epsilon(replaced, delta=1e-5) == pytest.approx(
        epsilon(MatrixFactorisationRun(noise_multiplier=8.0, **shape), delta=1e-5)  # type: ignore[arg-type]
    )


def test_a_stream_of_a_million_steps_is_fast() -> None:
    shape = {"steps": 1_000_000, "bands": 1_000_000, "min_separation": 1000, "max_participations": 500}
    assert 0 < epsilon(MatrixFactorisationRun(noise_multiplier=1000.0, **shape), delta=1e-5) < 20  # type: ignore[arg-type]
