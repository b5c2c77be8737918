"""Word lists in, addresses, destinations and meeting places out."""

from random import Random

from sdk.build.curriculum.grammar import Words
from sdk.build.curriculum.wording import words

__all__ = ["PLACES"]

LISTS = words()
ROADS = ("Street", "Street", "Road", "Avenue", "Lane", "Drive", "Square", "Court")
HOUSES = ("Hospital", "Park", "Station", "School", "Library", "Museum", "Mall")
KITCHENS = ("Cafe", "Bistro", "Grill", "Bakery", "Kitchen", "Bar", "Diner")
HERE = ("my hotel", "the office", "me", "my house", "campus", "work")


def street(rng: Random) -> str:
    """A street."""
    return f"{rng.choice(LISTS['street_name'])} {rng.choice(ROADS)}"


def address(rng: Random) -> str:
    """A street with its number."""
    return f"{rng.randint(1, 480)} {street(rng)}"


def named_venue(rng: Random) -> str:
    """A place that serves food or drink, by its name."""
    name, kind = rng.choice(LISTS["venue_word"]), rng.choice(KITCHENS)
    return rng.choice((f"{name} {kind}", f"the {name} {kind}", f"{kind} {name}" if kind in ("Cafe", "Bar") else name))


def destination(rng: Random) -> str:
    """Where somebody may want to go."""
    forms = (
        address(rng), address(rng), rng.choice(LISTS["town"]), rng.choice(LISTS["town"]), rng.choice(LISTS["sight"]),
        rng.choice(LISTS["sight"]), f"the nearest {rng.choice(LISTS['place_kind'])}", named_venue(rng), street(rng),
        f"{rng.choice(LISTS['street_name'])} {rng.choice(HOUSES)}", f"{address(rng)}, {rng.choice(LISTS['town'])}",
    )  # fmt: skip
    return rng.choice(forms)


def venue(rng: Random) -> str:
    """Where people meet."""
    known = rng.choice(LISTS["meeting_place"])
    return rng.choice((known, known, named_venue(rng), address(rng)))


def near(rng: Random) -> str:
    """What another place may be near to."""
    return rng.choice(
        (rng.choice(LISTS["sight"]), rng.choice(LISTS["town"]), address(rng), street(rng), rng.choice(HERE))
    )


PLACES: Words = {
    "street": street,
    "address": address,
    "destination": destination,
    "venue": venue,
    "near": near,
}
"""Kinds of words for where that are put together."""
