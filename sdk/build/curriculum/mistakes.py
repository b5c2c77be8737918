"""A correct sentence in, the same sentence with mistakes that people make out."""

import re
from collections.abc import Callable, Mapping
from random import Random
from types import MappingProxyType

from sdk.build.curriculum.wording import entries

__all__ = ["MISTAKES", "spoiled"]

NEIGHBORS = {
    "a": "sq", "b": "vn", "c": "xv", "d": "sf", "e": "wr", "f": "dg", "g": "fh", "h": "gj", "i": "uo", "j": "hk",
    "k": "jl", "l": "k", "m": "n", "n": "bm", "o": "ip", "p": "o", "q": "w", "r": "et", "s": "ad", "t": "ry", "u": "yi",
    "v": "cb", "w": "qe", "x": "zc", "y": "tu", "z": "x",
}  # fmt: skip
LONG_WORD = re.compile(
    r"\b[a-z]{4,}\b"
)  # Without capitals: a name cannot be corrected by somebody who does not know it.


def _swapped_letters(text: str, rng: Random) -> str:
    return _in_word(text, rng, lambda word, at: word[:at] + word[at + 1] + word[at] + word[at + 2 :])


def _dropped_letter(text: str, rng: Random) -> str:
    return _in_word(text, rng, lambda word, at: word[:at] + word[at + 1 :])


def _doubled_letter(text: str, rng: Random) -> str:
    return _in_word(text, rng, lambda word, at: word[: at + 1] + word[at:])


def _wrong_key(text: str, rng: Random) -> str:
    return _in_word(text, rng, lambda word, at: word[:at] + rng.choice(NEIGHBORS[word[at]]) + word[at + 1 :])


def _in_word(text: str, rng: Random, change: Callable[[str, int], str]) -> str:
    words = list(LONG_WORD.finditer(text))
    if not words:
        return text
    word = rng.choice(words)
    return text[: word.start()] + change(word[0], rng.randrange(1, len(word[0]) - 1)) + text[word.end() :]


def _doubled_word(text: str, rng: Random) -> str:
    words = text.split(" ")
    at = rng.randrange(1, len(words) - 1)
    return " ".join([*words[: at + 1], words[at], *words[at + 1 :]]) if words[at].isalpha() else text


def _swap_of(section: str) -> Callable[[str, Random], str]:
    pairs = entries("mistakes", section)

    def swap(text: str, rng: Random) -> str:
        fitting = [(right, wrong) for right, wrong in pairs if re.search(rf"\b{re.escape(right)}\b", text)]
        if not fitting:
            return text
        right, wrong = rng.choice(fitting)
        return re.sub(rf"\b{re.escape(right)}\b", wrong, text, count=1)

    return swap


def _lower_start(text: str, rng: Random) -> str:
    return text[0].lower() + text[1:] if text.split()[0] not in ("I", "I'm") and text[1:2].islower() else text


def _lower_i(text: str, rng: Random) -> str:
    return re.sub(r"\bI\b", "i", text, count=1)


def _no_apostrophe(text: str, rng: Random) -> str:
    return re.sub(r"(?<=[a-z])'(?=(t|s|re|m|ll)\b)", "", text, count=1)


def _no_end(text: str, rng: Random) -> str:
    return text.rstrip(".?!")


def _wrong_article(text: str, rng: Random) -> str:
    return re.sub(r"\b(a|an) (?=[a-z])", lambda match: "an " if match[1] == "a" else "a ", text, count=1)


def _no_article(text: str, rng: Random) -> str:
    found = list(re.finditer(r"(?<= )(a|an) (?=[a-z])", text))
    if not found:
        return text
    gone = rng.choice(found)
    return text[: gone.start()] + text[gone.end() :]


MISTAKES: Mapping[str, Callable[[str, Random], str]] = MappingProxyType(
    {
        "swapped letters": _swapped_letters,
        "dropped letter": _dropped_letter,
        "doubled letter": _doubled_letter,
        "wrong key": _wrong_key,
        "doubled word": _doubled_word,
        "confused words": _swap_of("confused words"),
        "agreement": _swap_of("agreement"),
        "wrong form": _swap_of("wrong form"),
        "small start": _lower_start,
        "small i": _lower_i,
        "no apostrophe": _no_apostrophe,
        "no end": _no_end,
        "wrong article": _wrong_article,
        "no article": _no_article,
    }
)
"""Name to a function that puts one such mistake into a text, or returns the text where it has no place."""


def spoiled(text: str, count: int, rng: Random) -> str:
    """Put `count` mistakes of different sorts into a text, fewer where it has no room for them."""
    sorts = rng.sample(sorted(MISTAKES), len(MISTAKES))
    for sort in sorts:
        if count == 0:
            break
        changed = MISTAKES[sort](text, rng)
        count -= changed != text
        text = changed
    return text
