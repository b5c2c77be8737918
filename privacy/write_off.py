"""A ledger that lost its end in, one that may go on out: whatever the lost entries may have charged counts as charged.

After a disk was lost and a backup put back, the anchor remembers entries that are gone. What they charged is unknown,
so every block that they may have charged is written off: charged with all that its budget still allows. Text of later
blocks may be learned from again. Nothing is refunded, and the ledger says for ever what happened.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from privacy import anchor as anchors
from privacy.anchor import Anchor
from privacy.budget import Budget
from privacy.chain import Head
from privacy.errors import LedgerError, LedgerRolledBackError
from privacy.events import GaussianRelease
from privacy.ledger import DEFAULT_SCOPE, Ledger

__all__ = ["WrittenOff", "write_off"]

CALLER, OUTCOME = "write-off", "lost"
_HALVINGS = 40  # Of the logarithm of the noise: what is then left of a block is a rounding error.
_LOUD, _QUIET = 1e3, 1e-3  # A block that cannot pay even for the loud one, epsilon 0.005, is full.


@dataclass(frozen=True, kw_only=True)
class WrittenOff:
    """What was lost, and what was charged for it."""

    remembered: int
    """Entries that the anchor remembers."""
    found: int
    """Entries of the ledger that was there; 1, its beginning, where there was none."""
    blocks: tuple[str, ...]
    """Blocks that were charged with all that they had left."""


def write_off(
    path: Path, *, key: bytes, anchor: Anchor, budget: Budget, blocks: Sequence[str] = (), scope: str = DEFAULT_SCOPE
) -> WrittenOff:
    """Charge everything that lost entries may have charged, and let the anchor start again from here.

    1. The anchor verifies, and remembers an end that the ledger at `path` does not have.
    2. What is left of the ledger verifies in full; where there is none, a new one begins.
    3. Each block of each scope, and each of `blocks`, is charged with all that it has left.
    4. Only then does the anchor move. A crash before that leaves training off, and this can be done again.

    Args:
        path: The ledger's file.
        key: Device key of the ledger.
        anchor: What remembers the lost end.
        budget: Budget of `scope`, where the ledger that is left records none.
        blocks: Blocks of `scope` that lost entries may have charged, beside those in the ledger: of every record that
            is still there, and today's.
        scope: Data scope of `budget` and `blocks`.

    Raises:
        LedgerError: Nothing was lost; or a scope is limited by period or caller, which no single charge fills. Nothing
            was changed. Other errors as `Ledger.open`; what was charged so far stays charged.
    """
    remembered = anchors.recall(anchor, key=key)  # (1)
    if remembered is None or not _behind(path, key=key, anchor=anchor):
        raise LedgerError("the ledger ends where its anchor says, so nothing was lost and nothing is written off")
    with Ledger.open(path, key=key) as left:  # (2)
        found = len(left.entries())
        for name in left.scopes():
            _require_fillable(left.budget(name), name)
    _require_fillable(budget, scope)
    with Ledger.open(path, key=key) as ledger:
        if scope not in ledger.scopes():
            ledger.set_budget(budget, scope=scope)
        filled: list[str] = []
        for name in ledger.scopes():
            more = blocks if name == scope else ()
            filled += _fill(ledger, name, list(dict.fromkeys([*ledger.spent_by_block(name), *more])))  # (3)
        _move(anchor, ledger, ledger.verify(), key)  # (4)
    return WrittenOff(remembered=remembered[1].seq, found=found, blocks=tuple(filled))


def _behind(path: Path, *, key: bytes, anchor: Anchor) -> bool:
    try:
        Ledger.open(path, key=key, anchor=anchor).disconnect()
    except LedgerRolledBackError:
        return True
    return False


def _require_fillable(budget: Budget, scope: str) -> None:
    if budget.period_epsilon is not None or budget.caller_epsilon is not None:
        raise LedgerError(
            f"scope {scope!r} has a limit per period or caller, which no write-off can fill for good; use a new home"
        )


def _fill(ledger: Ledger, scope: str, blocks: Sequence[str]) -> list[str]:
    """Charge each block with the dearest run that still fits; return those that were not full."""
    filled = []
    for block in blocks:
        run = _dearest(ledger, scope, block)
        if run is not None:
            ledger.close(ledger.reserve(run, blocks=[block], scope=scope, caller=CALLER), OUTCOME)
            filled.append(block)
    return filled


def _dearest(ledger: Ledger, scope: str, block: str) -> GaussianRelease | None:
    """Return the release with the least noise that fits the block, None when nothing does."""
    budget = ledger.budget(scope)

    def release(noise: float) -> GaussianRelease:
        return GaussianRelease(noise_multiplier=noise, unit=budget.unit, neighbours=budget.neighbours)

    def fits(noise: float) -> bool:
        return bool(ledger.affordable(release(noise), blocks=[block], scope=scope, caller=CALLER))

    if not fits(_LOUD):
        return None
    refused, fitting = math.log(_QUIET), math.log(_LOUD)
    for _ in range(_HALVINGS):
        middle = (refused + fitting) / 2
        refused, fitting = (refused, middle) if fits(math.exp(middle)) else (middle, fitting)
    return release(math.exp(fitting) * (1 + 1e-9))  # A hair below the limit: addition in another order must fit too.


def _move(anchor: Anchor, ledger: Ledger, head: Head, key: bytes) -> None:
    anchors.remember(anchor, str(ledger.entries()[0].facts()["ledger"]), head, key=key)
