"""Templates of everyday sentences in, correct sentences out: what the proofreading task spoils and wants back."""

from random import Random

from sdk.build.curriculum.examples import capital
from sdk.build.curriculum.grammar import fill
from sdk.build.curriculum.split import Side, of_side
from sdk.build.curriculum.wording import sections
from sdk.build.curriculum.words import WORDS

__all__ = ["sentence"]


def sentence(side: Side, rng: Random) -> tuple[str, str]:
    """A correct sentence, and its template."""
    template = rng.choice(of_side(sections("sentences")["sentences"], side))
    return capital(fill(template, WORDS, side, rng).text), template
