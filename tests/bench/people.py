"""Benchmark data in, people with their records in time order out; split so that test people's sources are unseen.

Commit subjects: test authors come from repositories that give no public author. Chat: the channel is one, so only the
people are held out. Nothing here is copied into the product; where the data is missing a bench says so and stops.
"""

import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DATA", "Rows", "Split", "chats", "commits", "data_folder", "shuffled", "write"]

DATA = "LIMBECK_BENCH_DATA"
"""Environment variable: the folder of the benchmark data; default: `shared/data` beside the repository."""

MIN_RECORDS = 45
TEST_REPOSITORIES = frozenset(
    {"huggingface/peft", "pallets/click", "encode/httpx", "patrick-kidger/equinox", "pytorch/opacus"}
    | {"simonw/sqlite-utils"}
)
TEST_PEOPLE_OF_SIX = 1  # One chat author of six is a test person, chosen by a hash.
MIN_CHARS = 12  # "ok", "thanks": nobody's style.
_ADDRESSED = re.compile(r"^[0-9a-f]{8}\s*[:,]\s*")

Rows = Sequence[tuple[str, str]]
People = Mapping[str, Rows]
"""Name to (prompt, answer) pairs in time order."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """People of one kind of text."""

    public: People
    """Who may be learned from without privacy."""
    test: People
    """Who is learned from on the device."""


def data_folder(name: str) -> Path | None:
    """Folder of one data set, or None where it is missing."""
    folder = Path(os.environ.get(DATA) or Path(__file__).parents[3] / "shared" / "data") / name
    return folder if folder.is_dir() else None


def commits() -> Split | None:
    """Commit subjects by author; no prompt. None without the data."""
    if (folder := data_folder("commit_streams")) is None:
        return None
    found = defaultdict(list)
    for repository, author, at, subject in _rows(folder / "commit_subjects.tsv"):
        if subject.strip():
            found[repository, author].append((int(at), subject))
    people = {key: [("", text) for _, text in sorted(rows)] for key, rows in found.items()}
    return _split(
        {f"{repository}/{author}": rows for (repository, author), rows in people.items()},
        {f"{repository}/{author}" for repository, author in people if repository in TEST_REPOSITORIES},
    )


def chats() -> Split | None:
    """Chat messages by nick; the prompt is the message before, where somebody else wrote it. None without the data."""
    if (folder := data_folder("ubuntu_irc")) is None:
        return None
    people = defaultdict(list)
    before = ("", "", "")
    for day, _, author, raw in _rows(folder / "messages.tsv"):
        text = _ADDRESSED.sub("", raw).strip()
        context = before[2] if before[0] == day and before[1] != author else ""
        if len(text) >= MIN_CHARS:
            people[author].append((context, text))
        before = (day, author, text)
    return _split(people, {name for name in people if _number(name) % 6 < TEST_PEOPLE_OF_SIX})


def shuffled(people: People) -> list[str]:
    """Names in an order that a hash fixes: the first few are a fair sample."""
    return sorted(people, key=lambda name: _number(f"order {name}"))


def write(people: People, path: Path) -> None:
    """Write people as `limbeck build basis --people` reads them."""
    with path.open("w", encoding="utf-8") as out:
        for person, rows in people.items():
            for prompt, answer in rows:
                out.write(json.dumps({"person": person, "prompt": prompt, "answer": answer}) + "\n")


def _rows(path: Path) -> list[list[str]]:
    """The rows of a tab-separated file, without its header and without lines that hold another number of fields."""
    head, *lines = path.read_text(encoding="utf-8").split("\n")
    return [fields for line in lines if len(fields := line.split("\t")) == len(head.split("\t"))]


def _split(people: People, test: set[str]) -> Split:
    able = {name: rows for name, rows in people.items() if len(rows) >= MIN_RECORDS}
    return Split(
        public={name: rows for name, rows in able.items() if name not in test},
        test={name: rows for name, rows in able.items() if name in test},
    )


def _number(name: str) -> int:
    return int(hashlib.sha256(name.encode()).hexdigest(), 16)
