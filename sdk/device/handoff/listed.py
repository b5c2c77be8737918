"""Names that a person's contacts and store give in, where they stand in a text out, whatever their case and accents.

A name is found as whole words, and so is each of its parts of PART_LETTERS letters or more. A part, or a name of one
word, that is also an everyday word ("will", "rose") is found only with a capital. Scripts that write words without
blanks have no word borders to ask for. Of a contact that is an address, the name in it is meant: "Ana Kos" of
`Ana Kos <ana.kos@kos.example>` and of `ana.kos@kos.example`; the address itself is found without a list.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parseaddr
from itertools import pairwise

from sdk.device.handoff.found import Span
from sdk.errors import RedactionError

__all__ = ["EVERYDAY", "Listed", "folded"]

MAX_NAMES = 10_000
MAX_NAME_CHARACTERS = 100  # Bounds the depth of the pattern.
PART_LETTERS = 3  # Shorter parts of a name, such as "de" and "Li", are common words or syllables.
EVERYDAY_WORDS = """
will may mark rose grace hope faith joy june april august summer dawn jack bill frank art rich rob pat sue drew
chase grant pierce miles skip ray gene dale cliff heath lance nick penny ruby pearl amber crystal holly ivy lily
olive violet daisy iris jade angel christian hunter mason cook baker smith young long short brown black white
green gray king price rice bush wood stone field hill banks rivers day knight page best love case cash cross
early fields ford fox gold good hall hand head hood house law little lord man major moon new noble park pool
power sharp small snow son star strong sweet wall ward waters way west wise wolf worth van von der del los las
the and for not mum mom dad home office work person email url card phone birth address secret iban
"""
EVERYDAY = frozenset(EVERYDAY_WORDS.split())
ROLES = frozenset(
    ("info", "mail", "contact", "kontakt", "hello", "support", "team", "admin", "service", "sales", "reply")
)
"""What stands before the @ of an address that is nobody's own."""
WORD = re.compile("[^\\W_](?:[^\\W_]|[\u0300-\u036f])*")  # An accent may stand apart from its letter.
JOINT = re.compile(r"[\s.'’_-]{1,4}")  # Between the words of one name.

Words = tuple[str, ...]


@dataclass(frozen=True)
class Listed:
    """Names, ready to be looked for."""

    owners: Mapping[Words, int]
    """A folded name or part, word by word, to the place of the first listed name that has it."""
    unspaced: Mapping[str, int]
    """The same for names in scripts without blanks."""
    longest: Mapping[str, int]
    """First word of a name to how many words the longest one with it has."""

    @classmethod
    def of(cls, names: Iterable[str]) -> "Listed":
        """Prepare names.

        Raises:
            RedactionError: More than MAX_NAMES, or a name of more than MAX_NAME_CHARACTERS.
        """
        whole = {name: words for name in map(_name_in, names) if (words := _words(name))}
        if len(whole) > MAX_NAMES or any(len(name) > MAX_NAME_CHARACTERS for name in whole):
            raise RedactionError(
                f"at most {MAX_NAMES} names of at most {MAX_NAME_CHARACTERS} letters can be looked for, "
                f"got {len(whole)}; list fewer or shorter ones; nothing may leave"
            )
        unspaced = {"".join(words): place for place, (name, words) in enumerate(whole.items()) if _is_unspaced(name)}
        owners: dict[Words, int] = {}
        for place, words in enumerate(whole.values()):
            owners.setdefault(words, place)
        for place, (name, words) in enumerate(whole.items()):
            for part in (*map(_words, name.split()), *((word,) for word in words)):  # "Jean-Luc" before "Jean".
                if sum(map(len, part)) >= PART_LETTERS:
                    owners.setdefault(part, place)
        longest: dict[str, int] = {}
        for words in owners:
            longest[words[0]] = max(len(words), longest.get(words[0], 0))
        return cls(owners, unspaced, longest)

    def spans(self, text: str) -> Iterator[Span]:
        """Where the names stand in a text, the longest first where several begin."""
        plain = folded(text)
        places = list(WORD.finditer(plain)) if self.owners else []
        words = [_bare(match[0]) for match in places]
        for at, word in enumerate(words):
            for count in range(min(self.longest.get(word, 0), len(words) - at), 0, -1):
                if tuple(words[at : at + count]) in self.owners and _are_joined(plain, places[at : at + count]):
                    start, end = places[at].start(), places[at + count - 1].end()
                    if count > 1 or word not in EVERYDAY or text[start].isupper():
                        yield Span(start, end, "PERSON")
                    break
        for name in self.unspaced:
            for match in re.finditer(re.escape(name), plain):
                yield Span(match.start(), match.end(), "PERSON")

    def person(self, said: str) -> int | None:
        """Which listed name is meant by its form `said`; None for one that is not listed."""
        words = _words(said)
        return self.owners.get(words, self.unspaced.get("".join(words)))


def folded(text: str) -> str:
    """Lower case without accents, letter by letter, so that places in the text stay the same."""
    return text.lower() if text.isascii() else "".join(_folded_letter(one) for one in text)


def _folded_letter(one: str) -> str:
    plain = unicodedata.normalize("NFD", one)[0].lower() if not unicodedata.combining(one) else one
    return plain if len(plain) == 1 else one


def _bare(word: str) -> str:
    """A folded word without accents that stand apart."""
    return word if word.isascii() else "".join(one for one in word if not unicodedata.combining(one))


def _name_in(contact: str) -> str:
    """What somebody is called by a contact: a name as it is, that of an address; empty for a number or an office."""
    if "@" not in contact:
        return contact if any(one.isalpha() for one in contact) else ""
    shown, address = parseaddr(contact)
    own = re.split(r"[\W\d_]+", address.partition("@")[0].partition("+")[0])
    return shown or " ".join(word for word in own if word.lower() not in ROLES)


def _words(name: str) -> Words:
    return tuple(_bare(word) for word in WORD.findall(folded(name)))


def _are_joined(text: str, places: Sequence[re.Match[str]]) -> bool:
    """Whether words stand together as those of a name do."""
    return all(JOINT.fullmatch(text, one.end(), after.start()) for one, after in pairwise(places))


def _is_unspaced(name: str) -> bool:
    """Whether a name is in a script that writes words without blanks."""
    scripts = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER")
    return any(unicodedata.name(one, "").startswith(scripts) for one in name)
