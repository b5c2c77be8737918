"""One scorecard, or two, in; one self-contained page for a person out: no script, no network, also on paper."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from privacy.whole_file import replace_whole
from sdk.build.evaluate.card import Leg, Scorecard
from sdk.build.evaluate.comparison import Difference, compare, shared_quality
from sdk.build.evaluate.density import quality_legs
from sdk.build.evaluate.figures import FIGURES, LEGS
from sdk.build.evaluate.interval import Estimate
from sdk.build.evaluate.wording import DASH, exact_value, figures_of, interval, shown
from sdk.errors import EvaluationError

__all__ = ["render", "write_scorecard_page"]

TEMPLATES = Path(__file__).parent / "templates"
HOW = {
    "text": "Bits per byte count every byte of the text, so models with other tokenizers compare.",
    "teacher": "Over the tokens that both have, on the same text.",
    "tasks": "Greedy answers to held-out requests.",
    "snips": "Validation requests of the public benchmark, answered greedily as JSON.",
    "blimp": "Minimal pairs of English sentences; guessing finds half.",
    "piqa": "Two ways to reach a goal; guessing finds half.",
    "ifeval": "Instructions that a program can check. An answer is cut after a fixed number of tokens.",
    "cost": "In a process of its own: CPU time of one thread, memory of the whole process.",
    "energy": "An estimate from bytes moved and multiply-adds: a floor for comparing models, no battery test.",
}


def write_scorecard_page(path: Path, card: Scorecard, against: Scorecard | None = None) -> None:
    """Write the page, whole or not at all.

    Raises:
        EvaluationError: The file cannot be written; an older page stays as it was.
    """
    try:
        replace_whole(path, render(card, against).encode())
    except OSError as cause:
        raise EvaluationError(f"cannot write the page to {path}: {cause.strerror}; choose another place") from cause


def render(card: Scorecard, against: Scorecard | None = None) -> str:
    """The page of one card, or of two side by side."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(  # The look is that of the privacy report; only what it lacks stands here.
            [jinja2.FileSystemLoader(TEMPLATES), jinja2.PackageLoader("privacy", "templates")]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("scorecard.html.jinja").render(_view(card, against))


def _view(card: Scorecard, against: Scorecard | None) -> dict[str, Any]:
    cards = [card] if against is None else [card, against]
    # Two qualities are of one kind only over the legs that both have.
    shared = None if against is None else shared_quality(card, against)
    estimates = [figures_of(one, shared) for one in cards]
    changes = {made.figure: made for made in compare(card, against)} if against is not None else {}
    legs = [_leg_view(leg, cards, estimates, changes) for leg in LEGS if any(leg in one.legs for one in cards)]
    return {
        "names": _names(cards),
        "models": [dict(one.model) for one in cards],
        "quick": any(one.quick for one in cards),
        "tiles": [
            {"title": FIGURES[name].title, "values": [shown(name, _value(one, name, known))
            for one, known in zip(cards, estimates, strict=True)]}
            for name in ("density.quality", "text.bits_per_byte", "cost.size_megabytes", "cost.answer_ms")
        ],
        "density": [
            _row(name, cards, estimates, changes)
            for name in FIGURES
            if name.startswith("density.") and any(name in known for known in estimates)
        ],
        "quality_legs": [LEGS[leg] for leg in (quality_legs(card) if shared is None else shared)],
        "legs": [leg for leg in legs if leg["rows"]],
        "not_run": [
            {"model": name, "leg": LEGS[leg], "reason": one.legs[leg].reason}
            for name, one in zip(_names(cards), cards, strict=True)
            for leg in LEGS
            if leg in one.legs and one.legs[leg].reason is not None
        ],
        "counts": _counts(list(changes.values())) if changes else None,
    }  # fmt: skip


def _leg_view(
    leg: str,
    cards: Sequence[Scorecard],
    estimates: Sequence[Mapping[str, Estimate]],
    changes: Mapping[str, Difference],
) -> dict[str, Any]:
    names = [name for name in FIGURES if name.startswith(f"{leg}.")]
    known = [
        name for name in names if any(_value(one, name, e) is not None for one, e in zip(cards, estimates, strict=True))
    ]
    legs = [one.legs[leg] for one in cards if leg in one.legs]
    first = next((made for made in legs if made.reason is None), Leg(reason=""))
    return {
        "name": LEGS[leg],
        "how": HOW[leg],
        "key": leg,
        "items": len(first.ids),
        "rows": [_row(name, cards, estimates, changes) for name in known],
        "groups": _groups(leg, cards),
        "facts": {name.replace("_", " "): value for name, value in first.facts.items() if isinstance(value, str | int)},
    }


def _row(
    name: str,
    cards: Sequence[Scorecard],
    estimates: Sequence[Mapping[str, Estimate]],
    changes: Mapping[str, Difference],
) -> dict[str, Any]:
    figure, change = FIGURES[name], changes.get(name)
    return {
        "title": figure.title,
        "meaning": figure.meaning,
        "better": figure.better,
        "share": figure.unit == "%",
        "cells": [_cell(name, one, known.get(name)) for one, known in zip(cards, estimates, strict=True)],
        "change": None if change is None or change.change is None else shown(name, change.change.value, signed=True),
        "change_interval": "" if change is None else interval(name, change.change, signed=True),
        "verdict": None if change is None else change.verdict,
        "reason": None if change is None else change.reason,
    }


def _cell(name: str, card: Scorecard, made: Estimate | None) -> dict[str, Any]:
    if made is None:
        return {"value": shown(name, _value(card, name, {})), "interval": "", "at": None, "items": None}
    at = {end: round(100 * min(1.0, max(0.0, getattr(made, end))), 2) for end in ("value", "low", "high")}
    return {"value": shown(name, made.value), "interval": interval(name, made), "at": at, "items": made.items}


def _groups(leg: str, cards: Sequence[Scorecard]) -> dict[str, Any] | None:
    """Values by task, intent or phenomenon of the first score that people look at."""
    score = {"tasks": "quality", "snips": "exact", "blimp": "accuracy"}.get(leg)
    found = [one.legs[leg].by_group(score) if score and _ran(one, leg) else {} for one in cards]
    if score is None or not any(found):
        return None
    names = sorted({name for groups in found for name in groups})
    return {
        "title": FIGURES[f"{leg}.{score}"].title,
        "rows": [
            {
                "name": name.replace("_", " "),
                "items": max(groups[name][1] for groups in found if name in groups),
                "values": [shown(f"{leg}.{score}", groups[name][0]) if name in groups else DASH for groups in found],
            }
            for name in names
        ],
    }


def _value(card: Scorecard, name: str, estimates: Mapping[str, Estimate]) -> float | None:
    return estimates[name].value if name in estimates else exact_value(card, name)


def _names(cards: Sequence[Scorecard]) -> list[str]:
    return [str(one.model.get("name", "model")) for one in cards]


def _ran(card: Scorecard, leg: str) -> bool:
    return leg in card.legs and card.legs[leg].reason is None


def _counts(changes: Sequence[Difference]) -> dict[str, int]:
    """How many figures are clearly better, clearly worse, or neither."""
    return {
        verdict: sum(change.verdict == verdict for change in changes)
        for verdict in ("better", "worse", "no clear difference", "equal", "not compared")
    }
