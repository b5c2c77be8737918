"""Word lists in, songs, lists of goods, codes and names in programs out."""

from random import Random

from sdk.build.curriculum.grammar import Words
from sdk.build.curriculum.wording import words

__all__ = ["THINGS"]

LISTS = words()
STATEMENTS = ("I'", "I ", "the ", "we", "my ", "{first}", "dinner", "lunch", "practice", "it's")
ENDINGS = ("py", "py", "py", "js", "ts", "go", "rs", "c", "java", "rb", "swift")
LETTERS = "abcdefghjkmnpqrstuvwxyz"


def song(rng: Random) -> str:
    """An invented song title."""
    adjective, noun, verb = (rng.choice(LISTS[kind]) for kind in ("adjective", "noun", "song_verb"))
    other, when = rng.choice(LISTS["noun"]), rng.choice(("Home", "Tomorrow", "Again", "Slowly", "Tonight", "Anyway"))
    forms = (
        f"{adjective} {noun}", f"{adjective} {noun}", f"{noun} and {other}", f"The {adjective} {noun}", noun,
        f"{noun} in the {other}", f"{verb} Me {when}", f"{noun} of {other}", f"My {adjective} {noun}",
        f"No More {noun}", f"{verb} the {noun}", f"{adjective} {noun}, {adjective} {other}",
        f"Under the {adjective} {noun}",
        f"When the {noun} Comes", f"Don't {verb} Me", f"{noun} for Two",
    )  # fmt: skip
    return rng.choice(forms)


def artist(rng: Random) -> str:
    """An invented band or singer."""
    first, family, adjective, noun = (rng.choice(LISTS[kind]) for kind in ("first", "family", "adjective", "noun"))
    forms = (
        f"{first} {family}", f"{first} {family}", f"The {adjective} {noun}", f"{adjective} {noun}", f"DJ {first}",
        first,
        f"The {family} Brothers", f"{first} and the {noun}", f"{noun} Collective", f"{family} Trio", f"{noun} Club",
        f"MC {first}", f"Lil {noun}",
    )  # fmt: skip
    return rng.choice(forms)


def playlist(rng: Random) -> str:
    """The name of a playlist."""
    mood, more = rng.choice(LISTS["mood"]), rng.choice(("mix", "vibes", "hits", "jams"))
    forms = (
        mood, mood, f"{mood} {more}", f"{rng.choice(LISTS['adjective'])} {rng.choice(LISTS['noun'])}",
        f"{rng.choice(LISTS['genre'])} classics", f"{mood} {rng.randint(2010, 2026)}",
    )  # fmt: skip
    return rng.choice(forms)


def item(rng: Random) -> str:
    """Something for a list."""
    food = rng.choice(LISTS["food"])
    return rng.choice((food, food, food, rng.choice(LISTS["goods"]), f"{rng.choice(LISTS['measure'])} {food}"))


def code(rng: Random) -> str:
    """A short code."""
    return "".join(rng.choice(LETTERS) for _ in range(rng.randint(3, 5))) + str(rng.randint(10, 999))


def function(rng: Random) -> str:
    """The name of a function."""
    return f"{rng.choice(LISTS['code_verb'])}_{rng.choice(LISTS['code_noun'])}"


def file(rng: Random) -> str:
    """A file of a program."""
    return f"{rng.choice(('', 'src/', 'lib/', 'app/', 'core/'))}{rng.choice(LISTS['code_noun'])}.{rng.choice(ENDINGS)}"


THINGS: Words = {
    "song": song,
    "artist": artist,
    "playlist": playlist,
    "item": item,
    "statement": tuple(text for text in LISTS["message"] if text.startswith(STATEMENTS)),
    "code": code,
    "number": lambda rng: str(rng.randint(100, 99999)),
    "level": lambda rng: str(rng.randint(1, 40)),
    "size": lambda rng: str(rng.randint(6, 60)),
    "small": lambda rng: str(rng.randint(2, 90)),
    "score": lambda rng: f"{rng.randint(2, 98)} to {rng.randint(0, 40)}",
    "phone": lambda rng: f"555-{rng.randint(0, 9999):04d}",
    "flight": lambda rng: f"{rng.choice('ABDKLQSTU')}{rng.choice('AFHKLX')}{rng.randint(10, 999)}",
    "pressure": lambda rng: f"{rng.randint(100, 150)} over {rng.randint(60, 95)}",
    "paint": lambda rng: f"{rng.choice(LISTS['adjective'])} {rng.choice(LISTS['noun'])}",
    "version": lambda rng: f"{rng.randint(0, 12)}.{rng.randint(0, 30)}.{rng.randint(0, 12)}",
    "function": function,
    "file": file,
}
"""Kinds of words for what that are put together."""
