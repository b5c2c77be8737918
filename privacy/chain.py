"""Entries in, a chain out: each carries the hash of the one before, and a seal that only this device can make.

Rules:
    1. `hash` covers every field of the entry and the hash before it, so anybody can check the order from an export.
    2. `mac` is an HMAC of `hash` under the device key, so nobody else can append.
    3. Bodies are canonical JSON: sorted keys, no spaces, no NaN. What is hashed is what is stored.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from privacy.errors import LedgerTamperedError

__all__ = [
    "GENESIS_HASH",
    "MIN_KEY_BYTES",
    "STAYS_OFF",
    "Entry",
    "Head",
    "canonical",
    "check",
    "key_fingerprint",
    "link",
    "seal_head",
]

GENESIS_HASH = "0" * 64
STAYS_OFF = "training stays off until a copy that verifies is restored"
MIN_KEY_BYTES = 16  # Shorter than this can be guessed.
_ENTRY, _HEAD, _KEY = b"limbeck ledger entry/1\0", b"limbeck ledger head/1\0", b"limbeck ledger key/1\0"

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One line of the ledger."""

    seq: int
    """Position, from 1, without gaps."""
    at: str
    """When it was written: ISO 8601, UTC, microseconds; never before the entry in front of it."""
    kind: str
    """genesis, budget, reserve, draw or close."""
    scope: str
    """Which data it concerns; empty for genesis."""
    caller: str
    """Who asked; empty where nobody did."""
    receipt: str
    """Reservation it belongs to; empty for genesis and budget."""
    body: str
    """What happened, as canonical JSON."""
    previous: str
    """Hash of the entry before; 64 zeros for the first."""
    hash: str
    """SHA-256 over all fields above (hex)."""
    mac: str
    """HMAC-SHA256 of `hash` under the device key (hex)."""

    def facts(self) -> dict[str, Any]:
        """Return the body as values."""
        try:
            facts = json.loads(self.body)
        except (ValueError, RecursionError) as cause:
            raise LedgerTamperedError(f"entry {self.seq} is not JSON; {STAYS_OFF}") from cause
        if not isinstance(facts, dict):
            raise LedgerTamperedError(f"entry {self.seq} is not an object; {STAYS_OFF}")
        return facts


@dataclass(frozen=True, kw_only=True)
class Head:
    """The end of a chain."""

    seq: int = 0
    hash: str = GENESIS_HASH
    at: str = ""


def canonical(value: object) -> str:
    """Write `value` as JSON in the one way that is hashed.

    Raises:
        ValueError: A number is not finite.
    """
    return _ENCODER.encode(value)


def _digest(seq: int, at: str, kind: str, scope: str, caller: str, receipt: str, body: str, previous: str) -> str:
    fields = _ENCODER.encode([seq, at, kind, scope, caller, receipt, body, previous])
    return hashlib.sha256(fields.encode()).hexdigest()


def _seal(key: bytes, purpose: bytes, text: str) -> str:
    return hmac.digest(key, purpose + text.encode(), "sha256").hex()


def link(
    head: Head, *, key: bytes, at: str, kind: str, scope: str, caller: str, receipt: str, body: Mapping[str, Any]
) -> Entry:
    """Return the entry that follows `head`, hashed and sealed."""
    text = canonical(body)
    digest = _digest(head.seq + 1, at, kind, scope, caller, receipt, text, head.hash)
    return Entry(
        seq=head.seq + 1,
        at=at,
        kind=kind,
        scope=scope,
        caller=caller,
        receipt=receipt,
        body=text,
        previous=head.hash,
        hash=digest,
        mac=_seal(key, _ENTRY, digest),
    )


def check(entry: Entry, head: Head, *, key: bytes) -> Head:
    """Return the new head when `entry` follows `head`.

    Raises:
        LedgerTamperedError: (1) a gap or a repeat in the numbers, (2) the entry does not name the hash before it,
            (3) its fields do not give its hash, (4) the seal is not this device's, (5) time runs backwards.
    """
    problem = None
    if entry.seq != head.seq + 1:  # (1)
        problem = f"entry {head.seq + 1} is missing (found {entry.seq})"
    elif entry.previous != head.hash:  # (2)
        problem = f"entry {entry.seq} does not follow entry {head.seq}"
    elif _entry_digest(entry) != entry.hash:  # (3)
        problem = f"entry {entry.seq} was changed"
    elif not hmac.compare_digest(_seal(key, _ENTRY, entry.hash).encode(), entry.mac.encode()):  # (4)
        problem = f"entry {entry.seq} was not written by this device"
    elif entry.at < head.at:  # (5)
        problem = f"entry {entry.seq} is dated before entry {head.seq}"
    if problem:
        raise LedgerTamperedError(f"ledger does not verify: {problem}; {STAYS_OFF}")
    return Head(seq=entry.seq, hash=entry.hash, at=entry.at)


def _entry_digest(entry: Entry) -> str:
    return _digest(
        entry.seq, entry.at, entry.kind, entry.scope, entry.caller, entry.receipt, entry.body, entry.previous
    )


def seal_head(head: Head, *, key: bytes) -> str:
    """Return the seal of the newest entry, which a shortened file cannot show."""
    return _seal(key, _HEAD, f"{head.seq} {head.hash}")


def key_fingerprint(key: bytes) -> str:
    """Return a name for the key that does not tell the key."""
    return _seal(key, _KEY, "fingerprint")[:16]
