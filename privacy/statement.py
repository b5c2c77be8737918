"""A ledger in, all that a privacy report says out, as plain values: what was spent, by whom, and what is not covered.

The ledger is verified first; what does not verify is not reported on. What is not covered follows from the unit and the
relation of the budgets, and is never left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from privacy import rdp
from privacy.accounting import VALIDITY, rdp_curve
from privacy.books import AccountName, Books, Reservation
from privacy.chain import Entry, Head
from privacy.events import Neighbours, Unit
from privacy.ledger import Ledger

__all__ = ["FORMAT", "statement"]

FORMAT = "privacy_statement/1"


def statement(ledger: Ledger, audits: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Return what is to be said, as JSON-ready values.

    Args:
        ledger: Open; it is verified again.
        audits: What `AuditReport.to_dict` wrote, oldest first.

    Raises:
        LedgerTamperedError: The ledger does not verify; nothing can be said about it.
    """
    head = ledger.verify()
    entries = ledger.entries()[: head.seq]  # Others may have appended since.
    books, histories = _replayed(entries)
    return {
        "format": FORMAT,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "ledger": books.ledger_id,
        "since": entries[0].at,
        "entries": head.seq,
        "head": head.hash,
        "rollback_protection": ledger.rollback_protection,
        "clock_set_back_seconds": ledger.clock_set_back_seconds,
        "open_runs": sum(reservation.outcome is None for reservation in books.reservations.values()),
        "scopes": {scope: _scope(books, scope, histories[scope]) for scope in sorted(books.budgets)},
        "runs": [_run(books, reservation) for reservation in books.reservations.values()],
        "validity": dict(VALIDITY),
        "not_covered": list(_not_covered(books, ledger.rollback_protection)),
        "audits": [dict(audit) for audit in audits],
    }


def _replayed(entries: Sequence[Entry]) -> tuple[Books, dict[str, list[dict[str, Any]]]]:
    """Follow the entries once more; per scope, note what had been spent after each run and each budget."""
    books, histories = Books(), dict[str, list[dict[str, Any]]]()
    spent: dict[str, dict[str, float]] = {}
    for entry in entries:
        books.apply(entry, Head(seq=entry.seq, hash=entry.hash, at=entry.at))
        if entry.kind not in ("budget", "reserve"):
            continue
        by_block = spent.setdefault(entry.scope, {})
        touched = entry.facts()["blocks"] if entry.kind == "reserve" else list(by_block)  # A new delta moves them all.
        by_block |= {block: _epsilon(books, AccountName(entry.scope, "block", block=block)) for block in touched}
        histories.setdefault(entry.scope, []).append(
            {
                "at": entry.at,
                "spent": max(by_block.values(), default=0.0),
                "in_total": _epsilon(books, AccountName(entry.scope, "total")),
                "budget": books.budget(entry.scope).epsilon,
            }
        )
    return books, histories


def _epsilon(books: Books, name: AccountName) -> float:
    if name not in books.accounts:
        return 0.0
    return rdp.epsilon_from_rdp(books.accounts[name].curve, books.delta(name.scope))


def _scope(books: Books, scope: str, history: list[dict[str, Any]]) -> dict[str, Any]:
    spent = books.spent(scope)
    return {
        "budget": books.budget(scope).to_dict(),
        "spent_rdp": spent,
        "spent_pld": books.spent(scope, "pld"),
        "in_total": books.spent_in_total(scope),
        "left": max(books.budget(scope).epsilon - spent, 0.0),
        "blocks": books.spent_by_block(scope),
        "history": history,
    }


def _run(books: Books, reservation: Reservation) -> dict[str, Any]:
    receipt = reservation.receipt
    return {
        "at": reservation.at,
        "receipt": receipt.id,
        "scope": receipt.scope,
        "caller": reservation.caller,
        "event": receipt.run.to_dict(),
        "blocks": list(receipt.blocks),
        "epsilon_alone": rdp.epsilon_from_rdp(rdp_curve(receipt.run), books.delta(receipt.scope)),
        "uses": receipt.run.uses,
        "drawn": reservation.drawn,
        "outcome": reservation.outcome,
    }


def _not_covered(books: Books, rollback_protection: str) -> Iterator[str]:
    """Yield what a reader might think is covered and is not."""
    budgets = list(books.budgets.values())
    for unit in dict.fromkeys(budget.unit for budget in budgets):
        yield (
            f"What stands in many {_PLURAL[unit]}: a style, a name used daily, a phrase repeated. The guarantee "
            f"is for one {unit.value} at a time, and gets weaker with every repetition."
        )
    if any(budget.neighbours is not Neighbours.ADD_OR_REMOVE for budget in budgets):
        yield "How many records there are and when each was written: both are treated as public."
    if any(budget.total_epsilon is None for budget in budgets):
        yield (
            "A person who is in all blocks, taken as a whole: no limit was set for all runs together. What they add up "
            "to is shown as “all runs together”."
        )
    yield (
        "The records themselves. They lie encrypted on the device; whoever can unlock it can read them, and no budget "
        "says anything about that."
    )
    yield (
        "Anything that was released without a line in this ledger, by this or another program: copies, screenshots, "
        "backups, answers that quote a record which stood in the question."
    )
    yield "How long a run took and how much memory or energy it used: whoever watches the device may learn from that."
    yield "The base model and public text: what they know, they know from elsewhere."
    if rollback_protection == "none":
        yield (
            "An old copy of the ledger: nothing outside the file remembers its end on this device, so a copy from "
            "yesterday would verify too."
        )
    yield (
        "Mistakes of the engine that no audit has found. An audit can show that a claim is false; it cannot show that "
        "it is true."
    )


_PLURAL: dict[Unit, str] = {Unit.RECORD: "records", Unit.CONVERSATION: "conversations", Unit.DAY: "days"}
