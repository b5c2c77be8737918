"""Lifetime spend on the device: append-only and hash-chained. Reserves before training, or refuses.

Rules:
    1. A run is charged in full before it starts. A crash wastes budget and never overspends it; nothing is refunded.
    2. Entries are only appended; each carries the hash of the one before and a seal of the device key.
    3. While the ledger does not verify, nothing can be reserved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from privacy import chain, export, rdp
from privacy.accounting import Accountant, check_delta, rdp_curve
from privacy.anchor import Anchor, NoAnchor
from privacy.books import Receipt
from privacy.budget import Budget
from privacy.chain import Entry, Head
from privacy.errors import BudgetError, EventError, LedgerError, ReceiptError, shown
from privacy.events import Event
from privacy.ledger_file import LedgerFile

__all__ = ["DEFAULT_SCOPE", "Budget", "Ledger", "Receipt"]

DEFAULT_SCOPE = "experience"
MAX_NAME_CHARS = 200  # Scopes, callers, blocks and digests are names, not texts.
MAX_BLOCKS = 100_000  # Nights in 270 years.


def utc_now() -> datetime:
    """Return the device's clock."""
    return datetime.now(UTC)


class Ledger:
    """The open ledger of one device. Threads may share it; another process opens its own."""

    def __init__(self, file: LedgerFile) -> None:
        """Use `Ledger.open` instead."""
        self._file = file

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        key: bytes,
        budget: Budget | None = None,
        scope: str = DEFAULT_SCOPE,
        anchor: Anchor | None = None,
        clock: Callable[[], datetime] = utc_now,
        busy_seconds: float = 30.0,
    ) -> Ledger:
        """Open the ledger at `path`, or begin it; check every entry.

        Args:
            path: The SQLite file; made with mode 0600 where there is none.
            key: Device key, at least 16 bytes (`DeviceKey.derive("ledger")`).
            budget: Budget of `scope`. Recorded when the scope has none yet; must equal the recorded one otherwise.
            scope: Data scope that `budget` is for.
            anchor: Remembers outside the file where the ledger ended (`privacy.anchor.open_anchor`). None: putting back
                an old copy of the file cannot be noticed, and `rollback_protection` says "none".
            clock: Gives an aware time.
            busy_seconds: How long to wait for another process.

        Raises:
            LedgerTamperedError: The chain, the tables or the head do not verify (LedgerKeyError: another device's key;
                LedgerRolledBackError: older than the anchor). Nothing is changed; nothing can be reserved.
            LedgerFormatError: A newer version wrote it, or it is no ledger.
            BudgetError: `budget` differs from the recorded one; use `set_budget` to change it.
            LedgerError: It cannot be opened, is busy, or there is no room.
        """
        if not isinstance(key, bytes):
            raise LedgerError(f"the ledger key must be bytes, got {type(key).__name__}; derive it from DeviceKey")
        if len(key) < chain.MIN_KEY_BYTES:
            raise LedgerError(f"the ledger key must be at least {chain.MIN_KEY_BYTES} bytes; derive it from DeviceKey")
        file = LedgerFile(Path(path), key=key, anchor=anchor or NoAnchor(), clock=clock, busy_seconds=busy_seconds)
        ledger = cls(file)
        try:
            if budget is not None:
                ledger._require_budget(budget, scope)
        except BaseException:
            ledger.disconnect()
            raise
        return ledger

    def _require_budget(self, budget: Budget, scope: str) -> None:
        _require_name("scope", scope)
        with self._file.reading() as books:
            recorded = books.budgets.get(scope)
        if recorded is None:
            self.set_budget(budget, scope=scope)
        elif recorded != budget:
            raise BudgetError(
                f"scope {scope!r} was promised epsilon {recorded.epsilon:g} at delta {recorded.delta:g}, and the "
                f"budget given differs; open the ledger without one, or change it on purpose"
            )

    # Spend: reserve, draw, close

    def reserve(
        self,
        run: Event,
        *,
        blocks: Sequence[str],
        scope: str = DEFAULT_SCOPE,
        caller: str = "learner",
        plan_digest: str = "",
        records: int | None = None,
    ) -> Receipt:
        """Charge `run` to each of `blocks` before it starts, or refuse it.

        Args:
            run: Noise, sampling rate and steps of what is going to happen.
            blocks: Every block of records that it may read, at least one.
            scope: Data scope of the blocks.
            caller: Who asks; for the record, and for the budget's `caller_epsilon`.
            plan_digest: Digest of the plan that the run follows.
            records: Number of units in the data, where it is public; the budget's delta must not exceed 1 / records.

        Returns:
            The receipt that training needs. The charge is on the disk and stays, whatever happens next.

        Raises:
            BudgetExhaustedError: A limit would be passed; nothing is recorded.
            BudgetError: The scope has no budget, or one for another unit or relation; nothing is recorded.
            AccountingError, EventError: The run or a name is impossible; nothing is recorded.
            LedgerTamperedError: The ledger does not verify; nothing is recorded.
            LedgerBusyError, LedgerFullError: Nothing is recorded.
            LedgerError: The anchor could not be moved; the run is charged all the same, without a receipt.

        Source: RDP composition, arXiv:1702.07476, Proposition 1; filter at a fixed order, arXiv:2103.01379.
        """
        if not isinstance(run, Event):
            raise EventError(f"a run must be a privacy event, got {type(run).__name__}")
        named = _require_blocks(blocks)
        _require_name("scope", scope)
        _require_name("caller", caller)
        _require_name("plan_digest", "none" if plan_digest == "" else plan_digest)
        curve = rdp_curve(run)  # Outside the lock: other processes need not wait for arithmetic.
        with self._file.writing() as books:
            delta = books.budget(scope).delta
            check_delta(delta, records)
            at, slip = self._file.now()
            alone, order = rdp.best_order(curve, delta)
            orders = books.admit(run, blocks=named, scope=scope, caller=caller, at=at)
            receipt = Receipt(run=run, blocks=named, scope=scope, id=books.next_receipt(), plan_digest=plan_digest)
            body = {
                "run": run.to_dict(),
                "blocks": list(named),
                "plan_digest": plan_digest,
                "orders": orders,
                "alone": {"epsilon": alone, "order": order},
                **slip,
            }
            self._file.append("reserve", body=body, scope=scope, caller=caller, receipt=receipt.id, at=at)
        self._file.remember()
        return receipt

    def draw(self, receipt: Receipt, steps: int = 1) -> int:
        """Take `steps` of what was reserved, before they happen.

        Returns:
            How many are left.

        Raises:
            ReceiptError: The receipt is not of this ledger, is closed, or has fewer steps left; nothing is drawn.
            LedgerTamperedError, LedgerBusyError, LedgerFullError: Nothing is drawn.
        """
        if type(steps) is not int or steps < 1:
            raise ReceiptError(f"steps to draw must be a whole number above 0, got {shown(steps)}")
        _require_receipt(receipt)
        with self._file.writing() as books:
            reservation = books.require_open(receipt)
            before = receipt.run.uses - reservation.drawn
            if steps > before:
                raise ReceiptError(
                    f"receipt {receipt.id} has {before} steps left and {shown(steps)} were asked; reserve a new run"
                )
            self._file.append(
                "draw", body={"steps": steps}, scope=receipt.scope, caller=reservation.caller, receipt=receipt.id
            )
        return before - steps

    def close(self, receipt: Receipt, outcome: str = "admitted") -> None:
        """Say what became of a run. Nothing is refunded; closing again with the same outcome does nothing.

        Args:
            receipt: What `reserve` returned, or one of `open_receipts`.
            outcome: One word: admitted, rejected, crashed, ...

        Raises:
            ReceiptError: The receipt is not of this ledger, or is closed with another outcome.
            LedgerTamperedError, LedgerBusyError, LedgerFullError: It stays open, which costs nothing.
        """
        _require_name("outcome", outcome)
        _require_receipt(receipt)
        with self._file.writing() as books:
            known = books.reservations.get(receipt.id)
            if known is not None and known.receipt == receipt and known.outcome == outcome:
                return
            reservation = books.require_open(receipt)
            self._file.append(
                "close",
                body={"outcome": outcome, "drawn": reservation.drawn},
                scope=receipt.scope,
                caller=reservation.caller,
                receipt=receipt.id,
            )
        self._file.remember()

    def set_budget(self, budget: Budget, *, scope: str = DEFAULT_SCOPE, allow_raise: bool = False) -> None:
        """Record the budget of `scope`. What was spent stays spent.

        Args:
            budget: The new policy.
            scope: Data scope that it is for.
            allow_raise: The person was asked and agreed to more than was promised before.

        Raises:
            BudgetError: It allows more than the recorded one and `allow_raise` is not set, or it changes the unit or
                the neighbours of a scope that was already charged. The recorded budget stays.
        """
        _require_name("scope", scope)
        if not isinstance(budget, Budget):
            raise BudgetError(f"a budget must be a Budget, got {type(budget).__name__}")
        with self._file.writing() as books:
            recorded = books.budgets.get(scope)
            if recorded == budget:
                return
            if recorded is not None:
                charged = bool(books.blocks(scope))
                budget.require_may_replace(recorded, charged=charged, allow_raise=allow_raise)
            self._file.append("budget", body={"budget": budget.to_dict()}, scope=scope)
        self._file.remember()

    # Ask

    def spent(self, scope: str = DEFAULT_SCOPE, accountant: Accountant = "rdp") -> float:
        """Return the epsilon (nats) that the worst block of `scope`, and so any record, has lost at most."""
        _require_name("scope", scope)
        with self._file.reading() as books:
            return books.spent(scope, accountant)

    def spent_by_block(self, scope: str = DEFAULT_SCOPE, accountant: Accountant = "rdp") -> dict[str, float]:
        """Return the epsilon (nats) of every block that anything was charged to."""
        _require_name("scope", scope)
        with self._file.reading() as books:
            return books.spent_by_block(scope, accountant)

    def spent_by_caller(self, scope: str = DEFAULT_SCOPE) -> dict[str, float]:
        """Return the epsilon (nats) each caller took from the block it used most; shares are no guarantee."""
        _require_name("scope", scope)
        with self._file.reading() as books:
            return books.spent_by_caller(scope)

    def spent_in_total(self, scope: str = DEFAULT_SCOPE, accountant: Accountant = "rdp") -> float:
        """Return the epsilon (nats) of all runs as if each had read every record: for a person in all blocks."""
        _require_name("scope", scope)
        with self._file.reading() as books:
            return books.spent_in_total(scope, accountant)

    def left(self, scope: str = DEFAULT_SCOPE, blocks: Sequence[str] | None = None) -> float:
        """Return the epsilon (nats) that the budget's `epsilon` leaves, never below 0.

        A guide, not a promise: composition is no sum, and `reserve` holds a block to its limit at one fixed order, so
        equal runs fit more often than this says, and a very different run may fit a little less (`affordable`).

        Args:
            scope: Data scope.
            blocks: Which blocks are going to be read; None: the worst block so far.

        Raises:
            BudgetError: The scope has no budget.
        """
        _require_name("scope", scope)
        asked = None if blocks is None else _require_blocks(blocks)
        with self._file.reading() as books:
            spent = books.spent_by_block(scope)
            worst = max((spent.get(block, 0.0) for block in (spent if asked is None else asked)), default=0.0)
            return max(books.budget(scope).epsilon - worst, 0.0)

    def affordable(
        self, run: Event, *, blocks: Sequence[str], scope: str = DEFAULT_SCOPE, caller: str = "learner"
    ) -> tuple[str, ...]:
        """Return those of `blocks` that `run` would fit, each on its own; nothing is recorded.

        The answer holds until somebody else spends: `reserve` decides.

        Raises:
            BudgetError: The scope has no budget, or one for another unit or relation.
        """
        if not isinstance(run, Event):
            raise EventError(f"a run must be a privacy event, got {type(run).__name__}")
        named = _require_blocks(blocks)
        _require_name("scope", scope)
        _require_name("caller", caller)
        with self._file.reading() as books:
            at, _ = self._file.now()
            return tuple(one for one in named if books.fits(run, blocks=[one], scope=scope, caller=caller, at=at))

    def budget(self, scope: str = DEFAULT_SCOPE) -> Budget:
        """Return the recorded budget of `scope`.

        Raises:
            BudgetError: It has none.
        """
        _require_name("scope", scope)
        with self._file.reading() as books:
            return books.budget(scope)

    def scopes(self) -> list[str]:
        """Return the scopes that have a budget, sorted."""
        with self._file.reading() as books:
            return sorted(books.budgets)

    def open_receipts(self) -> list[Receipt]:
        """Return the reservations that were never closed, oldest first. They stay spent."""
        with self._file.reading() as books:
            return [item.receipt for item in books.reservations.values() if item.outcome is None]

    def entries(self) -> list[Entry]:
        """Return all entries, oldest first."""
        return self._file.entries()

    def export(self, *, beside: bool = True) -> str:
        """Return everything as canonical JSON that `privacy.verify` can check without this device.

        Args:
            beside: Also claim the PLD figure; takes longer when many different runs were charged.
        """
        with self._file.reading() as books:
            entries = self._file.entries()[: books.head.seq]  # Others may have appended since.
            return export.to_json(entries, books, rollback_protection=self.rollback_protection, beside=beside)

    def export_csv(self) -> str:
        """Return one line an entry for a spreadsheet."""
        return export.to_csv(self._file.entries())

    @property
    def id(self) -> str:
        """Name of this ledger, drawn when it was begun."""
        with self._file.reading() as books:
            return books.ledger_id

    @property
    def rollback_protection(self) -> str:
        """Where the end of the ledger is remembered outside its file: keyring, file or none."""
        return self._file.anchor.place

    @property
    def clock_set_back_seconds(self) -> float:
        """The furthest that the device's clock was ever found behind the newest entry; 0 when it never was."""
        with self._file.reading() as books:
            return books.clock_behind_seconds

    def verify(self) -> Head:
        """Check every entry, the tables, the head and the anchor again.

        Returns:
            The end of the chain.

        Raises:
            LedgerTamperedError: Something does not verify; nothing can be reserved until it does.
        """
        return self._file.verify()

    def disconnect(self) -> None:
        """Close the file. The ledger cannot be used afterwards."""
        self._file.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()


def _require_blocks(blocks: Sequence[str]) -> tuple[str, ...]:
    if isinstance(blocks, str | bytes):
        raise EventError("blocks must be a list of names, got one text")
    try:
        named = tuple(blocks)
    except TypeError as cause:
        raise EventError(f"blocks must be a list of names, got {type(blocks).__name__}") from cause
    for name in named:
        _require_name("block", name)
    if not 1 <= len(named) <= MAX_BLOCKS or len(set(named)) != len(named):
        raise EventError(f"a run names 1 to {MAX_BLOCKS} different blocks, got {len(named)}")
    return named


def _require_receipt(receipt: object) -> None:
    if not isinstance(receipt, Receipt) or not isinstance(receipt.id, str):
        raise ReceiptError(f"a receipt must be what reserve returned, got {type(receipt).__name__}")


def _require_name(what: str, name: object) -> None:
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_CHARS or not name.isprintable():
        raise EventError(f"{what} must be 1 to {MAX_NAME_CHARS} printable characters")
