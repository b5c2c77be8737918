"""The gate: a candidate adapter in, an admitted one out, but only if old skills hold on public probes.

It reads public text only, so it costs no privacy. On each leg of probes it asks a paired, one-sided non-inferiority
question: is the mean drop against the bare base surely below the margin? All legs must say yes. Where the candidate
fails, shares alpha of the way from the adapter in use to the candidate are tried; alpha 0 means rejected, and the
adapter in use stays. What looking again and again costs in certainty is accounted for in personalize.spending.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy.special import ndtri, stdtrit  # scipy.stats has the same, and takes half a second to import.
from torch import Tensor

from personalize.adapter import Adapter
from personalize.errors import ProbeError
from personalize.probes import Probes
from personalize.spending import level_of

__all__ = ["ALPHAS", "AdmittedAdapter", "LegVerdict", "Verdict", "admit", "compare"]

POWER = 0.8  # Of the smallest detectable drop.
ALPHAS = (1.0, 0.75, 0.5, 0.25)  # Shares tried, largest first; a public grid.
MARGINS = {
    "nats per token": 0.05,  # 5 % perplexity.
    "nats of divergence": 0.25,  # Of the base's own words, where every change of style is a drop, also a wanted one.
    "percentage points": 1.0,  # One sentence in a hundred.
    "points of choice": 3.0,  # Single tokens swing further than sentences.
}

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
    """Upper confidence bound of the drop, one-sided, at confidence 1 - level."""
    detectable_drop: float
    """Smallest true drop that this leg would see (as different from none) at this level with power 0.8."""
    margin: float
    """Largest drop that is tolerated."""
    level: float
    """Chance, at most, that this test passes a drop at the margin; smaller from share to share and night to night."""

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
    look: int = 1
    """Which use of this home's gate it was, ≥ 1."""

    @property
    def admitted(self) -> bool:
        """Whether anything new is admitted."""
        return self.alpha > 0

    def to_dict(self) -> dict[str, Any]:
        """The decision and its figures as plain values."""
        legs = [asdict(leg) | {"passed": leg.passed} for leg in self.legs]
        return {"admitted": self.admitted, "alpha": self.alpha, "retention": legs}


class AdmittedAdapter:
    """An adapter that passed the gate; only `admit` can make one."""

    def __init__(self, adapter: Adapter, verdict: Verdict, *, proof: object = None) -> None:
        """Refuse to be made by anything but the gate."""
        if proof is not _PROOF:
            raise TypeError("only retention.admit makes an AdmittedAdapter; pass the candidate through the gate")
        self.adapter, self.verdict = adapter, verdict


def compare(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    units: Mapping[str, str],
    margins: Mapping[str, float],
    *,
    level: float,
    strata: Mapping[str, Sequence[str]] | None = None,
) -> tuple[LegVerdict, ...]:
    """Set two models' scores of the same items side by side.

    Args:
        before: Leg to scores of the base, shape (items,), lower is better.
        after: The same under the candidate.
        units: Leg to unit.
        margins: Unit to the largest tolerated drop.
        level: Chance, at most, that a leg passes a drop at its margin, in (0, 0.5).
        strata: Leg to the kind that each item was drawn as. Kinds have fixed shares of a leg, so only the spread inside
            them is chance: a shift that kinds share or that they cancel out widens nothing. None: all items are of one
            kind.

    Raises:
        ProbeError: Legs or items differ, or a score is not finite: nothing can be said, so nothing is admitted.

    Source: paired non-inferiority by a one-sided t interval (Wellek 2010, section 5.2); drop (z + z) sd / sqrt n.
    Standard error of a stratified mean with proportional shares: Cochran 1977, section 5.9.
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
        error, freedom = _standard_error(difference, None if strata is None else strata[leg])
        mean = float(difference.mean())
        verdicts.append(
            LegVerdict(
                leg=leg,
                unit=units[leg],
                items=count,
                drop=mean,
                upper=mean - float(stdtrit(freedom, level)) * error,
                detectable_drop=float(ndtri(POWER) - ndtri(level)) * error,
                margin=margins[units[leg]],
                level=level,
            )
        )
    return tuple(verdicts)


def _standard_error(difference: Tensor, strata: Sequence[str] | None) -> tuple[float, int]:
    """Standard error of the mean of paired differences, and its degrees of freedom; kinds of one item count as one
    kind."""
    names = list(strata or [""] * len(difference))
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        groups.setdefault(name if names.count(name) > 1 else "alone", []).append(place)
    if any(len(places) == 1 for places in groups.values()):
        groups = {"": list(range(len(names)))}
    squares = sum(float((difference[places] - difference[places].mean()).square().sum()) for places in groups.values())
    freedom = len(names) - len(groups)
    return (squares / freedom / len(names)) ** 0.5, freedom


def admit(
    model: Any,
    *,
    current: Adapter,
    candidate: Adapter,
    base: Adapter,
    probes: Probes,
    margins: Mapping[str, float] = MARGINS,
    alphas: Sequence[float] = ALPHAS,
    look: int = 1,
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
        alphas: Shares to try, largest first; fixed in advance.
        look: Which time this home's gate is used, from 1 and never the same twice: the number of runs that the ledger
            has reserved, this one included. Later looks ask for more certainty.
        progress: Called before each share is probed.

    Returns:
        The verdict, and the admitted adapter, or None where every share failed.

    Raises:
        ProbeError: Nothing can be said; nothing is admitted.
    """
    before, units, strata = probes.score_bare(model, base), probes.units(), probes.strata()
    legs: tuple[LegVerdict, ...] = ()
    for place, alpha in enumerate(alphas):
        progress(alpha)
        offered = current.toward(candidate, alpha)
        level = level_of(look=look, place=place, shares=len(alphas))
        legs = compare(before, probes.score(model, offered), units, margins, level=level, strata=strata)
        if all(leg.passed for leg in legs):
            verdict = Verdict(alpha=alpha, legs=legs, look=look)
            return verdict, AdmittedAdapter(offered, verdict, proof=_PROOF)
    return Verdict(alpha=0.0, legs=legs, look=look), None
