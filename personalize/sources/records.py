"""Found texts in; usable records out: plain, short enough, each once, in time order."""

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from datetime import datetime

from personalize.errors import SourceError
from personalize.experience import Consent, Experience, Signal, plain

__all__ = [
    "MAX_ANSWER_CHARS",
    "MAX_PROMPT_CHARS",
    "MAX_RECORDS",
    "MIN_RECORDS",
    "check_not_too_many",
    "is_robot",
    "require_enough",
    "timeline",
    "usable",
]

MIN_RECORDS = 20  # With fewer, the fifth held out for the test is 3 records or less, and says nothing.
MAX_RECORDS = 50_000  # Thirty a day for five years; so many small ones still fit in 200 MB of memory.
MAX_ANSWER_CHARS = 4_000  # About 1,000 tokens: half of the base model's context; the rest is room for prompt and reply.
MAX_PROMPT_CHARS = 1_000  # About 250 tokens; a longer prompt leaves less room for what is learned.
MAX_CONTACT_CHARS = 320  # The longest e-mail address: 64 characters, @, 255 characters.

_ROBOT = re.compile(
    r"(?<![a-z])(ro)?bots?(?![a-z])|(no|do[-_.]?not)[-_.]?reply@|mailer-daemon"
    r"|dependabot|renovate|greenkeeper|copybara|pre-commit-ci|github-actions|web-flow|mergify|allcontributors",
    re.IGNORECASE,
)


def is_robot(name_and_address: str) -> bool:
    """Say whether an author is a program, judged by name and address: its text is not a person's."""
    return bool(_ROBOT.search(name_and_address))


def usable(
    *,
    prompt: str,
    answer: str,
    at: datetime,
    signal: Signal = Signal.WRITTEN,
    consent: Consent = Consent.LEARN,
    contact: str | None = None,
    part_of: str | None = None,
) -> Experience | None:
    """Return a record with its texts cut to the limits above, or None if the answer has no letter and no digit."""
    answer = _shortened(answer, MAX_ANSWER_CHARS)
    if not any(char.isalnum() for char in answer):
        return None
    return Experience(
        prompt=_shortened(prompt, MAX_PROMPT_CHARS),
        answer=answer,
        at=at,
        signal=signal,
        consent=consent,
        contact=contact if contact is None else _shortened(contact, MAX_CONTACT_CHARS),
        part_of=part_of,
    )


def timeline(
    found: Iterable[Experience | None], same: Callable[[Experience], Hashable], source: str
) -> list[Experience]:
    """Return the usable records, oldest first, and of those for which `same` gives the same only the first.

    Raises:
        SourceError: There is none.
    """
    kept: dict[Hashable, Experience] = {}
    for experience in sorted((one for one in found if one is not None), key=lambda one: one.at):
        kept.setdefault(same(experience), experience)
    if not kept:
        raise SourceError(f"{source} has no usable text: 0 records found; give a source with at least {MIN_RECORDS}")
    return list(kept.values())


def check_not_too_many(count: int, what: str, source: str) -> None:
    """Refuse a source with more than MAX_RECORDS of `what` before they are built.

    Raises:
        SourceError: There are more.
    """
    if count > MAX_RECORDS:
        raise SourceError(f"{source} has {count:,} {what}, more than {MAX_RECORDS:,}; give its newest part")


def require_enough(experiences: Sequence[Experience], source: str) -> None:
    """Refuse a source that is too small to learn from and to test on.

    Raises:
        SourceError: Fewer than MIN_RECORDS may be learned.
    """
    count = sum(experience.learnable for experience in experiences)
    if count < MIN_RECORDS:
        raise SourceError(f"{source} has {count} usable records, fewer than {MIN_RECORDS}; give a longer source")


def _shortened(text: str, limit: int) -> str:
    return plain(text).strip()[:limit].rstrip()
