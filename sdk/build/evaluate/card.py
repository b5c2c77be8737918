"""What was measured of one model in, a scorecard out: figures with intervals, and the items they rest on.

Rules:
    1. A leg that did not run has a reason and no figures; it is never a zero.
    2. Every score keeps one pair of numbers an item, so that two scorecards are compared item by item.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sdk.build.evaluate.interval import Estimate, median, ratio

__all__ = ["Leg", "Scorecard"]

Pairs = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class Leg:
    """One thing that was measured, or the reason why it was not."""

    reason: str | None = None
    """Why it was not run; None where it was."""
    ids: tuple[str, ...] = ()
    """Names of the items."""
    groups: tuple[str, ...] = ()
    """What each item is one of, such as its task or phenomenon."""
    scores: Mapping[str, Pairs] = field(default_factory=dict)
    """Name to tops and bottoms, a number an item each; the score is sum over sum."""
    samples: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Name to repeated measurements of one thing; the figure is their median."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What is exact or only tells how it was measured: sizes, limits, counts, sources."""
    key: str = ""
    """Digest over the data and settings: the same key means the same measurement."""
    seconds: float = 0.0
    """CPU seconds that the leg took."""

    def __post_init__(self) -> None:
        for name, (tops, bottoms) in self.scores.items():
            if not len(tops) == len(bottoms) == len(self.ids) == len(self.groups):
                raise ValueError(f"score {name} has {len(tops)} and {len(bottoms)} numbers for {len(self.ids)} items")

    def estimates(self) -> dict[str, Estimate]:
        """Every figure with its interval; a score that no item counts for is left out."""
        made = {name: ratio(*pairs) for name, pairs in self.scores.items()}
        made |= {name: median(values) for name, values in self.samples.items()}
        return {name: estimate for name, estimate in made.items() if estimate is not None}

    def by_group(self, score: str) -> dict[str, tuple[float, int]]:
        """Value and counted items of a score for each group, where any item of it counts."""
        sums: dict[str, list[float]] = {}
        for group, top, bottom in zip(self.groups, *self.scores[score], strict=True):
            found = sums.setdefault(group, [0.0, 0.0, 0.0])
            found[0], found[1], found[2] = found[0] + top, found[1] + bottom, found[2] + (bottom != 0)
        return {group: (top / bottom, int(items)) for group, (top, bottom, items) in sorted(sums.items()) if bottom}


@dataclass(frozen=True, kw_only=True)
class Scorecard:
    """All legs of one model."""

    model: Mapping[str, Any]
    """Name, digest, parameters, sizes in bytes."""
    quick: bool
    """Whether a small part of the data was used."""
    legs: Mapping[str, Leg]
    """Name to leg, in the order in which they run."""

    def estimates(self) -> dict[str, Estimate]:
        """Every figure of the card, as "leg.figure"."""
        return {f"{leg}.{name}": made for leg, of in self.legs.items() for name, made in of.estimates().items()}
