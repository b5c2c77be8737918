"""A figure's name and value in, text as people read it out; two scorecards in, the rows of a table out."""

from collections.abc import Sequence

from privacy.report import number
from sdk.build.evaluate.card import Scorecard
from sdk.build.evaluate.comparison import compare, shared_quality
from sdk.build.evaluate.density import experience_density
from sdk.build.evaluate.figures import FIGURES, LEGS
from sdk.build.evaluate.interval import Estimate

__all__ = ["DASH", "exact_value", "figures_of", "interval", "rows", "shown"]

DASH = "–"
THIN = "\u202f"  # A narrow space that does not break: 2.5 % stays on one line.


def shown(name: str, value: float | None, *, signed: bool = False) -> str:
    """A figure's value with its unit; a difference of shares is in points."""
    if value is None:
        return DASH
    figure = FIGURES[name]
    text = number(value * 100 if figure.unit == "%" else value, figure.digits)
    if signed and not text.startswith("−") and text.strip("0.,"):
        text = f"+{text}"
    unit = "points" if signed and figure.unit == "%" else figure.unit
    return f"{text}{THIN}{unit}" if unit else text


def interval(name: str, estimate: Estimate | None, *, signed: bool = False) -> str:
    """The ends of a figure's interval without its unit; nothing where they are one."""
    if estimate is None or estimate.low == estimate.high:
        return ""
    unit = shown(name, 1.0, signed=signed).partition(THIN)[2]
    low, high = (shown(name, end, signed=signed).removesuffix(f"{THIN}{unit}") for end in (estimate.low, estimate.high))
    return f"{low} to {high}"


def exact_value(card: Scorecard, name: str) -> float | None:
    """A figure that is a fact, such as a size; None where the card has none of that name."""
    leg, _, figure = name.partition(".")
    fact = card.legs[leg].facts.get(figure) if leg in card.legs else None
    return float(fact) if isinstance(fact, int | float) and not isinstance(fact, bool) else None


def figures_of(card: Scorecard, legs: Sequence[str] | None = None) -> dict[str, Estimate]:
    """Every figure of a card that has an interval, density among them over the chosen legs."""
    dense = {f"density.{name}": made for name, made in experience_density(card, legs).items()}
    return {**card.estimates(), **dense}


def rows(card: Scorecard, other: Scorecard | None = None) -> list[tuple[str, ...]]:
    """Leg (where it begins), figure, value, interval, items; with another card also its value, the difference, the
    difference's interval and the verdict."""
    shared = None if other is None else shared_quality(card, other)
    made = figures_of(card, shared)
    changes = {} if other is None else {change.figure: change for change in compare(card, other)}
    found, before = [], ""
    for name, figure in FIGURES.items():
        value = made[name].value if name in made else exact_value(card, name)
        change = changes.get(name)
        if value is None and change is None:
            continue
        estimate, leg = made.get(name), LEGS.get(name.partition(".")[0], "Experience density")
        row = [
            "" if leg == before else leg,
            figure.title,
            shown(name, value),
            interval(name, estimate),
            str(estimate.items) if estimate else "",
        ]
        if other is not None:
            apart = None if change is None else change.change
            row += [
                shown(name, None if change is None else change.other),
                DASH if apart is None else shown(name, apart.value, signed=True),
                interval(name, apart, signed=True),
                "" if change is None else change.reason or change.verdict,
            ]
        found.append(tuple(row))
        before = leg
    return found
