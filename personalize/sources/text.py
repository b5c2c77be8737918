"""A plain text file in; its paragraphs out, in their order."""

import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from personalize.experience import Experience, plain
from personalize.sources.files import read_text
from personalize.sources.records import MAX_ANSWER_CHARS, check_not_too_many, timeline, usable

__all__ = ["from_text", "times_from_order"]

_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*+\n)++")  # Possessive: takes no memory for a way back.


def from_text(path: Path) -> list[Experience]:
    """Take each paragraph (text between blank lines) of a file as a record; repeats are dropped.

    Raises:
        SourceError: The file cannot be used, or has no usable text.
    """
    whole = _BLANK_LINES.split(plain(read_text(path)))
    paragraphs = [piece for paragraph in whole for piece in _named_pieces(paragraph.strip())]
    check_not_too_many(len(paragraphs), "paragraphs", str(path))
    times = times_from_order(path, len(paragraphs))
    found = (
        usable(prompt="", answer=piece, at=at, part_of=name)
        for (piece, name), at in zip(paragraphs, times, strict=True)
    )
    return timeline(found, lambda experience: experience.answer, str(path))


def times_from_order(path: Path, count: int) -> list[datetime]:
    """Return `count` times a second apart, of which the last is when the file was last written: no text is younger."""
    last = datetime.fromtimestamp(int(path.stat().st_mtime), UTC)
    return [last - timedelta(seconds=count - 1 - index) for index in range(count)]


def _named_pieces(paragraph: str) -> Iterator[tuple[str, str | None]]:
    """The pieces of a paragraph, each with a name that they share; None where there is only one."""
    pieces = list(_pieces(paragraph))
    name = uuid.uuid4().hex if len(pieces) > 1 else None
    return ((piece, name) for piece in pieces)


def _pieces(paragraph: str) -> Iterator[str]:
    """Cut a paragraph that is longer than a record where a word ends; each piece is a record, and they are one unit."""
    start = 0
    while len(paragraph) - start > MAX_ANSWER_CHARS:
        limit = start + MAX_ANSWER_CHARS
        end = max(paragraph.rfind(" ", start + 1, limit), paragraph.rfind("\n", start + 1, limit))
        end = end if end > 0 else limit
        yield paragraph[start:end]
        start = end
    yield paragraph[start:]
