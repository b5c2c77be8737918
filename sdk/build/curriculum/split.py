"""A template or a value in, the side it stands on out: training or held out.

A side is decided by a digest of the text itself. So a value that serves as a person here and as a place there is on one
side everywhere, a new word moves no old one, and no list has to be kept in two parts.
"""

from enum import Enum
from functools import cache
from hashlib import sha256

__all__ = ["EVERYDAY", "Side", "of_side", "side_of"]


class Side(Enum):
    """Which of the two sets."""

    TRAIN = "train"
    HELD_OUT = "held_out"


VALUES_PER_HELD_OUT = 7  # One value in so many is kept from training.
TEMPLATES_PER_HELD_OUT = 6  # One template in so many of each group, rounded up: no action is without one.
EVERYDAY = frozenset(
    [
        "monday",
        "tuesday",
        "wednesday",
        "thursday",
        "friday",
        "saturday",
        "sunday",
        "today",
        "tomorrow",
        "tonight",
        "noon",
        "on",
        "off",
        "up",
        "down",
        "open",
        "close",
    ]
)
"""Values that every device hears daily: always trained, never held out."""


def side_of(value: str) -> Side:
    """The side of a value, whatever its case."""
    folded = value.lower()
    if folded in EVERYDAY:
        return Side.TRAIN
    return Side.HELD_OUT if _number(folded) % VALUES_PER_HELD_OUT == 0 else Side.TRAIN


@cache
def of_side(templates: tuple[str, ...], side: Side) -> tuple[str, ...]:
    """The templates of one group that stand on a side; held out are those whose digests are lowest."""
    ordered = sorted(set(templates), key=_number)
    held_out = ordered[: -(-len(ordered) // TEMPLATES_PER_HELD_OUT)]
    return tuple(template for template in templates if (template in held_out) is (side is Side.HELD_OUT))


def _number(text: str) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:8])
