"""A written mechanism in, what dp-accounting makes of it out: its divergence at one order, between two bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import rdp_privacy_accountant as google_rdp

from privacy.errors import ExportError
from privacy.verify.text import positive, whole

__all__ = [
    "SENSITIVITY",
    "TOLERANCE",
    "Mechanism",
    "compare",
    "divergence",
    "fits_a_grid",
    "pld_epsilon",
    "read_mechanism",
]

TOLERANCE = 1e-6  # Relative: two implementations of the same series.
MAX_ORDER = 1024.0
MAX_STREAM = 1_000_000
SENSITIVITY = {"replace": 2.0, "zero_out": 1.0, "add_or_remove": 1.0}
_MIN_RATE = 1e-12
_MAX_BESIDE_GROUPS = 256  # The ledger states the RDP bound as the figure beside where a grid would take minutes:
_MAX_BESIDE_USES = 1_000_000  # too many mechanisms, too many uses of one, or one that may lose too many nats.
_MAX_BESIDE_LOSS = 300.0
_SERIES_SLACK = 1e-11  # Of a log-moment: dp-accounting drops terms below e^-30, and rounds log-binomials of size 1e3.
_ROUNDING = 1e-15  # Of a divergence that is computed as the difference of numbers near 1.
_TINY_PURE = 1e-4
_FAINT = 1e-8  # A log-moment below this is rounding noise in any series of the size of 1.
_RUNS = {
    "dp_sgd_run/1": {"noise_multiplier", "sampling_rate", "steps", "clip_norm"},
    "gaussian_release/1": {"noise_multiplier", "count"},
    "gate_release/1": {"noise_multiplier", "count"},
    "laplace_release/1": {"scale", "count"},
    "matrix_factorisation_run/1": {
        *("noise_multiplier", "steps", "bands", "min_separation", "max_participations", "clip_norm"),
    },
}
"""Fields of each mechanism, besides event, unit and neighbours. One more or less, and its meaning is not known here."""

Mechanism = tuple[str, float, float]
"""Name, noise over sensitivity, sampling rate."""


def read_mechanism(run: Mapping[str, Any]) -> tuple[Mechanism, int]:
    """Return what dp-accounting knows the run as, and how often it was used."""
    sensitivity = SENSITIVITY[run["neighbours"]]
    kind = run["event"]
    if kind not in _RUNS or set(run) != {"event", "unit", "neighbours", *_RUNS[kind]}:
        raise ExportError(f"an entry holds a mechanism that cannot be verified: {str(kind)[:40]}")
    if "clip_norm" in run:
        positive(run["clip_norm"])
    if kind == "dp_sgd_run/1":
        rate = positive(run["sampling_rate"], least=_MIN_RATE, most=1.0)
        if rate < 1 and sensitivity != 1:
            raise ExportError("an entry samples under replace, for which no bound is known")
        name = "gaussian" if rate == 1 else "sampled"
        return (name, positive(run["noise_multiplier"]) / sensitivity, rate), whole(run["steps"])
    if kind in ("gaussian_release/1", "gate_release/1"):
        return ("gaussian", positive(run["noise_multiplier"]) / sensitivity, 1.0), whole(run["count"])
    if kind == "laplace_release/1":
        return ("laplace", positive(run["scale"]) / sensitivity, 1.0), whole(run["count"])
    if kind == "matrix_factorisation_run/1" and run["neighbours"] != "add_or_remove":
        return ("gaussian", positive(run["noise_multiplier"]) / sensitivity / _stream_sensitivity(run), 1.0), 1
    raise ExportError(f"an entry holds a mechanism that cannot be verified: {str(kind)[:40]}")


def _stream_sensitivity(run: Mapping[str, Any]) -> float:
    """Sum the columns of the square root at the earliest participations (arXiv:2405.13763, Theorem 2)."""
    steps, bands, apart = whole(run["steps"]), whole(run["bands"]), whole(run["min_separation"])
    if not bands <= steps <= MAX_STREAM:
        raise ExportError(f"an entry holds a stream of {str(steps)[:20]} steps, which no device makes")
    column = [1.0]
    while len(column) < steps:
        column.append(column[-1] * (2 * len(column) - 1) / (2 * len(column)) if len(column) < bands else 0.0)
    change, expired = list(column), apart * whole(run["max_participations"])
    for step in range(apart, steps):
        change[step] += change[step - apart] - (column[step - expired] if step >= expired else 0.0)
    return math.sqrt(math.fsum(value * value for value in change))


def _event(mechanism: Mechanism, uses: int) -> dp_event.DpEvent:
    name, noise, rate = mechanism
    one: dp_event.DpEvent = dp_event.LaplaceDpEvent(noise) if name == "laplace" else dp_event.GaussianDpEvent(noise)
    if name == "sampled":
        one = dp_event.PoissonSampledDpEvent(rate, one)
    return dp_event.SelfComposedDpEvent(one, uses)


@lru_cache(maxsize=100_000)
def divergence(mechanism: Mechanism, order: float) -> tuple[float, float]:
    """Return the least and the largest Renyi divergence that one use may be charged with at one order.

    They differ by what dp-accounting leaves open. It rounds; and at fractional orders it cuts its series, overshoots or
    gives up, so there the log-moment is also bounded by the chord between the whole orders around: it is convex.
    """
    if not 1 < order <= MAX_ORDER:
        raise ExportError(f"order {order} is not one that the ledger uses")
    found = _google_divergence(mechanism, order)
    if mechanism[0] == "gaussian":
        return found, found
    if mechanism[0] == "laplace":  # Of a tiny pure epsilon only the bound order eps^2 / 2 survives rounding.
        pure = 1 / mechanism[1]
        return found - _ROUNDING, (order / 2 * pure * pure if pure < _TINY_PURE else found) + _ROUNDING
    slack = _SERIES_SLACK / (order - 1)
    if order == int(order):
        return found - slack, found + slack
    bound = _log_moment_bound(mechanism, order) / (order - 1)
    if math.isfinite(found) and found * (order - 1) > _FAINT:
        return min(found, bound) - slack, min(found, bound) + slack
    below = math.floor(order)
    return min(_google_divergence(mechanism, below) if below > 1 else 0.0, bound) - slack, bound + slack


def _log_moment_bound(mechanism: Mechanism, order: float) -> float:
    """Bound the log-moment at a fractional order by the chord between the whole ones, and by that of a mixture."""
    _, noise, rate = mechanism
    below, above = math.floor(order), math.floor(order) + 1
    ends = [(whole - 1) * _google_divergence(mechanism, whole) if whole > 1 else 0.0 for whole in (below, above)]
    chord = (above - order) * ends[0] + (order - below) * ends[1]
    lift = order * (order - 1) / 2 / noise / noise
    return min(chord, math.log1p(rate * math.expm1(lift))) if lift < 700 else chord


def _google_divergence(mechanism: Mechanism, order: float) -> float:
    accountant = google_rdp.RdpAccountant([order])
    accountant.compose(_event(mechanism, 1))
    return float(accountant.rdp[0])


def fits_a_grid(groups: Mapping[Mechanism, int]) -> bool:
    """Tell whether a loss grid can hold these mechanisms; otherwise the RDP bound stands for both figures."""
    gridded = {mechanism: uses for mechanism, uses in groups.items() if mechanism[0] != "gaussian"}
    if not gridded:
        return True  # One Gaussian, whatever their number.
    reach = max(1 / noise if name == "laplace" else 0.5 / noise / noise + 10 / noise for name, noise, _ in gridded)
    fits = max(gridded.values()) <= _MAX_BESIDE_USES and len(groups) <= _MAX_BESIDE_GROUPS
    return fits and reach <= _MAX_BESIDE_LOSS


@lru_cache(maxsize=1024)
def pld_epsilon(groups: frozenset[tuple[Mechanism, int]], delta: float) -> float:
    """Return the epsilon (nats) of these mechanisms together, by privacy loss distributions."""
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    for mechanism, uses in sorted(groups):
        accountant.compose(_event(mechanism, uses))
    return float(accountant.get_epsilon(delta))


def compare(groups: Mapping[Mechanism, int], order: float, delta: float, claimed: float, what: str) -> None:
    """Refuse a claimed epsilon that is not what `groups` cost at `order`."""
    ranges = [(uses, divergence(mechanism, float(order))) for mechanism, uses in groups.items()]
    least, most = (
        float(google_rdp.compute_epsilon([order], [max(0.0, math.fsum(n * r[end] for n, r in ranges))], delta)[0])
        for end in (0, 1)
    )
    if not least - TOLERANCE * max(least, 1e-3) <= claimed <= most + TOLERANCE * max(most, 1e-3):
        raise ExportError(f"the epsilon of {what} is {most:.6f}, the export claims {claimed:.6f}")
