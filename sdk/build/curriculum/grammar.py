"""Templates with named slots in, finished texts with the words of each slot out.

A template is text with three marks:
  (a|b|)        one of these, each as likely; may be nested
  {kind}        words of this kind
  {slot:kind}   the same, and they are the value of `slot`
The same slot gets the same words everywhere in one filling. A word list may give words with a part that goes before
them but is not of the value, as in "on |Friday". A word may hold slots itself: "{person}'s birthday".
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from sdk.build.curriculum.split import Side, side_of

__all__ = ["SHARED", "Filled", "Words", "fill", "pick"]

Source = Sequence[str] | Callable[[Random], str]
Words = Mapping[str, Source]
"""Kind to its words, or to a function that makes some."""

CHOICE = re.compile(r"\(([^()]*\|[^()]*)\)")
SLOT = re.compile(r"\{(?:([a-z_]+\d*):)?([a-z_]+)(\d*)\}")
ARTICLE = re.compile(r"\b([Aa]) (?=[aeioAEIO]|hour)")  # Not "u": a uniform, a useful map.
SHARED = frozenset(("weekday", "month", "count", "countdigit"))  # So few words that both sides need them all.
MAX_DRAWS = 400  # Draws for words on one side; every list holds words of both.


@dataclass
class Filled:
    """A finished text and what its slots hold."""

    text: str
    slots: dict[str, str] = field(default_factory=dict)
    """Slot to its value, without the part before it; a kind without a slot name stands under the kind."""


def fill(template: str, words: Words, side: Side | None, rng: Random) -> Filled:
    """Decide every choice and fill every slot of a template with words of one side.

    Args:
        template: Text with the marks above.
        words: Kind to its words.
        side: Whole values of the other side are never used; None takes both.
        rng: All chance comes from here.

    Raises:
        KeyError: The template names a kind that `words` lacks.
    """
    values: dict[str, str] = {}
    shown: dict[str, str] = {}

    def draw(match: re.Match[str]) -> str:
        kind, number = match[2], match[3]
        slot = match[1] or kind + number
        if slot not in values:
            taken = {
                value for other, value in values.items() if other.rstrip("0123456789") == slot.rstrip("0123456789")
            }
            shown[slot], values[slot] = pick(kind, words, side, rng, taken)
        return shown[slot]

    return Filled(text=ARTICLE.sub(r"\1n ", SLOT.sub(draw, chosen(template, rng))), slots=values)


def pick(
    kind: str, words: Words, side: Side | None, rng: Random, taken: Collection[str] = frozenset()
) -> tuple[str, str]:
    """Draw words of one kind: as they stand in the text, and the value alone.

    Raises:
        ValueError: The kind has no words of this side left.
    """
    for _ in range(MAX_DRAWS):
        source = words[kind]
        raw = source(rng) if callable(source) else rng.choice(source)
        raw = SLOT.sub(lambda match: pick(match[2], words, None, rng)[1], chosen(raw, rng))
        before, _, value = raw.rpartition("|")
        value = ARTICLE.sub(r"\1n ", value)
        if value not in taken and (side is None or kind in SHARED or side_of(value) is side):
            return before + value, value
    raise ValueError(f"no {kind} of the side {side} left")


def chosen(template: str, rng: Random) -> str:
    """Decide every (a|b)."""
    while found := CHOICE.search(template):
        template = template[: found.start()] + rng.choice(found[1].split("|")) + template[found.end() :]
    return template
