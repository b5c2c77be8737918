"""Two scorecards in, their differences side by side out, each with an interval and a verdict.

Scores are compared item by item: both cards must have measured the same items, and then items are resampled together.
Timings are resampled apart. What is exact, such as a size, has a difference and no interval. Anything else has a
reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdk.build.evaluate.card import Leg, Scorecard
from sdk.build.evaluate.density import experience_density, quality_draws, quality_legs
from sdk.build.evaluate.figures import FIGURES
from sdk.build.evaluate.interval import SEED, Estimate, difference, medians

__all__ = ["Difference", "compare", "shared_quality"]

LEAST_ITEMS = 10  # Resampling fewer says little: of one item, that it is always the same.
LEAST_SAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One figure of two models."""

    figure: str
    """Name as in figures.FIGURES."""
    mine: float | None
    """Value of the first card; None where it has none."""
    other: float | None
    """Value of the second card."""
    change: Estimate | None
    """Mine minus other with its 95 % interval; None where they cannot be compared."""
    verdict: str
    """"better", "worse", "equal", "no clear difference" or "not compared"."""
    reason: str = ""
    """Why it was not compared."""

    def to_dict(self) -> dict[str, Any]:
        """The difference as it stands in JSON."""
        change = None if self.change is None else self.change.to_dict()
        return {
            "figure": self.figure,
            "value": self.mine,
            "against": self.other,
            "difference": change,
            "verdict": self.verdict,
            **({"reason": self.reason} if self.reason else {}),
        }


def compare(mine: Scorecard, other: Scorecard) -> list[Difference]:
    """Every figure that at least one of two cards has, in the order of figures.FIGURES."""
    found = []
    for name in FIGURES:
        leg, _, figure = name.partition(".")
        if leg == "density":
            continue
        made = _difference(name, figure, mine.legs.get(leg), other.legs.get(leg))
        if made is not None:
            found.append(made)
    return found + _densities(mine, other)


def _difference(name: str, figure: str, mine: Leg | None, other: Leg | None) -> Difference | None:
    values = [None if leg is None else _value(leg, figure) for leg in (mine, other)]
    if mine is None or other is None or None in values:
        if values == [None, None]:
            return None
        return _verdict(name, values, None, "only one card has it")
    if figure in mine.scores and figure in other.scores:
        if not _same_items(mine, other):
            return _verdict(name, values, None, "measured on other items or settings")
        apart = difference(mine.scores[figure], other.scores[figure])
        if apart is None or apart.items < LEAST_ITEMS:
            return _verdict(name, values, None, f"fewer than {LEAST_ITEMS} items count")
        return _verdict(name, values, apart)
    if figure in mine.samples and figure in other.samples:
        if min(len(mine.samples[figure]), len(other.samples[figure])) < LEAST_SAMPLES:
            return _verdict(name, values, None, f"measured fewer than {LEAST_SAMPLES} times")
        medians_apart = medians(mine.samples[figure]) - medians(other.samples[figure], SEED + 1)
        return _verdict(name, values, _estimate(values, medians_apart, len(mine.samples[figure])))
    return _verdict(name, values, _exact(values))


def shared_quality(mine: Scorecard, other: Scorecard) -> tuple[str, ...]:
    """The legs that count as quality and that both cards measured on the same items."""
    return tuple(
        leg for leg in quality_legs(mine) if leg in quality_legs(other) and _same_items(mine.legs[leg], other.legs[leg])
    )


def _same_items(mine: Leg, other: Leg) -> bool:
    return mine.ids == other.ids and mine.key == other.key


def _densities(mine: Scorecard, other: Scorecard) -> list[Difference]:
    """Quality and density over the legs that both measured; the draws are paired."""
    shared = shared_quality(mine, other)
    if not shared:
        return []
    made, against = experience_density(mine, shared), experience_density(other, shared)
    draws = [quality_draws(card, shared)[1] for card in (mine, other)]
    found = []
    for figure in made:
        if figure not in against:
            continue
        values: list[float | None] = [made[figure].value, against[figure].value]
        scale = [1 / cost for cost in (_cost(mine, figure, SEED + 98), _cost(other, figure, SEED + 99))]
        apart = draws[0] * scale[0] - draws[1] * scale[1]
        found.append(_verdict(f"density.{figure}", values, _estimate(values, apart, made[figure].items)))
    return found


def _cost(card: Scorecard, figure: str, seed: int) -> Any:
    """What quality is divided by; a timing as the draws of its median, which are each card's own."""
    if figure == "per_millisecond":
        return medians(card.legs["cost"].samples["answer_ms"], seed)
    return card.legs["energy"].facts["joules"] if figure == "per_joule" else 1.0


def _value(leg: Leg, figure: str) -> float | None:
    made = leg.estimates().get(figure)
    known: Mapping[str, Any] = leg.facts
    if made is not None:
        return made.value
    fact = known.get(figure)
    return float(fact) if isinstance(fact, int | float) and not isinstance(fact, bool) else None


def _exact(values: list[float | None]) -> Estimate:
    apart = (values[0] or 0.0) - (values[1] or 0.0)
    return Estimate(value=apart, low=apart, high=apart, items=1)


def _estimate(values: list[float | None], apart: Any, items: int) -> Estimate:
    low, high = np.quantile(apart, (0.025, 0.975))
    return Estimate(value=_exact(values).value, low=float(low), high=float(high), items=items)


def _verdict(name: str, values: list[float | None], change: Estimate | None, reason: str = "") -> Difference:
    word = "not compared"
    if change is not None:
        sign = 1 if FIGURES[name].better == "higher" else -1
        if change.low == change.high == 0:
            word = "equal"
        elif change.low <= 0 <= change.high:
            word = "no clear difference"
        else:
            word = "better" if change.value * sign > 0 else "worse"
    return Difference(figure=name, mine=values[0], other=values[1], change=change, verdict=word, reason=reason)
