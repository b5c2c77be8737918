"""Public text of many people in, as JSON lines or git histories; each person's (prompt, answer) pairs out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from personalize.errors import SourceError
from personalize.sources import from_git, git_authors
from sdk.build.basis import MIN_RECORDS_EACH, People
from sdk.errors import BasisError

__all__ = ["read_people", "spread"]

Item = TypeVar("Item")

MAX_FILE_BYTES = 1_000_000_000  # Read a line at a time; a larger file was hardly meant.
MAX_LINE_CHARS = 100_000
MAX_RECORDS_EACH = 96  # Of one person, evenly spread over time: more say little about how people differ.


def read_people(
    files: Sequence[Path] = (), repositories: Sequence[Path] = (), *, records_each: int = MAX_RECORDS_EACH
) -> People:
    """Read public people; whoever has too few records is left out later, with the reason.

    Args:
        files: JSON lines, each an object with `person`, `answer` and if wanted `prompt`, in time order.
        repositories: Git repositories; every author is a person.
        records_each: Records kept of each person, evenly spread over time.

    Raises:
        BasisError: A source cannot be read; nothing was learned.
    """
    people: dict[str, list[tuple[str, str]]] = {}
    for path in files:
        for person, pair in _lines(path):
            people.setdefault(person, []).append(pair)
    for repository in repositories:
        for person, rows in _authors(repository).items():
            people.setdefault(person, []).extend(rows)
    return {person: spread(rows, records_each) for person, rows in people.items()}


def spread(items: Sequence[Item], limit: int | None) -> list[Item]:
    """At most `limit` items, evenly spread over their order, which is time; None takes all."""
    if limit is None or len(items) <= limit:
        return list(items)
    return [items[index * len(items) // limit] for index in range(limit)]


def _lines(path: Path) -> list[tuple[str, tuple[str, str]]]:
    found = []
    try:
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise BasisError(f"{path} has {size / 1e6:,.0f} MB, at most {MAX_FILE_BYTES / 1e6:,.0f} are read; split it")
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    found.append(_entry(line, f"{path}, line {number}"))
    except (OSError, UnicodeDecodeError) as cause:
        raise BasisError(f"{path} cannot be read as UTF-8 text ({cause}); give a file of JSON lines") from cause
    return found


def _entry(line: str, where: str) -> tuple[str, tuple[str, str]]:
    try:
        entry = dict(json.loads(line if len(line) <= MAX_LINE_CHARS else ""))
        person, prompt, answer = entry["person"], entry.get("prompt", ""), entry["answer"]
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as cause:
        raise BasisError(f"{where} is no object with `person` and `answer`; mend or remove the line") from cause
    if not all(isinstance(text, str) for text in (person, prompt, answer)) or not answer.strip():
        raise BasisError(f"{where}: `person`, `prompt` and `answer` must be text, the answer not blank; mend the line")
    return person, (prompt, answer)


def _authors(repository: Path) -> dict[str, list[tuple[str, str]]]:
    try:
        able = [author for author, commits in git_authors(repository) if commits >= MIN_RECORDS_EACH]
        return {author: [(item.prompt, item.answer) for item in from_git(repository, author)] for author in able}
    except SourceError as cause:
        raise BasisError(str(cause)) from cause
