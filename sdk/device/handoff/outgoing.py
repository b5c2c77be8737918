"""The messages of one request in, what would leave out: roles and texts alone, redacted, with the preview of its bytes.

Rules: what leaves is made of the messages that the app passed for this request, and of nothing else. This module cannot
reach the store, the adapters or the ledger (import-linter), and takes no field of a message but its role and its text.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sdk.device.handoff.consent import Preview, canonical
from sdk.device.handoff.redaction import Redacted, redact_all
from sdk.errors import RedactionError

__all__ = ["ROLES", "Outgoing", "prepared"]

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """A request that may leave, if the person permits it."""

    messages: tuple[Mapping[str, str], ...]
    """Role and redacted content of each message."""
    preview: Preview
    """What the person is shown: exactly the bytes of `messages`."""
    redacted: Redacted
    """What puts the values back into an answer; stays here."""


def prepared(
    messages: Sequence[Mapping[str, Any]], *, kind: str, host: str, names: Iterable[str] = (), region: str = "US"
) -> Outgoing:
    """Make ready what would leave.

    Args:
        messages: Role and content of each; other fields are dropped.
        kind: Kind of request, by which the person may have consented.
        host: Who would read it.
        names: See redact_all.
        region: See redact_all.

    Raises:
        RedactionError: A message of another shape, or one that cannot be redacted; nothing may leave.
    """
    for message in messages:
        if message.get("role") not in ROLES or not isinstance(message.get("content"), str):
            raise RedactionError(
                f"a message to hand off has a role ({', '.join(ROLES)}) and a text, got {sorted(message)}; nothing left"
            )
    redacted = redact_all([message["content"] for message in messages], names, region=region)
    made = tuple(
        {"role": str(message["role"]), "content": text} for message, text in zip(messages, redacted.texts, strict=True)
    )
    preview = Preview(kind=kind, host=host, content=canonical(made), replaced=redacted.placeholders)
    return Outgoing(messages=made, preview=preview, redacted=redacted)
