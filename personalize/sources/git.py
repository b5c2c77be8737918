"""A git repository in; one person's commit messages out, in time order, each with the files it touched."""

import re
import secrets
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from personalize.errors import SourceError
from personalize.experience import Experience
from personalize.sources.git_log import git_log
from personalize.sources.records import MAX_PROMPT_CHARS, is_robot, timeline, usable

__all__ = ["MAX_COMMITS", "from_git", "git_authors"]

MAX_COMMITS = 10_000  # The newest so many of one person: ten years at three a day, and at most 40 MB in memory.
MAX_FILES = 20  # So many of a commit's files make the prompt: a sweeping change says no more with its hundredth name.

_MERGE = re.compile(r"Merge (branch|pull request|remote-tracking branch|tag|commit) ")
_PULL_REQUEST = re.compile(r" ?\(#\d+\)$")
_TRAILER = re.compile(r"^([a-z]+(-[a-z]+)*-by|cc|change-id|git-svn-id|piperorigin-revid) ?:.*\n?", re.I | re.M)


def git_authors(path: Path) -> list[tuple[str, int]]:
    """Return the e-mail addresses of the repository's authors with their number of commits, the most active first.

    Merges and programs (bots) do not count; a `.mailmap` does.

    Raises:
        SourceError: No repository, no commits, no `git`, or it takes too long.
    """
    return _ranked(_addresses(path))


def from_git(path: Path, author: str | None = None, *, limit: int = MAX_COMMITS) -> list[Experience]:
    """Take the newest `limit` commits of one author, oldest first; without `author`, of the one with the most commits.

    A record's answer is the commit's subject and body (without trailers, which name other people), its prompt the
    touched files, its time the author date. Merges, programs and repeated messages are left out.

    Raises:
        SourceError: As `git_authors`, or that author has no commits; up to three who have are named.
    """
    addresses = _addresses(path)
    ranked = _ranked(addresses)
    wanted = ranked[0][0] if author is None else _canonical(author, addresses)
    if wanted is None:
        others = ", ".join(f"{address} ({count})" for address, count in ranked[:3])
        more = ", …" if len(ranked) > 3 else ""
        raise SourceError(f"{path} has 0 commits by {author}; choose an author it has: {others}{more}")
    with closing(_commits(path, wanted)) as commits:
        found = list(islice(commits, limit))
    return timeline(reversed(found), lambda experience: experience.answer, str(path))


def _addresses(path: Path) -> Counter[tuple[str, str]]:
    """Count commits by (address after .mailmap, address as committed), in lower case, without programs."""
    counted: Counter[tuple[str, str]] = Counter()
    with closing(git_log(path, "--format=%aN%x00%aE%x00%ae")) as fields:
        for name in fields:
            mapped, committed = next(fields, "").lower(), next(fields, "").lower()
            if not is_robot(f"{name} <{mapped}> <{committed}>"):
                counted[mapped, committed] += 1
    if not counted:
        raise SourceError(f"{path} has 0 commits by people; give a repository with commits")
    return counted


def _ranked(addresses: Counter[tuple[str, str]]) -> list[tuple[str, int]]:
    by_person: Counter[str] = Counter()
    for (mapped, _), count in addresses.items():
        by_person[mapped] += count
    return sorted(by_person.items(), key=lambda entry: (-entry[1], entry[0]))


def _canonical(author: str, addresses: Counter[tuple[str, str]]) -> str | None:
    wanted = author.strip().lower()
    return next((mapped for mapped, committed in addresses if wanted in (mapped, committed)), None)


def _commits(path: Path, address: str) -> Generator[Experience]:
    """Yield the usable commits of one author, newest first."""
    mark = secrets.token_hex(16)  # Starts each commit; no message can contain what was drawn after it was written.
    by_author = ("--fixed-strings", "--regexp-ignore-case", f"--author=<{address}>")
    with closing(git_log(path, *by_author, "--name-only", f"--format={mark}%x00%aN%x00%aE%x00%at%x00%B%x00")) as fields:
        field = next(fields, None)
        while field is not None:
            name, found, seconds, message = (next(fields, "") for _ in range(4))
            files: list[str] = []
            total = 0
            while (field := next(fields, None)) is not None and field != mark:
                if file := field.removeprefix("\n"):
                    total += 1
                    files += [file] if len(files) < MAX_FILES else []
            if found.lower() == address and not is_robot(f"{name} <{found}>") and not _MERGE.match(message):
                experience = _experience(message, files, total, seconds)
                if experience is not None:
                    yield experience


def _experience(message: str, files: list[str], total: int, seconds: str) -> Experience | None:
    try:
        at = datetime.fromtimestamp(int(seconds), UTC)
    except (ValueError, OverflowError, OSError):
        return None  # A date outside the calendar: someone's joke, no time to learn from.
    subject, _, body = message.partition("\n")
    answer = _PULL_REQUEST.sub("", subject.rstrip()) + "\n" + _TRAILER.sub("", body)
    return usable(prompt=_prompt(files, total), answer=re.sub(r"\n{3,}", "\n\n", answer), at=at)


def _prompt(files: list[str], total: int) -> str:
    """Return whole file names, one a line, as many as fit, and how many more there are."""
    room = MAX_PROMPT_CHARS - len("… and 1,000,000 more\n")
    lines: list[str] = []
    for file in files:
        room -= len(file) + 1
        if room < 0:
            break
        lines.append(file)
    left = total - len(lines)
    return "\n".join([*lines, f"… and {left:,} more"] if left else lines)
