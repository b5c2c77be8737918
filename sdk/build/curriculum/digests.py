"""Kinds of events in, texts about them with their summary or title out.

A story is its main sentence, worded in several ways, among details that do not matter. The summary states the main fact
in words of its own; the title names it. What is held out is a wording of the main sentence.
"""

from functools import cache
from random import Random
from typing import NamedTuple

from sdk.build.curriculum.examples import Example, capital, template_id
from sdk.build.curriculum.grammar import fill
from sdk.build.curriculum.split import Side, of_side
from sdk.build.curriculum.wording import sections
from sdk.build.curriculum.words import WORDS
from sdk.tasks import prompt

__all__ = ["summary", "title"]

GAP = "\0"  # Between parts that are filled together; no template has this character.
FRAMES = ("greetings", "closings", "asides")
ASIDE_SHARE, LETTER_SHARE = 0.4, 0.35  # Of all texts: with a sentence beside the matter; with greeting and name.


class Story(NamedTuple):
    """One kind of event."""

    title: str
    summary: str
    mains: tuple[str, ...]
    details: tuple[str, ...]


def summary(side: Side, rng: Random) -> Example:
    """A text of a few sentences, and the one that states its main fact."""
    text, _, summed, main = _told(side, rng)
    return Example(task="summary", prompt=prompt("summary", text), answer=summed, template=template_id("summary", main))


def title(side: Side, rng: Random) -> Example:
    """A text of a few sentences, and its title."""
    text, named, _, main = _told(side, rng)
    return Example(task="title", prompt=prompt("title", text), answer=named, template=template_id("title", main))


def _told(side: Side, rng: Random) -> tuple[str, str, str, str]:
    """A text, its title, its summary, and the template of its main sentence."""
    story = rng.choice(_stories())
    main = rng.choice(of_side(story.mains, side))
    details = rng.sample(story.details, rng.choice((1, 2, 2, 3)))
    if rng.random() < ASIDE_SHARE:
        details.insert(rng.randrange(len(details) + 1), rng.choice(sections("stories")["asides"]))
    details.insert(rng.choice((0, 0, 0, 0, 1, 1, len(details))), main)  # Mostly first, as people write.
    if rng.random() < LETTER_SHARE:
        frame = sections("stories")
        details = [rng.choice(frame["greetings"]), *details, rng.choice(frame["closings"])]
    filled = fill(GAP.join((" ".join(details), story.title, story.summary)), WORDS, side, rng).text
    text, named, summed = (capital(part) for part in filled.split(GAP))
    return text, named, summed, main


@cache
def _stories() -> list[Story]:
    return [_story(lines) for name, lines in sections("stories").items() if name not in FRAMES]


def _story(lines: tuple[str, ...]) -> Story:
    parts: dict[str, list[str]] = {}
    for line in lines:
        name, _, text = line.partition(": ")
        parts.setdefault(name, []).append(text)
    return Story(parts["title"][0], parts["summary"][0], tuple(parts["main"]), tuple(parts["detail"]))
