"""Numbers in, places in percent out: where the report's drawings put their bars, dots and ticks.

Places are percentages of the drawing's width, so that a drawing grows and shrinks with the page while its letters keep
their size. Nothing here knows about HTML.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Axis", "Bar", "Dot", "Interval", "bars", "dots", "histogram", "mean_with_interval"]

Interval = tuple[float, float]

NORMAL_95 = 1.96  # Two-sided 95 % quantile of the normal distribution.
TICKS = 5  # Wanted ticks of an axis; the round step that comes nearest decides.
MOST_BINS = 24  # More bars than that are thinner than a finger's breadth on a phone.


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A straight scale from values to percent of the width."""

    low: float
    """Value at the left end."""
    high: float
    """Value at the right end; above `low`."""
    margin: float = 0.0
    """Percent of the width kept free on both sides, for letters that stand over the ends."""

    def place(self, value: float) -> float:
        """Place of a value in percent; what lies outside is drawn at the end."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.margin + min(1.0, max(0.0, share)) * (100 - 2 * self.margin), 3)

    @property
    def ticks(self) -> list[float]:
        """Round values between the ends."""
        step = _round_step((self.high - self.low) / TICKS)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(count * step, 12) for count in range(first, last + 1)]

    @classmethod
    def around(cls, values: Iterable[float], *, margin: float) -> "Axis":
        """An axis that holds all values with a tenth of their spread to spare."""
        known = sorted(values)
        low, high = known[0], known[-1]
        room = (high - low) * 0.1 or max(abs(high) * 0.05, 0.05)
        return cls(low=low - room, high=high + room, margin=margin)


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A horizontal bar from zero, with the interval of its value where one is known."""

    width: float
    whisker: Interval | None


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A dot with the interval of its value where one is known."""

    x: float
    whisker: Interval | None


def bars(values: Sequence[float], intervals: Sequence[Interval | None]) -> list[Bar]:
    """Bars on one scale that starts at zero."""
    highest = max([*values, *(interval[1] for interval in intervals if interval)], default=0.0)
    axis = Axis(low=0.0, high=highest or 1.0)
    return [
        Bar(width=axis.place(value), whisker=_placed(axis, interval))
        for value, interval in zip(values, intervals, strict=True)
    ]


def dots(axis: Axis, values: Sequence[float], intervals: Sequence[Interval | None]) -> list[Dot]:
    """Dots on a scale that need not start at zero."""
    return [
        Dot(x=axis.place(value), whisker=_placed(axis, interval))
        for value, interval in zip(values, intervals, strict=True)
    ]


def histogram(values: Sequence[float]) -> tuple[list[float], list[int]]:
    """Edges of bins of one round width, zero among them, and how many values fall into each bin."""
    low, high = min(0.0, *values), max(0.0, *values)
    wanted = max(4, min(MOST_BINS, round(2 * math.sqrt(len(values)))))
    step = _round_step((high - low) / wanted or 1.0)
    first, last = math.floor(low / step), math.floor(high / step) + 1
    counts = [0] * (last - first)
    for value in values:
        counts[math.floor(value / step) - first] += 1
    return [round(edge * step, 12) for edge in range(first, last + 1)], counts


def mean_with_interval(values: Sequence[float]) -> tuple[float, Interval | None]:
    """Mean and its 95 % interval by the normal approximation; no interval for fewer than ten values."""
    mean = math.fsum(values) / len(values)
    if len(values) < 10:
        return mean, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = NORMAL_95 * math.sqrt(variance / len(values))
    return mean, (mean - half, mean + half)


def _placed(axis: Axis, interval: Interval | None) -> Interval | None:
    return None if interval is None else (axis.place(interval[0]), axis.place(interval[1]))


def _round_step(step: float) -> float:
    """The 1, 2 or 5 times a power of ten that is at least `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next((factor * power for factor in (1.0, 2.0, 5.0) if factor * power >= step * (1 - 1e-9)), 10 * power)
