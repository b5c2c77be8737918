"""Texts and names a person knows in, the same with placeholders out; an answer with placeholders in, values back out.

Rules: one value has one placeholder in all texts of a request, and two forms of one listed name share its number:
[PERSON_1] for "Ana Kos", [PERSON_1_2] for "Ana". What is replaced is what `found` finds and what is listed, whole, and
nothing else: the text between is kept byte for byte, so that put back together it is the text. A placeholder cannot be
taken for the person's own words. Names that are neither listed nor announced stay in the text: the preview shows them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sdk.device.handoff.found import Span, found
from sdk.device.handoff.listed import Listed
from sdk.device.handoff.placeholders import Numbers, mark_for, put_back
from sdk.errors import RedactionError

__all__ = ["Redacted", "redact", "redact_all"]

MAX_CHARACTERS = 200_000  # Of all texts; beyond what the small model reads, and bounds the search to seconds.


@dataclass(frozen=True, kw_only=True)
class Redacted:
    """Texts that may leave, and what their placeholders stand for."""

    texts: tuple[str, ...]
    """The texts in their order, with placeholders."""
    entries: Mapping[str, str]
    """Placeholder without brackets to what it stands for; stays on the device."""

    @property
    def text(self) -> str:
        """The only text, or the first."""
        return self.texts[0]

    @property
    def placeholders(self) -> tuple[str, ...]:
        """The placeholders in the order of their first use, with brackets."""
        return tuple(f"[{name}]" for name in self.entries)

    def restored(self, answer: str) -> str:
        """An answer with the values of its placeholders, with or without brackets, in any case, with any ending."""
        return put_back(answer, self.entries)

    def restored_value(self, value: Any) -> Any:
        """The same for every text inside a JSON value; its keys are left alone."""
        match value:
            case str():
                return self.restored(value)
            case list():
                return [self.restored_value(part) for part in value]
            case dict():
                return {key: self.restored_value(part) for key, part in value.items()}
        return value


def redact(text: str, names: Iterable[str] = (), *, region: str = "US") -> Redacted:
    """Replace what is personal in one text; see `redact_all`."""
    return redact_all([text], names, region=region)


def redact_all(texts: Sequence[str], names: Iterable[str] = (), *, region: str = "US") -> Redacted:
    """Replace what is personal in texts that would leave together.

    Args:
        texts: At least one; MAX_CHARACTERS together.
        names: People, places or other words that the person's own contacts and store give.
        region: Two letters of the country whose national telephone numbers are meant.

    Raises:
        RedactionError: No text, too much of it, or too many names; nothing may leave.
    """
    size = sum(len(text) for text in texts)
    if not texts or size > MAX_CHARACTERS:
        raise RedactionError(f"{len(texts)} texts of {size} characters cannot be redacted; shorten to {MAX_CHARACTERS}")
    listed, numbers = Listed.of(names), Numbers(mark_for(texts))
    redacted = []
    for text in texts:
        parts, at = [], 0
        for span in _merged(_spans(text, listed, region)):
            value = text[span.start : span.end]
            parts += [text[at : span.start], f"[{numbers.name(span.kind, value, listed.person(value))}]"]
            at = span.end
        redacted.append("".join([*parts, text[at:]]))
    return Redacted(texts=tuple(redacted), entries=MappingProxyType(numbers.entries()))


def _spans(text: str, listed: Listed, region: str) -> list[Span]:
    """All that is to be replaced; what stands right beside a value is a word of its own once the value is gone."""
    spans = [*found(text, region=region), *listed.spans(text)]
    letters = list(text)
    for span in spans:
        letters[span.start : span.end] = " " * (span.end - span.start)
    return [*spans, *listed.spans("".join(letters))]


def _merged(spans: Iterable[Span]) -> list[Span]:
    """Spans in order, none over another: those that overlap become one, of the kind of the longest."""
    merged: list[Span] = []
    longest = 0
    for span in sorted(set(spans), key=lambda one: (one.start, -one.end)):
        length = span.end - span.start
        if merged and span.start < merged[-1].end:
            before = merged[-1]
            kind = span.kind if length > longest else before.kind
            merged[-1] = Span(before.start, max(before.end, span.end), kind)
            longest = max(longest, length)
        else:
            merged.append(span)
            longest = length
    return merged
