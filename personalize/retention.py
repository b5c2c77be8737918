"""The gate: a candidate adapter in, an admitted one out, but only if old skills hold on public probes.

It reads public text only, so it costs no privacy and may look as often as it likes. On each leg of probes it asks a
paired, one-sided non-inferiority question: is the mean drop against the bare base surely below the margin? All legs
must say yes (an intersection-union test, so no correction is owed). Where the candidate fails, shares alpha of the way
from the adapter in use to the candidate are tried; alpha 0 means rejected, and the adapter in use stays.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats
from torch import Tensor

from personalize.adapter import Adapter
from personalize.errors import ProbeError
from personalize.probes import Probes

__all__ = ["ALPHAS", "AdmittedAdapter", "LegVerdict", "Verdict", "admit", "compare"]

CONFIDENCE = 0.95  # One-sided, each leg.
POWER = 0.8  # Of the smallest detectable drop.
ALPHAS = (1.0, 0.75, 0.5, 0.25)  # Shares tried, largest first; a public grid.
MARGINS = {"nats per token": 0.05, "percentage points": 1.0}  # 5 % perplexity; one sentence in a hundred.

_PROOF = object()


@dataclass(frozen=True, kw_only=True)
class LegVerdict:
    """What the gate found on one leg."""

    leg: str
    """Name of the skill."""
    unit: str
    """Unit of the four figures below."""
    items: int
    """Number of paired items."""
    drop: float
    """Mean worsening against the base; below 0 is better than the base."""
    upper: float
    """Upper 95 % confidence bound of the drop, one-sided."""
    detectable_drop: float
    """Smallest true drop that this leg would see (as different from none) with power 0.8."""
    margin: float
    """Largest drop that is tolerated."""

    @property
    def passed(self) -> bool:
        """Whether the drop is surely below the margin."""
        return self.upper < self.margin


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the gate decided."""

    alpha: float
    """Share of the way from the adapter in use to the candidate, in [0, 1]; 0 is rejected."""
    legs: tuple[LegVerdict, ...]
    """Figures at that share; at the smallest share tried where all failed."""

    @property
    def admitted(self) -> bool:
        """Whether anything new is admitted."""
        return self.alpha > 0


class AdmittedAdapter:
    """An adapter that passed the gate; only `admit` can make one."""

    def __init__(self, adapter: Adapter, verdict: Verdict, *, proof: object = None) -> None:
        """Refuse to be made by anything but the gate."""
        if proof is not _PROOF:
            raise TypeError("only retention.admit makes an AdmittedAdapter; pass the candidate through the gate")
        self.adapter, self.verdict = adapter, verdict


def compare(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], units: Mapping[str, str], margins: Mapping[str, float]
) -> tuple[LegVerdict, ...]:
    """Set two models' scores of the same items side by side.

    Args:
        before: Leg to scores of the base, shape (items,), lower is better.
        after: The same under the candidate.
        units: Leg to unit.
        margins: Unit to the largest tolerated drop.

    Raises:
        ProbeError: Legs or items differ, or a score is not finite: nothing can be said, so nothing is admitted.

    Source: paired non-inferiority by a one-sided t interval (Wellek 2010, section 5.2); drop (z + z) sd / sqrt n.
    """
    if before.keys() != after.keys():
        raise ProbeError("base and candidate were probed on different legs; probe both again")
    verdicts = []
    for leg in before:
        if before[leg].shape != after[leg].shape:
            raise ProbeError(
                f"leg {leg} has {len(before[leg])} scores before and {len(after[leg])} after; probe both again"
            )
        difference = after[leg].double() - before[leg].double()  # (items,)
        if len(difference) < 2 or not bool(difference.isfinite().all()):
            raise ProbeError(
                f"leg {leg} has {len(difference)} paired scores or one that is not finite; nothing is admitted"
            )
        count = len(difference)
        error = float(difference.std(unbiased=True)) / count**0.5
        mean = float(difference.mean())
        verdicts.append(
            LegVerdict(
                leg=leg,
                unit=units[leg],
                items=count,
                drop=mean,
                upper=mean + float(stats.t.ppf(CONFIDENCE, count - 1)) * error,
                detectable_drop=(float(stats.norm.ppf(CONFIDENCE)) + float(stats.norm.ppf(POWER))) * error,
                margin=margins[units[leg]],
            )
        )
    return tuple(verdicts)


def admit(
    model: Any,
    *,
    current: Adapter,
    candidate: Adapter,
    base: Adapter,
    probes: Probes,
    margins: Mapping[str, float] = MARGINS,
    alphas: Sequence[float] = ALPHAS,
    progress: Callable[[float], None] = lambda alpha: None,
) -> tuple[Verdict, AdmittedAdapter | None]:
    """Decide how much of a candidate to admit: the largest tried share that holds on every leg.

    Args:
        model: The base.
        current: The adapter in use (or the public one that the night began at): where alpha 0 is.
        candidate: What the night made: where alpha 1 is.
        base: An adapter that changes nothing; the drop is always against the bare base, so that drift over many nights
            cannot creep past the margin.
        probes: Public items.
        margins: Unit to the largest tolerated drop.
        alphas: Shares to try, largest first.
        progress: Called before each share is probed.

    Returns:
        The verdict, and the admitted adapter, or None where every share failed.

    Raises:
        ProbeError: Nothing can be said; nothing is admitted.
    """
    before, units = probes.score_bare(model, base), probes.units()
    legs: tuple[LegVerdict, ...] = ()
    for alpha in alphas:
        progress(alpha)
        offered = current.toward(candidate, alpha)
        legs = compare(before, probes.score(model, offered), units, margins)
        if all(leg.passed for leg in legs):
            verdict = Verdict(alpha=alpha, legs=legs)
            return verdict, AdmittedAdapter(offered, verdict, proof=_PROOF)
    return Verdict(alpha=0.0, legs=legs), None
