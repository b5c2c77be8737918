"""The text of an export in, its entries out: JSON without surprises, each entry linked to the one before."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any

from privacy.errors import ExportError, shown

__all__ = ["MAX_EXPORT_BYTES", "chain", "loads", "positive", "read", "whole"]

MAX_EXPORT_BYTES = 256 * 1024 * 1024  # About 300,000 entries: centuries of nights.
_MAX_USES = 10**12
_MIN_AMOUNT, _MAX_AMOUNT = 1e-300, 1e9  # Of noise and clip norms: no ledger accepts less or more.
_FORMAT = "ledger_export/1"
_FIELDS = ("seq", "at", "kind", "scope", "caller", "receipt", "body", "previous")


def read(text: str) -> dict[str, Any]:
    """Return the object that an export is, or refuse a text that is too long, no JSON, or of another format."""
    if not isinstance(text, str):
        raise ExportError(f"an export is a text, got {type(text).__name__}")
    if len(text) > MAX_EXPORT_BYTES:
        raise ExportError(f"the export is larger than {MAX_EXPORT_BYTES // 1024**2} MB; no ledger grows that long")
    try:
        written = loads(text)
    except (ValueError, RecursionError) as cause:
        raise ExportError(f"the export is not JSON as the ledger writes it ({str(cause)[:60]})") from cause
    if not isinstance(written, dict) or written.get("format") != _FORMAT:
        raise ExportError(f"the file is not an export of format {_FORMAT}; update limbeck or export again")
    return written


def loads(text: str) -> Any:
    """Read JSON in which no name stands twice and every number is one.

    Raises:
        ValueError: It is not.
    """
    return json.loads(text, object_pairs_hook=_once, parse_constant=_refuse_constant)


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def chain(written: Mapping[str, Any], key: bytes | None) -> list[dict[str, Any]]:
    """Return the entries if each follows the one before, up to the head; with the key, each must carry its seal."""
    entries: list[dict[str, Any]] = written["entries"]
    previous, at = "0" * 64, ""
    for number, entry in enumerate(entries, start=1):
        fields = json.dumps([entry[name] for name in _FIELDS], separators=(",", ":"))
        digest = hashlib.sha256(fields.encode()).hexdigest()
        if entry["seq"] != number or entry["previous"] != previous or entry["hash"] != digest:
            raise ExportError(f"entry {number} does not follow the one before it; the export was altered")
        if entry["at"] < at:
            raise ExportError(f"entry {number} is dated before the one in front of it; the export was altered")
        if key is not None and not _sealed(key, digest, entry["mac"]):
            raise ExportError(f"entry {number} does not carry this device's seal")
        previous, at = digest, entry["at"]
    if not entries or written["head"] != {"seq": len(entries), "hash": previous}:
        raise ExportError("the export does not end with its head; entries are missing")
    return entries


def _sealed(key: bytes, digest: str, seal: str) -> bool:
    expected = hmac.new(key, b"limbeck ledger entry/1\0" + digest.encode(), hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, seal)


def positive(value: object, least: float = _MIN_AMOUNT, most: float = _MAX_AMOUNT) -> float:
    """Return a written amount in [least, most], or refuse it."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ExportError(f"the export holds {shown(value)} where an amount belongs")
    return float(value)


def whole(value: object) -> int:
    """Return a written count in [1, 10^12], or refuse it."""
    if type(value) is not int or not 1 <= value <= _MAX_USES:
        raise ExportError(f"the export holds {shown(value)} where a count belongs")
    return value
