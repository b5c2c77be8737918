"""Prompt, answer, signal, consent and time in; one thing the user taught us out, as a plain frozen value."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from personalize.errors import ExperienceError

MAX_TEXT_CHARS = 100_000  # A record is one message; a longer text is a file, and files come in through sources.

_LINE_BREAKS = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
# What no person types: control characters (terminal escapes), direction overrides (text that reads unlike its bytes),
# and lone surrogates, which no tokenizer takes.
_UNWANTED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Signal(Enum):
    """How the user showed that this text is theirs."""

    WRITTEN = "written"
    ACCEPTED = "accepted"
    EDITED = "edited"
    REJECTED = "rejected"


class Consent(Enum):
    """What the user lets us do with it: learn from it, or only keep it."""

    LEARN = "learn"
    KEEP = "keep"


def plain(text: str) -> str:
    """Return `text` with newlines as line breaks, without control characters, direction overrides, lone surrogates."""
    return _UNWANTED.sub("", _LINE_BREAKS.sub("\n", text))


@dataclass(frozen=True, kw_only=True)
class Experience:
    """One thing the user taught us. Texts are made `plain` and the time whole UTC seconds when it is built.

    Raises:
        ExperienceError: The answer is empty, a text is too long, or the time has no zone.
    """

    prompt: str
    """What was asked or given, may be empty."""
    answer: str
    """What the user wrote, accepted or rejected; this is what is learned, never empty."""
    signal: Signal = Signal.WRITTEN
    """How the user showed that the answer is theirs."""
    consent: Consent = Consent.LEARN
    """What the user lets us do with it."""
    at: datetime
    """When it happened, in UTC; finer than a second would tell more about the person and teach nothing."""
    contact: str | None = None
    """Who else is in it, such as an e-mail address, so that everything with one person can be forgotten."""
    part_of: str | None = None
    """Names the longer text that this is a piece of, so that its pieces are protected together; None: it is whole."""
    id: str = ""
    """Given by the store; empty before."""

    def __post_init__(self) -> None:
        """Bring the fields to their one form, or refuse them."""
        for name in ("prompt", "answer", "contact", "part_of"):
            text = getattr(self, name)
            if text is None and name in ("contact", "part_of"):
                continue
            if not isinstance(text, str):
                raise ExperienceError(f"the {name} must be text, got {type(text).__name__}")
            if len(text) > MAX_TEXT_CHARS:
                raise ExperienceError(f"{name} has {len(text):,} characters, more than {MAX_TEXT_CHARS:,}; split it")
            object.__setattr__(self, name, plain(text))
        if not self.answer.strip():
            raise ExperienceError("the answer is empty; give the text to remember")
        object.__setattr__(self, "at", _whole_utc_seconds(self.at))

    @property
    def learnable(self) -> bool:
        """True if the user let us learn from it and did not reject the answer."""
        return self.consent is Consent.LEARN and self.signal is not Signal.REJECTED


def _whole_utc_seconds(at: datetime) -> datetime:
    if at.utcoffset() is None:
        raise ExperienceError(f"the time {at.isoformat()} has no zone; give one, for example {at.isoformat()}+00:00")
    try:
        return at.astimezone(UTC).replace(microsecond=0)
    except OverflowError as cause:
        raise ExperienceError(f"the time {at.isoformat()} is outside the calendar in UTC; mend its year") from cause
