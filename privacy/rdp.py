"""A mechanism in, its Renyi divergence at fixed orders out; and a curve of divergences in, epsilon out.

Rules:
    1. The grid of orders is fixed and versioned: an epsilon is comparable with another only on the same grid.
    2. Every figure is an upper bound, never negative and never NaN; where a series fails, a proven bound replaces it.

Sources: sampled Gaussian: Mironov, Talwar, Zhang 2019 (arXiv:1908.10530), sections 3.3 (integer and fractional orders);
Laplace: Mironov 2017 (arXiv:1702.07476), Proposition 6.
Conversion: Canonne, Kamath, Steinke 2020 (arXiv:2004.00010), Proposition 12.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, log_ndtr

__all__ = [
    "ORDERS",
    "ORDERS_VERSION",
    "best_order",
    "epsilon_at_orders",
    "epsilon_from_rdp",
    "gaussian",
    "headroom_at_orders",
    "laplace",
    "sampled_gaussian",
]

Curve = NDArray[np.float64]
"""Renyi divergences in nats, one for each of `ORDERS`."""

ORDERS_VERSION = 1
ORDERS: tuple[float, ...] = (
    1.05,
    *(1.0 + tenth / 10 for tenth in range(1, 20)),  # 1.1 to 2.9: the best order when epsilon is large.
    *(3.0 + quarter / 4 for quarter in range(28)),  # 3 to 9.75: epsilon between 1 and 10 at delta 1e-5.
    *(float(order) for order in range(10, 65)),
    *(72.0, 80.0, 96.0, 112.0, 128.0, 160.0, 192.0, 224.0, 256.0, 320.0, 384.0, 448.0, 512.0, 640.0, 768.0, 1024.0),
)

_ALPHA: Curve = np.array(ORDERS)
_WHOLE = np.flatnonzero(_ALPHA % 1 == 0)
_BROKEN = np.flatnonzero(_ALPHA % 1 != 0)
_FIRST_TERMS = 16  # Most series end inside the first chunk; later chunks double.
_MAX_TERMS = 1024  # A series that has not settled by then is replaced by the convexity bound.
_SETTLED = 30.0  # Nats below the total at which a term no longer matters (1e-13).
_SILENT = 1e-3  # Less noise than this proves nothing at any order (divergence above 500,000), and overflows the series.
_FAINT = 1e-8  # Below this log-moment, rounding in the fractional series is visible; the convexity bound is used.


def gaussian(noise_multiplier: float) -> Curve:
    """Return the curve of one Gaussian release: order / (2 sigma^2).

    Source: arXiv:1702.07476, Corollary 3.
    """
    with np.errstate(over="ignore"):
        return _ALPHA / 2 / noise_multiplier / noise_multiplier


def laplace(scale: float) -> Curve:
    """Return the curve of one Laplace release whose noise scale is `scale` times the L1 sensitivity.

    Source: arXiv:1702.07476, Proposition 6; never above min(eps, order eps^2 / 2) (arXiv:1605.02065, Prop. 3.3).
    """
    pure = 1 / scale
    with np.errstate(over="ignore", invalid="ignore"):
        bound = np.minimum(pure, _ALPHA / 2 * pure * pure)
        weight = (_ALPHA - 1) / (2 * _ALPHA - 1)
        exact = pure + np.log1p(weight * np.expm1(pure * (1 - 2 * _ALPHA))) / (_ALPHA - 1)
    # For tiny eps the exact form cancels to rounding noise; the bound is then tight to first order.
    return bound if pure < 1e-4 else np.fmin(np.maximum(exact, 0.0), bound)


@lru_cache(maxsize=4096)
def sampled_gaussian(sampling_rate: float, noise_multiplier: float) -> Curve:
    """Return the curve of one Gaussian release over a Poisson sample (read-only: it is cached).

    Args:
        sampling_rate: Chance that one unit is in the sample, in (0, 1].
        noise_multiplier: Std of the noise over the sensitivity, > 0.

    Source: arXiv:1908.10530, section 3.3. Whole orders sum A - 1 term by term, so tiny divergences keep full precision.
    """
    if sampling_rate == 1:
        curve = gaussian(noise_multiplier)
    elif noise_multiplier < _SILENT:
        curve = np.full(len(ORDERS), np.inf)
    else:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            log_moments = np.full(len(ORDERS), np.inf)
            log_moments[_WHOLE] = _log_moments_whole(sampling_rate, noise_multiplier)
            series = _log_moments_broken(sampling_rate, noise_multiplier)
            fallback = np.fmin(_chord(log_moments[_WHOLE]), _mixture_bound(sampling_rate, noise_multiplier))
            usable = np.isfinite(series) & (series > _FAINT)
            log_moments[_BROKEN] = np.fmin(np.where(usable, series, np.inf), fallback)
        curve = np.where(np.isnan(log_moments), np.inf, np.maximum(log_moments, 0.0)) / (_ALPHA - 1)
    curve.flags.writeable = False
    return curve


def epsilon_at_orders(curve: Curve, delta: float) -> Curve:
    """Return for each order the epsilon (nats) that its divergence alone proves at `delta`.

    Source: arXiv:2004.00010, Proposition 12; epsilon 0 where delta >= sqrt(1 - exp(-divergence)) (Bretagnolle-Huber).
    """
    proven = curve + np.log1p(-1 / _ALPHA) - (math.log(delta) + np.log(_ALPHA)) / (_ALPHA - 1)
    free = delta * delta + np.expm1(-curve) > 0
    return np.where(free, 0.0, np.maximum(proven, 0.0))


def epsilon_from_rdp(curve: Curve, delta: float) -> float:
    """Return the smallest epsilon (nats) that any order of `curve` proves at `delta`; infinite when none does."""
    return best_order(curve, delta)[0]


def best_order(curve: Curve, delta: float) -> tuple[float, float]:
    """Return the smallest epsilon (nats) that `curve` proves at `delta`, and the order that proves it."""
    proved = epsilon_at_orders(curve, delta)
    index = int(np.argmin(proved))
    return float(proved[index]), ORDERS[index]


def headroom_at_orders(epsilon: float, delta: float) -> Curve:
    """Return for each order the divergence that fits (`epsilon`, `delta`); negative where it is useless."""
    return epsilon - np.log1p(-1 / _ALPHA) + (math.log(delta) + np.log(_ALPHA)) / (_ALPHA - 1)


@lru_cache(maxsize=1)
def _whole_terms() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.intp]]:
    """Flat tables over all whole orders: log binomials, successes, failures, and where each order starts."""
    orders = [int(_ALPHA[index]) for index in _WHOLE]
    successes = np.concatenate([np.arange(2.0, order + 1) for order in orders])
    alpha = np.concatenate([np.full(order - 1, float(order)) for order in orders])
    starts = np.cumsum([0, *(order - 1 for order in orders[:-1])])
    log_binomial = gammaln(alpha + 1) - gammaln(successes + 1) - gammaln(alpha - successes + 1)
    return log_binomial, successes, alpha - successes, starts


def _log_moments_whole(sampling_rate: float, noise_multiplier: float) -> Curve:
    """Return log A at every whole order, from A - 1 = sum over i >= 2 of Binomial(i) expm1((i^2 - i) / (2 sigma^2))."""
    log_binomial, successes, failures, starts = _whole_terms()
    lift = successes * (successes - 1) / 2 / noise_multiplier / noise_multiplier
    terms = log_binomial + successes * math.log(sampling_rate) + failures * math.log1p(-sampling_rate)
    terms = terms + lift + np.log(-np.expm1(-lift))
    largest = np.maximum.reduceat(terms, starts)
    counts = np.diff(np.append(starts, len(terms)))
    total = np.add.reduceat(np.exp(terms - np.repeat(largest, counts)), starts)
    return np.asarray(np.logaddexp(0.0, largest + np.log(total)))


@lru_cache(maxsize=1)
def _broken_terms() -> NDArray[np.float64]:
    """Log of the absolute binomial coefficients (order over term): shape (broken orders, terms)."""
    alpha = _ALPHA[_BROKEN][:, None]
    term = np.arange(float(_MAX_TERMS))[None, :]
    return np.asarray(gammaln(alpha + 1) - gammaln(term + 1) - gammaln(alpha - term + 1))


def _log_moments_broken(sampling_rate: float, noise_multiplier: float) -> Curve:
    """Return log A at every fractional order, infinite where the series does not settle.

    Coefficients enter by absolute value, which can only raise the sum: an upper bound, as in dp_accounting.
    """
    alpha = _ALPHA[_BROKEN]  # (orders,)
    log_rate, log_rest = math.log(sampling_rate), math.log1p(-sampling_rate)
    cut = noise_multiplier**2 * (log_rest - log_rate) + 0.5  # Where both densities of the mixture weigh the same.
    total = np.full(len(alpha), -np.inf)
    result = np.full(len(alpha), np.inf)
    pending = np.arange(len(alpha))
    start, stop = 0, _FIRST_TERMS
    while len(pending) and start < _MAX_TERMS:
        low = np.arange(float(start), float(stop))[None, :]  # (1, terms)
        high = alpha[pending][:, None] - low  # (orders, terms)
        log_binomial = _broken_terms()[pending, start:stop]
        below = log_binomial + low * log_rate + high * log_rest + _lift(low, noise_multiplier)
        below = below + log_ndtr((cut - low) / noise_multiplier)
        above = log_binomial + high * log_rate + low * log_rest + _lift(high, noise_multiplier)
        above = above + log_ndtr((high - cut) / noise_multiplier)
        larger = np.maximum(below, above)
        total[pending] = np.logaddexp(total[pending], _log_sum(below, above, larger.max(axis=1)))
        settled = (larger[:, -1] < larger[:, -2]) & (larger[:, -1] < total[pending] - _SETTLED)
        result[pending[settled]] = total[pending[settled]]
        pending = pending[~settled]
        start, stop = stop, min(2 * stop, _MAX_TERMS)
    return result


def _log_sum(below: Curve, above: Curve, largest: Curve) -> Curve:
    """Return log of the row sums of exp(below) + exp(above), scaled by the largest term of each row."""
    shift = largest[:, None]
    return np.asarray(largest + np.log((np.exp(below - shift) + np.exp(above - shift)).sum(axis=1)))


def _lift(count: NDArray[np.floating[Any]], noise_multiplier: float) -> NDArray[np.float64]:
    return np.asarray(count * (count - 1) / 2 / noise_multiplier / noise_multiplier)


def _chord(log_moments_whole: Curve) -> Curve:
    """Bound log A at fractional orders by the chord between whole ones: it is a cumulant function, hence convex."""
    bound = np.interp(_ALPHA[_BROKEN], np.append(1.0, _ALPHA[_WHOLE]), np.append(0.0, log_moments_whole))
    return np.where(np.isnan(bound), np.inf, bound)


def _mixture_bound(sampling_rate: float, noise_multiplier: float) -> Curve:
    """Bound log A at fractional orders by that of a mixture: the order-th power is convex in the sampled density."""
    return np.asarray(np.log1p(sampling_rate * np.expm1(_lift(_ALPHA[_BROKEN], noise_multiplier))))
