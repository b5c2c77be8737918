"""Sentence templates and word lists in, different finished sentences out."""

import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import NamedTuple

__all__ = ["Pair", "Text", "Words", "fill", "paired", "sample", "sample_texts"]

Words = Mapping[str, Sequence[str]]

SLOT = re.compile(r"\{([a-z_]+)(\d*)(?::(\d))?\}")
CHOICE = re.compile(r"\[([^|\]]*)\|([^\]]*)\]")
ARTICLE = re.compile(r"\b([Aa]) (?=[aeioAEIO])")  # Not "u": a uniform, a useful map.
MAX_TRIES = 400  # Draws a template gets for one more new sentence before it counts as used up.


class Text(NamedTuple):
    """Something asked and the text that answers it."""

    prompt: str
    answer: str


class Pair(NamedTuple):
    """Two texts that differ in one place; the first is the one to prefer."""

    phenomenon: str
    good: str
    bad: str


def fill(template: str, words: Words, rng: Random) -> str:
    """Replace each {slot} by a word of its list.

    The same slot gets the same word everywhere in the template; {name1} and {name2} get two different words
    of the list "name". A word with several forms, "go|goes|went", is asked for by number: {move:0}, {move:2}.
    """
    chosen: dict[str, str] = {}

    def draw(match: re.Match[str]) -> str:
        kind, number, form = match.groups()
        slot = kind + number
        if slot not in chosen:
            taken = {word for other, word in chosen.items() if other.rstrip("0123456789") == kind}
            chosen[slot] = rng.choice([word for word in words[kind] if word not in taken])
        return chosen[slot] if form is None else chosen[slot].split("|")[int(form)]

    return ARTICLE.sub(r"\1n ", SLOT.sub(draw, template))


def sample(templates: Sequence[str], words: Words, count: int, rng: Random) -> list[str]:
    """Draw `count` different texts, the templates taking turns so that each is used about equally often.

    Raises:
        ValueError: The templates cannot make that many different texts.
    """
    made: dict[str, None] = {}
    open_templates = list(templates)
    while len(made) < count:
        if not open_templates:
            raise ValueError(f"{len(templates)} templates make {len(made)} different texts, {count} were asked for")
        for template in list(open_templates):
            for _ in range(MAX_TRIES):
                text = fill(template, words, rng)
                if text not in made:
                    made[text] = None
                    break
            else:
                open_templates.remove(template)
            if len(made) == count:
                break
    return list(made)


def sample_texts(templates: Sequence[Text], words: Words, count: int, rng: Random) -> list[Text]:
    """Draw `count` different prompts with their answers; a slot means the same word in both."""
    joined = sample([f"{prompt}\0{answer}" for prompt, answer in templates], words, count, rng)
    return [Text(*text.split("\0")) for text in joined]


def paired(phenomena: Mapping[str, Sequence[str]], words: Words, each: int, rng: Random) -> list[Pair]:
    """Draw `each` pairs of each phenomenon, which take turns; a template writes both sides at once, as [good|bad]."""
    drawn = {phenomenon: sample(templates, words, each, rng) for phenomenon, templates in phenomena.items()}
    return [
        Pair(phenomenon, _side(texts[turn], 0), _side(texts[turn], 1))
        for turn in range(each)
        for phenomenon, texts in drawn.items()
    ]


def _side(text: str, side: int) -> str:
    """Keep the good (0) or the bad (1) form of each [good|bad]."""
    return CHOICE.sub(lambda match: match.group(side + 1), text)
