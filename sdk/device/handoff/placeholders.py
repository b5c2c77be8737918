"""Kinds of values in, placeholders that no text of the request has out; a model's spelling of them in, values back out.

A placeholder is [KIND_N], or [KIND_N_M] for a further form M of the same person. Before N stands a mark, letters chosen
such that nothing in the request would be read as a placeholder with them; it is empty as a rule. A model may write a
placeholder back without brackets, in another case, with an escaped underscore, a blank or a hyphen, or with an ending.
"""

import re
from collections.abc import Iterable, Mapping

__all__ = ["KINDS", "Numbers", "mark_for", "put_back"]

KINDS = ("PERSON", "EMAIL", "URL", "IP", "CARD", "IBAN", "PHONE", "BIRTH", "ADDRESS", "ID", "SECRET")


def _name(prefix: str, joint: str) -> str:
    """A placeholder's name as a pattern with groups; `joint` stands between its kind and its number."""
    kinds, number = "|".join(KINDS), rf"(?P<{prefix}mark>[a-z]*)[0-9]+(?:\\?_[0-9]+)?"
    return rf"(?P<{prefix}kind>{kinds})\\?{joint}(?P<{prefix}number>{number})"


SPELLED = re.compile(
    rf"\[\s?{_name('in_', '[ _-]')}\s?\]|(?<![^\W_]){_name('', '[_-]')}(?![0-9])", re.IGNORECASE | re.ASCII
)

ANYWHERE = re.compile(_name("", "[ _-]"), re.IGNORECASE | re.ASCII)
"""What may be read as a placeholder once what stands before or behind it was replaced."""


class Numbers:
    """Gives each value of a request its placeholder."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._names: dict[tuple[str, str], str] = {}
        self._counts: dict[str, int] = {}
        self._people: dict[int, tuple[str, int]] = {}

    def name(self, kind: str, value: str, person: int | None) -> str:
        """The placeholder of a value, without brackets: the same one for the same value.

        Args:
            kind: One of KINDS.
            value: What it stands for.
            person: Which listed name it is a form of; forms of one name share their number.
        """
        known = self._names.get((kind, value))
        if known is None:
            known = self._names[kind, value] = self._form(kind, person) or self._fresh(kind, person)
        return known

    def entries(self) -> dict[str, str]:
        """Placeholder to value, in the order of first use."""
        return {name: value for (_, value), name in self._names.items()}

    def _form(self, kind: str, person: int | None) -> str | None:
        if kind != "PERSON" or person is None or person not in self._people:
            return None
        first, forms = self._people[person]
        self._people[person] = first, forms + 1
        return f"{first}_{forms + 1}"

    def _fresh(self, kind: str, person: int | None) -> str:
        self._counts[kind] = self._counts.get(kind, 0) + 1
        name = f"{kind}_{self._mark}{self._counts[kind]}"
        if kind == "PERSON" and person is not None:
            self._people[person] = name, 1
        return name


def mark_for(texts: Iterable[str]) -> str:
    """Letters that no text has where a placeholder's mark would stand: "" if none looks like a placeholder."""
    used = {match["mark"] for text in texts for match in ANYWHERE.finditer(text)}
    longest = max((len(mark) for mark in used), default=-1)
    return "" if "" not in used else "X" * (longest + 1)


def put_back(answer: str, entries: Mapping[str, str]) -> str:
    """An answer with the values of its placeholders; one that is not in `entries` is left as it is."""
    if not entries:
        return answer

    def value(match: re.Match[str]) -> str:
        kind, number = match["in_kind"] or match["kind"], match["in_number"] or match["number"]
        return entries.get(f"{kind}_{number}".replace("\\", "").upper(), match[0])

    return SPELLED.sub(value, answer)
