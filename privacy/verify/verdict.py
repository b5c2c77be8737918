"""An exported ledger in, a verdict out: the checks in their order."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from privacy.errors import ExportError
from privacy.verify.claims import check_beside, check_claims
from privacy.verify.replay import replay
from privacy.verify.text import MAX_EXPORT_BYTES, chain, loads, read

__all__ = ["Verdict", "verify_export", "verify_file"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What an export proves."""

    ledger: str
    """Name of the ledger."""
    entries: int
    """Number of entries, all of them linked."""
    runs: int
    """Number of reservations."""
    spent: Mapping[str, float]
    """Epsilon (nats) that the worst block of each scope has lost at most, at the scope's delta (RDP)."""
    spent_beside: Mapping[str, float]
    """The same by PLD, for scopes that claim it."""
    delta: Mapping[str, float]
    """Delta of each scope."""
    unit: Mapping[str, str]
    """Unit and neighbours of each scope, such as record/zero_out."""
    sealed: bool
    """Whether the device's seal was checked; without the key only the order of the entries is proved."""
    rollback_protection: str
    """Where the device remembers the end of the ledger; with "none" an older copy would verify too."""


def verify_file(path: Path, *, key: bytes | None = None, beside: bool = True) -> Verdict:
    """Check the export in the file at `path`; as `verify_export`."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_EXPORT_BYTES + 1)
        return verify_export(content.decode("utf-8"), key=key, beside=beside)
    except OSError as cause:
        raise ExportError(
            f"the export cannot be read ({cause.strerror}); give the path of an exported ledger"
        ) from cause
    except UnicodeDecodeError as cause:
        raise ExportError("the export is not text; give the path of an exported ledger") from cause


def verify_export(text: str, *, key: bytes | None = None, beside: bool = True) -> Verdict:
    """Recompute everything that `text` claims.

    Args:
        text: What `Ledger.export` returned.
        key: The ledger's key, where this is the device; None elsewhere.
        beside: Also recompute the PLD figure (slower).

    Raises:
        ExportError: The text is malformed, or something in it does not follow from its entries; the line says what.
    """
    with np.errstate(all="ignore"):  # Odd noise overflows into the infinite divergence that it has.
        return _verify(read(text), key=key, beside=beside)  # (1)


def _verify(written: Mapping[str, Any], *, key: bytes | None, beside: bool) -> Verdict:
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)  # dp-accounting warns of each order that it gives up on; `divergence` deals with them.
    try:
        entries = chain(written, key)  # (2), (3)
        scopes = replay(entries)  # (4), (5)
        claims = written["claims"]
        if set(claims) != set(scopes):
            raise ExportError("the claims do not name the scopes of the entries; export the ledger again")
        spent = {name: check_claims(name, scopes[name], claims[name]) for name in scopes}  # (6)
        figures_beside = {
            name: check_beside(name, scopes[name], claims[name], spent[name])  # (7)
            for name in scopes
            if beside and claims[name]["spent_pld"] is not None
        }
        return Verdict(
            ledger=str(loads(entries[0]["body"])["ledger"]),
            entries=len(entries),
            runs=sum(entry["kind"] == "reserve" for entry in entries),
            spent=spent,
            spent_beside=figures_beside,
            delta={name: scope.budget["delta"] for name, scope in scopes.items()},
            unit={name: f"{scope.budget['unit']}/{scope.budget['neighbours']}" for name, scope in scopes.items()},
            sealed=key is not None,
            rollback_protection=str(written["rollback_protection"]),
        )
    except ExportError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, RecursionError) as cause:
        raise ExportError(f"the export is malformed ({type(cause).__name__}); export the ledger again") from cause
    finally:
        log.setLevel(level)
