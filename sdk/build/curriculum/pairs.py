"""Paired templates in, free-text tasks with one right answer out: rewriting, replies, commit messages."""

from random import Random

from sdk.build.curriculum.examples import Example, capital, template_id
from sdk.build.curriculum.grammar import fill
from sdk.build.curriculum.split import Side, of_side
from sdk.build.curriculum.wording import entries, sections
from sdk.build.curriculum.words import WORDS
from sdk.tasks import prompt

__all__ = ["PAIRED", "paired"]

PAIRED = tuple(sections("pairs"))
"""Tasks whose examples are two wordings of one thing."""
GAP = "\0"  # Between parts that are filled together; no template has this character.
SMALL_SHARE = 0.3  # Of casual messages: typed without one capital letter.


def paired(task: str, side: Side, rng: Random) -> Example:
    """Fill one pair of a task; a slot holds the same words in both."""
    wanted = dict(entries("pairs", task))
    given = rng.choice(of_side(tuple(wanted), side))
    text, answer = fill(given + GAP + wanted[given], WORDS, side, rng).text.split(GAP)
    if task != "formal" and not text.startswith("--- "):  # Casual messages and diffs stay as they are.
        text = capital(text)
    elif task == "formal" and rng.random() < SMALL_SHARE:
        text = text.lower()
    return Example(task=task, prompt=prompt(task, text), answer=capital(answer), template=template_id(task, given))
