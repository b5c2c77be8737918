"""A stream's shape in, the sensitivity and the noise of its matrix factorisation out.

A stream of clipped sums g is published as running totals A g, A the lower-triangular matrix of ones. With A = B C the
mechanism publishes B (C g + z): one Gaussian release of C g, however often a unit takes part and without any sampling.
C is the square root of A, cut to its first diagonals: lower-triangular, Toeplitz, with coefficients 1, 1/2, 3/8, ...

Valid for streams that react to earlier outputs. The unit of change is all contributions of one unit becoming zero, each
of norm at most the clip norm, at most `max_participations` of them, at least `min_separation` steps apart.

Sources: adaptive streams, arXiv:2202.08312, Theorem 2.1; square root and its bands, arXiv:2405.13763, Theorem 2
(sensitivity is reached by the earliest participations when coefficients do not grow); bands, arXiv:2306.08153.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["coefficients", "correlate", "mean_square_error", "sensitivity"]

Vector = NDArray[np.float64]


@lru_cache(maxsize=4)  # Up to 8 MB each.
def coefficients(steps: int, bands: int) -> Vector:
    """Return the first column of C: `steps` numbers, zero from `bands` on (read-only: it is cached).

    Coefficient k is binomial(2k, k) / 4^k.
    """
    terms = np.arange(1.0, bands)
    column = np.zeros(steps)
    column[:bands] = np.concatenate([[1.0], np.cumprod((2 * terms - 1) / (2 * terms))])
    column.flags.writeable = False
    return column


@lru_cache(maxsize=256)
def sensitivity(*, steps: int, bands: int, min_separation: int, max_participations: int) -> float:
    """Return the largest L2 change of C g over the clip norm (no unit) when one unit's contributions become zero.

    Args:
        steps: Length of the stream.
        bands: Diagonals of C that are kept, in [1, steps].
        min_separation: Fewest steps between two participations of one unit.
        max_participations: Most participations of one unit.
    """
    separation = min(min_separation, steps)
    rounds = -(-steps // separation)
    participations = min(max_participations, rounds)
    padded = np.zeros(rounds * separation)
    padded[:steps] = coefficients(steps, bands)
    # Row r, column t of the table is step r * separation + t; the sum of shifted columns is a windowed sum down rows.
    running = np.cumsum(padded.reshape(rounds, separation), axis=0)
    running[participations:] = running[participations:] - running[:-participations].copy()
    change = running.reshape(-1)[:steps]
    return float(np.sqrt(np.sum(change * change)))


def correlate(draws: Iterable[Vector], bands: int, steps: int) -> Iterator[Vector]:
    """Turn independent noise z into the noise of each step's sum, C^-1 z, holding `bands` past values.

    Args:
        draws: Independent Gaussian noise, one array a step, of std noise multiplier times clip norm.
        bands: Diagonals of C that are kept.
        steps: Length of the stream.
    """
    column = coefficients(steps, bands)[:bands]
    past: deque[Vector] = deque(maxlen=bands - 1)  # Newest first.
    for draw in draws:
        noise = draw - sum(weight * value for weight, value in zip(column[1:], past, strict=False))
        past.appendleft(noise)
        yield noise


def mean_square_error(*, steps: int, bands: int, min_separation: int, max_participations: int) -> float:
    """Return the mean variance of the running totals at noise multiplier 1 per sensitivity (in squared clip norms).

    What two factorisations are compared by: the mean squared row norm of B, times the squared sensitivity of C.
    """
    impulse = (np.array([1.0 if step == 0 else 0.0]) for step in range(steps))
    inverse = np.concatenate(list(correlate(impulse, bands, steps)))  # First column of C^-1.
    totals = np.cumsum(inverse)  # First column of B = A C^-1, which is Toeplitz too.
    row_norms = np.cumsum(totals * totals)
    worst = sensitivity(steps=steps, bands=bands, min_separation=min_separation, max_participations=max_participations)
    return float(row_norms.mean() * worst * worst)
