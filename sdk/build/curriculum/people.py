"""Word lists in, names and other words for people out."""

from random import Random

from sdk.build.curriculum.grammar import Words
from sdk.build.curriculum.wording import words

__all__ = ["PEOPLE"]

LISTS = words()
TITLES = ("Dr.", "Mr.", "Mrs.", "Ms.", "Professor", "Coach")
KIN = ("Aunt", "Uncle", "Grandma", "Cousin")


def person(rng: Random) -> str:
    """Somebody, as people call them: mostly a first name."""
    first, family = rng.choice(LISTS["first"]), rng.choice(LISTS["family"])
    forms = (
        first, first, first, first, first, first, f"{first} {family}", f"{first} {family}", f"{first} {family[0]}.",
        f"{rng.choice(TITLES)} {family}", f"{rng.choice(KIN)} {first}", f"my {rng.choice(LISTS['relative'])}",
        f"my {rng.choice(LISTS['relative'])}", f"my {rng.choice(LISTS['neutral'])} {first}",
        f"{first} from {rng.choice(LISTS['workplace'])}",
    )  # fmt: skip
    return rng.choice(forms)


def people(rng: Random) -> str:
    """One or more people to meet or to write to."""
    if rng.random() < 0.72:
        return person(rng)
    one, two, three = rng.sample(LISTS["first"], 3)
    return rng.choice((f"{one} and {two}", f"{one} and {two}", f"{one}, {two} and {three}", rng.choice(LISTS["group"])))


PEOPLE: Words = {
    "fullname": lambda rng: f"{rng.choice(LISTS['first'])} {rng.choice(LISTS['family'])}",
    "person": person,
    "people": people,
    "callee": lambda rng: person(rng) if rng.random() < 0.75 else rng.choice(LISTS["worker"]),
}
"""Kinds of words for people that are put together."""
