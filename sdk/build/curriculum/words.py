"""The word lists as one: every kind that a template may name."""

from sdk.build.curriculum.grammar import Words
from sdk.build.curriculum.moments import MOMENTS
from sdk.build.curriculum.people import PEOPLE
from sdk.build.curriculum.places import PLACES
from sdk.build.curriculum.things import THINGS
from sdk.build.curriculum.wording import words

__all__ = ["WORDS"]

WORDS: Words = {**words(), **PEOPLE, **MOMENTS, **PLACES, **THINGS}
