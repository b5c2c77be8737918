"""A scorecard in, experience density out: how much quality a person gets for a millisecond and for a joule.

    quality = 100 · mean over legs of (score − chance) / (1 − chance)          points; 100 is perfect, 0 is guessing
    density = quality / milliseconds of one answer,   quality / joules of one answer

The legs and their scores stand in figures.QUALITY: device tasks, SNIPS requests wholly right, IFEval instructions
followed, BLiMP, PIQA. All that ran count alike. Bits per byte is left out: it has no natural perfect value. An answer
is 64 tokens in and 32 out. Two cards are compared over the legs that both have, on the same items.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from sdk.build.evaluate.card import Leg, Scorecard
from sdk.build.evaluate.figures import QUALITY
from sdk.build.evaluate.interval import SEED, Estimate, medians, resampled

__all__ = ["experience_density", "quality_draws", "quality_legs"]

Vector = np.ndarray[Any, np.dtype[np.float64]]


def quality_legs(card: Scorecard) -> tuple[str, ...]:
    """The legs of a card that count as quality."""
    return tuple(leg for leg, (score, _) in QUALITY.items() if leg in card.legs and _counts(card.legs[leg], score))


def experience_density(card: Scorecard, legs: Iterable[str] | None = None) -> dict[str, Estimate]:
    """Quality in points, quality per millisecond and per joule; what cannot be known is left out.

    Args:
        card: A scorecard.
        legs: Which legs count as quality; None takes all that ran.
    """
    chosen = tuple(quality_legs(card) if legs is None else legs)
    if not chosen:
        return {}
    value, draws = quality_draws(card, chosen)
    items = sum(len(card.legs[leg].ids) for leg in chosen)
    found = {"quality": _estimate(value, draws, items)}
    samples = card.legs["cost"].samples.get("answer_ms") if "cost" in card.legs else None
    if samples:
        found["per_millisecond"] = _estimate(
            value / float(np.median(samples)), draws / medians(samples, SEED + 99), items
        )
    joules = _facts(card, "energy").get("joules")
    if joules:
        found["per_joule"] = _estimate(value / joules, draws / joules, items)
    return found


def quality_draws(card: Scorecard, legs: tuple[str, ...]) -> tuple[float, Vector]:
    """Quality in points, and the same of each resampling of the items, (RESAMPLES,); alike for the same items."""
    values, draws = [], []
    for leg in legs:
        score, chance = QUALITY[leg]
        tops, bottoms = (np.asarray(part, dtype=np.float64) for part in card.legs[leg].scores[score])
        tops, bottoms = tops[bottoms != 0], bottoms[bottoms != 0]
        top, bottom = resampled(len(tops), tops, bottoms, seed=SEED + list(QUALITY).index(leg))
        values.append(100 * (tops.sum() / bottoms.sum() - chance) / (1 - chance))
        draws.append(100 * (top / bottom - chance) / (1 - chance))
    return float(np.mean(values)), np.mean(draws, axis=0)


def _counts(leg: Leg, score: str) -> bool:
    return leg.reason is None and score in leg.scores and sum(leg.scores[score][1]) > 0


def _facts(card: Scorecard, leg: str) -> Mapping[str, Any]:
    return card.legs[leg].facts if leg in card.legs else {}


def _estimate(value: float, draws: Vector, items: int) -> Estimate:
    low, high = np.quantile(draws, (0.025, 0.975))
    return Estimate(value=value, low=float(low), high=float(high), items=items)
