"""A scorecard in, its JSON file out, and back. The file carries a format version.

The figures in the file are for readers; a program that reads it computes them again from the items.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from privacy.whole_file import replace_whole
from sdk.build.evaluate.card import Leg, Scorecard
from sdk.build.evaluate.density import experience_density
from sdk.errors import EvaluationError

__all__ = ["FORMAT", "card_fields", "read_card", "write_card"]

FORMAT = "scorecard/1"
MAX_CARD_BYTES = 64 * 1024 * 1024  # Refused before parsing; a full card has about 2 MB.
DIGITS = 9  # Significant digits of an item's number: float32 has no more.


def card_fields(card: Scorecard, *, items: bool) -> dict[str, Any]:
    """A card as JSON fields.

    Args:
        card: A scorecard.
        items: Whether the numbers of each item go with it; without them it cannot be read back.
    """
    return {
        "format": FORMAT,
        "model": dict(card.model),
        "quick": card.quick,
        "density": {name: made.to_dict() for name, made in experience_density(card).items()},
        "legs": {name: _leg_fields(leg, items=items) for name, leg in card.legs.items()},
    }


def write_card(card: Scorecard, path: Path) -> None:
    """Write a card, whole or not at all.

    Raises:
        EvaluationError: The file cannot be written; an older one stays as it was.
    """
    try:
        replace_whole(path, (json.dumps(card_fields(card, items=True), ensure_ascii=False) + "\n").encode())
    except OSError as cause:
        raise EvaluationError(
            f"cannot write the scorecard to {path}: {cause.strerror}; choose another place"
        ) from cause


def read_card(path: Path) -> Scorecard:
    """Read a card.

    Raises:
        EvaluationError: No such file, no card, or one of another format.
    """
    try:
        if path.stat().st_size > MAX_CARD_BYTES:
            raise EvaluationError(f"{path} is over {MAX_CARD_BYTES} bytes, which no scorecard is")
        fields = json.loads(path.read_bytes())
    except OSError as cause:
        raise EvaluationError(f"cannot read the scorecard {path}: {cause.strerror}") from cause
    except (ValueError, RecursionError) as cause:
        raise EvaluationError(f"{path} is no scorecard (not JSON); make one with `limbeck build evaluate`") from cause
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        said = fields.get("format") if isinstance(fields, dict) else None
        raise EvaluationError(f"{path} has format {said!r:.40}, this version reads {FORMAT!r}; measure the model again")
    try:
        legs = {str(name): _leg_of(leg) for name, leg in fields["legs"].items()}
        return Scorecard(model=dict(fields["model"]), quick=bool(fields["quick"]), legs=legs)
    except (KeyError, TypeError, ValueError, AttributeError) as cause:
        raise EvaluationError(f"{path} is a damaged scorecard ({cause!r:.60}); measure the model again") from cause


def _leg_fields(leg: Leg, *, items: bool) -> dict[str, Any]:
    if leg.reason is not None:
        return {"status": "not run", "reason": leg.reason}
    groups = {name: leg.by_group(name) for name in leg.scores}
    fields = {
        "status": "done",
        "key": leg.key,
        "seconds": round(leg.seconds, 2),
        "figures": {name: made.to_dict() for name, made in leg.estimates().items()},
        "by_group": {
            name: {group: {"value": value, "items": count} for group, (value, count) in found.items()}
            for name, found in groups.items()
        },
        "facts": dict(leg.facts),
        "samples": {name: list(values) for name, values in leg.samples.items()},
    }
    if items:
        scores = {name: [_rounded(tops), _rounded(bottoms)] for name, (tops, bottoms) in leg.scores.items()}
        fields["items"] = {"ids": list(leg.ids), "groups": list(leg.groups), "scores": scores}
    return fields


def _leg_of(fields: Mapping[str, Any]) -> Leg:
    if fields["status"] != "done":
        return Leg(reason=str(fields["reason"]))
    items = fields["items"]
    return Leg(
        ids=tuple(map(str, items["ids"])),
        groups=tuple(map(str, items["groups"])),
        scores={name: (_numbers(pair[0]), _numbers(pair[1])) for name, pair in items["scores"].items()},
        samples={name: _numbers(values) for name, values in fields["samples"].items()},
        facts=dict(fields["facts"]),
        key=str(fields["key"]),
        seconds=float(fields["seconds"]),
    )


def _numbers(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]
