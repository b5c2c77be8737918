"""Events in, epsilon out; and the inverse: budget in, noise out.

Rules:
    1. Events are grouped by mechanism before anything is computed, so a million steps cost what one step costs.
    2. RDP enforces, because it stays sound when later runs react to earlier ones. PLD is tighter and stands beside it;
       it is valid only for runs that were fixed in advance. `VALIDITY` says so in words.
    3. Never negative, never NaN. Rounding is against the user: epsilon up, noise up.
    4. Figures for different units or neighbours are never added up.

Sources: RDP composition, arXiv:1702.07476, Prop. 1; PLD, arXiv:2207.04380 (pessimistic rounding) through dp_accounting;
Gaussian closed form, arXiv:1805.06530, Theorem 8.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from typing import Literal

import numpy as np
from scipy.special import log_ndtr, ndtr

from privacy import matrix_factorisation, rdp
from privacy.errors import AccountingError, EventError, shown
from privacy.events import (
    DpSgdRun,
    Event,
    GateRelease,
    GaussianRelease,
    LaplaceRelease,
    MatrixFactorisationRun,
    Neighbours,
    Unit,
)

__all__ = [
    "MAX_EVENTS",
    "VALIDITY",
    "Accountant",
    "Groups",
    "Mechanism",
    "check_delta",
    "curve_of",
    "epsilon",
    "epsilon_of",
    "gaussian_epsilon",
    "group",
    "noise_multiplier",
    "rdp_curve",
    "reduce",
]

Accountant = Literal["pld", "rdp"]

VALIDITY: dict[str, str] = {
    "rdp": "valid also when the parameters of a run depend on the results of earlier runs (privacy filter)",
    "pld": "valid when the parameters of all runs were fixed in advance; tighter than rdp",
}

MAX_EVENTS = 1_000_000  # Objects, not steps: more than this is a log, not a list of facts, and takes minutes to read.
_MAX_PLD_GROUPS = 256  # About 10 s of convolutions; beyond it the RDP bound is returned, which is also valid.
_MAX_PLD_USES = 1_000_000  # About 2 s; ten million take ten, and from 10^11 on dp_accounting never returns.
_MAX_PLD_EPSILON = 5_000.0  # Beyond it the loss grid no longer fits in memory and no figure means anything.
_NDTR_SLACK = 1e-15  # Of a probability: the difference of two near 1/2 rounds; it must not round towards the user.
_MAX_PLD_LOSS = 300.0  # Nats that one use may lose: 300,000 points of the coarse grid, about 4 s.
_MAX_FINE_LOSS = 50.0
_COARSE, _FINE = 1e-3, 1e-4  # Loss grid in nats; the fine one only where epsilon is below 1, where it shows.


@dataclass(frozen=True, order=True)
class Mechanism:
    """One use of one mechanism, reduced to what its privacy depends on."""

    name: Literal["gaussian", "laplace", "sampled_gaussian"]
    noise: float
    """Std (Gaussian) or scale (Laplace) of the noise, divided by the sensitivity under the neighbouring relation."""
    rate: float = 1.0
    """Poisson sampling rate."""

    def curve(self) -> rdp.Curve:
        """Return the Renyi divergence of one use at `rdp.ORDERS`."""
        if self.name == "laplace":
            return rdp.laplace(self.noise)
        return rdp.sampled_gaussian(self.rate, self.noise)


Groups = Counter[Mechanism]
"""How often each mechanism was used."""


def reduce(event: Event) -> tuple[Mechanism, int]:
    """Return the mechanism behind `event` and its number of uses.

    Raises:
        AccountingError: No sound bound is known for this mechanism under its neighbouring relation.
    """
    sensitivity = 2.0 if event.neighbours is Neighbours.REPLACE else 1.0
    if isinstance(event, DpSgdRun):
        if event.sampling_rate == 1:
            return Mechanism("gaussian", event.noise_multiplier / sensitivity), event.steps
        if event.neighbours is Neighbours.REPLACE:
            raise AccountingError(
                "Poisson sampling under neighbours=replace has no bound; use zero_out or the full batch (rate 1)"
            )
        return Mechanism("sampled_gaussian", event.noise_multiplier, event.sampling_rate), event.steps
    if isinstance(event, GaussianRelease | GateRelease):
        return Mechanism("gaussian", event.noise_multiplier / sensitivity), event.count
    if isinstance(event, LaplaceRelease):
        return Mechanism("laplace", event.scale / sensitivity), event.count
    if isinstance(event, MatrixFactorisationRun):
        if event.neighbours is Neighbours.ADD_OR_REMOVE:
            raise AccountingError("a stream under neighbours=add_or_remove would shift every later step; use zero_out")
        return Mechanism("gaussian", event.noise_multiplier / sensitivity / _stream_sensitivity(event)), 1
    raise AccountingError(f"no accounting for {type(event).__name__}; it cannot be charged, so it must not run")


def _stream_sensitivity(event: MatrixFactorisationRun) -> float:
    return matrix_factorisation.sensitivity(
        steps=event.steps,
        bands=event.bands,
        min_separation=event.min_separation,
        max_participations=event.max_participations,
    )


def group(events: Event | Iterable[Event]) -> Groups:
    """Count the uses of each mechanism in `events`.

    Raises:
        EventError: Something is not an event, there are more than `MAX_EVENTS`, or units or neighbours differ.
        AccountingError: No sound bound is known for one of them.
    """
    listed = [events] if isinstance(events, Event) else _take(events)
    relations = {(event.unit, event.neighbours) for event in listed}
    if len(relations) > 1:
        named = sorted(f"{unit.value}/{neighbours.value}" for unit, neighbours in relations)
        raise EventError(f"events speak of different units or neighbours ({', '.join(named)}); account for each apart")
    counted: Groups = Counter()
    for event, times in Counter(listed).items():
        mechanism, uses = reduce(event)
        counted[mechanism] += uses * times
    return counted


def _take(events: Iterable[Event]) -> list[Event]:
    try:
        listed = list(itertools.islice(events, MAX_EVENTS + 1))
    except TypeError as cause:
        raise EventError(f"events must be an event or an iterable of events, got {type(events).__name__}") from cause
    if len(listed) > MAX_EVENTS:
        raise EventError(f"more than {MAX_EVENTS} events; write equal ones as one event with steps or count")
    for event in listed:
        if not isinstance(event, Event):
            raise EventError(f"events must be privacy events, got {type(event).__name__}")
    return listed


def rdp_curve(events: Event | Iterable[Event]) -> rdp.Curve:
    """Return the Renyi divergence (nats) of all `events` together, at `rdp.ORDERS`."""
    return curve_of(group(events))


def curve_of(groups: Groups) -> rdp.Curve:
    """Return the Renyi divergence (nats) of grouped events together, at `rdp.ORDERS`."""
    total = np.zeros(len(rdp.ORDERS))
    with np.errstate(over="ignore"):
        for mechanism in sorted(groups):  # A fixed order of addition, so the order of the events cannot show.
            total = total + groups[mechanism] * mechanism.curve()
    return total


def epsilon(
    events: Event | Iterable[Event],
    *,
    delta: float,
    accountant: Accountant = "pld",
    records: int | None = None,
) -> float:
    """Return the smallest epsilon (nats) that is proved for `events` together at `delta`.

    Args:
        events: One event, or any number with the same unit and neighbours; none gives 0.
        delta: Probability that the bound fails, in (0, 1).
        accountant: "pld" (tight; runs fixed in advance) or "rdp" (what the ledger enforces).
        records: Number of units in the data, where it is public; delta must not exceed 1 / records.

    Returns:
        Epsilon >= 0 for the unit and neighbours of the events; infinite when there is no guarantee.

    Raises:
        EventError: The events do not belong together.
        AccountingError: delta is impossible or above 1 / records, or a mechanism has no sound bound.
    """
    check_delta(delta, records)
    return epsilon_of(group(events), delta, accountant)


def epsilon_of(groups: Groups, delta: float, accountant: Accountant) -> float:
    """Return the same as `epsilon` for events that were grouped before, of one unit and relation.

    Raises:
        AccountingError: delta is impossible, or the accountant unknown.
    """
    check_delta(delta)
    if not groups:
        return 0.0
    enforced = rdp.epsilon_from_rdp(curve_of(groups), delta)
    if not isinstance(accountant, str):
        raise AccountingError(f'accountant must be "pld" or "rdp", got {shown(accountant)}')
    if accountant not in ("pld", "rdp"):
        raise AccountingError(f'accountant must be "pld" or "rdp", got {shown(accountant)}')
    return enforced if accountant == "rdp" else min(enforced, _epsilon_beside(groups, delta, enforced))


def check_delta(delta: float, records: int | None = None) -> None:
    """Refuse a delta that is no probability, or that would let one whole record out.

    Raises:
        AccountingError: delta is not in (0, 1), or is above 1 / records.
    """
    if not 0 < _real(delta) < 1:
        raise AccountingError(f"delta must be in (0, 1), got {shown(delta)}")
    if records is None:
        return
    try:
        units = operator.index(records)
    except TypeError as cause:
        raise AccountingError(f"records must be a whole number, got {shown(records)}") from cause
    if units < 1 or delta > 1 / units:
        raise AccountingError(
            f"delta {float(delta):g} is above 1 / records ({shown(units)}): a record could leak whole"
        )


def _real(value: object) -> float:
    """Return `value` as a float: NaN, which passes no check, for whatever is no number."""
    try:
        return float(value) if isinstance(value, Real) else math.nan
    except OverflowError:
        return math.inf


def _epsilon_beside(groups: Groups, delta: float, enforced: float) -> float:
    """Return the PLD figure, or the closed form where everything is Gaussian, or the RDP bound where neither fits."""
    if {mechanism.name for mechanism in groups} == {"gaussian"}:
        return gaussian_epsilon(_combined_noise(groups), delta)
    gridded = {mechanism: uses for mechanism, uses in groups.items() if mechanism.name != "gaussian"}
    loss = max(map(_largest_loss, gridded))
    if len(groups) > _MAX_PLD_GROUPS or max(gridded.values()) > _MAX_PLD_USES:
        return enforced
    if enforced > _MAX_PLD_EPSILON or loss > _MAX_PLD_LOSS:
        return enforced
    return _pld_epsilon(
        tuple(sorted(groups.items())), delta, _FINE if enforced < 1 and loss < _MAX_FINE_LOSS else _COARSE
    )


def _largest_loss(mechanism: Mechanism) -> float:
    """Return how far the loss grid of one use reaches (nats, roughly)."""
    reach = 1 / mechanism.noise
    return reach if mechanism.name == "laplace" else reach * reach / 2 + 10 * reach


def _combined_noise(groups: Groups) -> float:
    """Return the noise of the one Gaussian release that equals all those in `groups`: 1/sigma^2 adds up."""
    precision = sum(uses / m.noise / m.noise for m, uses in sorted(groups.items()) if m.name == "gaussian")
    return 1 / math.sqrt(precision)


def gaussian_epsilon(noise: float, delta: float) -> float:
    """Return the exact epsilon (nats) of one Gaussian release with std `noise` times its sensitivity.

    Source: arXiv:1805.06530, Theorem 8: delta(eps) = Phi(1/2s - eps s) - e^eps Phi(-1/2s - eps s).
    """

    def log_delta(candidate: float) -> float:
        first = log_ndtr(0.5 / noise - candidate * noise)
        second = candidate + log_ndtr(-0.5 / noise - candidate * noise)
        return float(first + math.log(_NDTR_SLACK - math.expm1(min(second - first, 0.0))))

    if noise < 1e-3:
        return math.inf
    if 2 * ndtr(0.5 / noise) - 1 <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while log_delta(high) > math.log(delta):
        low, high = high, high * 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if log_delta(middle) <= math.log(delta) else (middle, high)
    return high * (1 + 1e-9)  # The upper end, and a little for rounding inside the tails.


@lru_cache(maxsize=256)
def _pld_epsilon(groups: tuple[tuple[Mechanism, int], ...], delta: float, interval: float) -> float:
    from dp_accounting.pld import privacy_loss_distribution as pld  # Half a second to import; RDP does not need it.

    total = pld.identity(value_discretization_interval=interval)
    gaussians = Counter({mechanism: uses for mechanism, uses in groups if mechanism.name == "gaussian"})
    if gaussians:
        total = total.compose(
            pld.from_gaussian_mechanism(_combined_noise(gaussians), value_discretization_interval=interval)
        )
    for mechanism, uses in groups:
        if mechanism.name == "sampled_gaussian":
            one = pld.from_gaussian_mechanism(
                mechanism.noise, value_discretization_interval=interval, sampling_prob=mechanism.rate
            )
            total = total.compose(one.self_compose(uses))
        elif mechanism.name == "laplace":
            one = pld.from_laplace_mechanism(mechanism.noise, value_discretization_interval=interval)
            total = total.compose(one.self_compose(uses))
    figure = float(total.get_epsilon_for_delta(delta))
    return math.inf if math.isnan(figure) else max(figure, 0.0)


def noise_multiplier(
    *,
    epsilon: float,
    delta: float,
    sampling_rate: float,
    steps: int,
    accountant: Accountant = "rdp",
    unit: Unit = Unit.RECORD,
    neighbours: Neighbours = Neighbours.ZERO_OUT,
    prior: Event | Iterable[Event] = (),
) -> float:
    """Return the least noise multiplier with which a run of `steps` holds `epsilon` at `delta`.

    Args:
        epsilon: Budget in nats, > 0, for the run together with `prior`.
        delta: Probability that the bound fails, in (0, 1).
        sampling_rate: Chance that one unit joins one step, in (0, 1].
        steps: Number of noisy sums, >= 1.
        accountant: Which figure must hold the budget.
        unit: Unit of privacy.
        neighbours: Which datasets are compared.
        prior: What was already spent on the same records, for the same unit and neighbours.

    Returns:
        Noise over clip norm, rounded up at the fourth significant digit, so that the budget holds.

    Raises:
        AccountingError: epsilon is not positive, or `prior` alone exceeds it, or no noise up to 1e6 suffices.
        EventError: sampling_rate or steps is impossible, or `prior` speaks of another unit or relation.
    """
    budget = _real(epsilon)
    if not 0 < budget < math.inf:
        raise AccountingError(f"epsilon must be above 0 and finite, got {shown(epsilon)}")

    def run(noise: float) -> DpSgdRun:
        return DpSgdRun(
            noise_multiplier=noise, sampling_rate=sampling_rate, steps=steps, unit=unit, neighbours=neighbours
        )

    spent = _take([prior] if isinstance(prior, Event) else prior)
    group([*spent, run(1.0)])  # Refuses what speaks of another unit or relation.
    before = group(spent)
    return _least_noise(lambda noise: epsilon_of(before + group(run(noise)), delta, accountant), budget)


def _least_noise(spends: Callable[[float], float], budget: float) -> float:
    low, high = 1e-2, 1.0
    while spends(high) > budget:
        low, high = high, high * 2
        if high > 1e6:
            raise AccountingError(
                f"no noise holds epsilon {budget:g} over this many steps; allow more or run fewer steps"
            )
    while high / low > 1 + 1e-5:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if spends(middle) <= budget else (middle, high)
    return _round_up(high, spends, budget)


def _round_up(noise: float, spends: Callable[[float], float], budget: float) -> float:
    unit = 10.0 ** (math.floor(math.log10(noise)) - 3)
    ticks = math.ceil(noise / unit - 1e-9)
    while True:
        rounded = float(f"{ticks * unit:.4g}")
        if spends(rounded) <= budget:
            return rounded
        ticks += 1
