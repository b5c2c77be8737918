"""A file of JSON lines in; one record a line out.

Each line is an object with `answer` (or `text`), and if wanted `prompt`, `at` (ISO 8601, or seconds since 1970; in UTC
if it names no zone), `signal`, `consent` and `contact`, as in Experience. Other keys are ignored.
"""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from personalize.errors import SourceError
from personalize.experience import Consent, Experience, Signal
from personalize.sources.files import read_text
from personalize.sources.records import check_not_too_many, timeline, usable
from personalize.sources.text import times_from_order

__all__ = ["from_jsonl"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST, _LATEST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)  # Any zone fits.


def from_jsonl(path: Path) -> list[Experience]:
    """Take each line of a JSONL file as a record; lines with equal prompt and answer are taken once.

    A line without a time gets that of the line before; if no line has one, the order in the file is that in time.

    Raises:
        SourceError: The file cannot be used; or a line is broken, and then its number is named and nothing is taken.
    """
    lines = [(number, line) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
    check_not_too_many(len(lines), "lines", str(path))
    entries = [_entry(line, f"{path}, line {number}") for number, line in lines]
    times = _without_gaps([entry.pop("at") for entry in entries]) or times_from_order(path, len(entries))
    found = (usable(**entry, at=at) for entry, at in zip(entries, times, strict=True))
    return timeline(found, lambda experience: (experience.prompt, experience.answer), str(path))


def _entry(line: str, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as cause:
        reason = cause.msg if isinstance(cause, json.JSONDecodeError) else "a number or a nesting too large"
        raise SourceError(f"{where}: broken JSON ({reason}); mend or remove the line") from cause
    if not isinstance(entry, dict):
        raise SourceError(f"{where}: {type(entry).__name__} instead of an object; mend or remove the line")
    answer = entry.get("answer", entry.get("text"))
    prompt, contact = entry.get("prompt") or "", entry.get("contact")
    if not isinstance(answer, str):
        raise SourceError(f"{where}: no text under 'answer' or 'text'; add it or remove the line")
    if not isinstance(prompt, str) or not isinstance(contact, str | None):
        raise SourceError(f"{where}: prompt and contact must be text; mend or remove the line")
    try:
        return {
            "prompt": prompt,
            "answer": answer,
            "contact": contact,
            "signal": Signal(entry.get("signal", "written")),
            "consent": Consent(entry.get("consent", "learn")),
            "at": _time(entry.get("at")),
        }
    except (ValueError, TypeError, OverflowError) as cause:
        raise SourceError(f"{where}: {cause}; mend or remove the line") from cause


def _time(at: object) -> datetime | None:
    if at is None:
        return None
    if isinstance(at, str):
        time = datetime.fromisoformat(at)
        time = time if time.tzinfo else time.replace(tzinfo=UTC)
    elif isinstance(at, int | float) and not isinstance(at, bool):
        time = _EPOCH + timedelta(seconds=at)
    else:
        raise ValueError("'at' must be a text in ISO 8601 or a number of seconds")
    if not _EARLIEST < time < _LATEST:
        raise ValueError(f"'at' is outside the calendar: {at}")
    return time


def _without_gaps(times: list[datetime | None]) -> list[datetime]:
    """Give each missing time that of the line before, or at the start the first known; empty if none is known."""
    known = next((time for time in times if time is not None), None)
    filled = []
    for time in times if known else ():
        known = time or known
        filled.append(known)
    return [time for time in filled if time is not None]
