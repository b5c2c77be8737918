"""Entries and books in, a text out that anybody can check: canonical JSON for verifiers, CSV for spreadsheets.

The JSON holds every entry as it was hashed, and beside them the claims that follow: per scope what was spent, with the
unit, neighbours and delta, and the Renyi order that proves it. `privacy.verify` recomputes them from the entries alone.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from privacy import rdp
from privacy.accounting import VALIDITY
from privacy.books import AccountName, Books
from privacy.chain import Entry, canonical

__all__ = ["FORMAT", "to_csv", "to_json"]

FORMAT = "ledger_export/1"
_COLUMNS = (
    *("seq", "at", "kind", "scope", "caller", "receipt", "blocks", "mechanism", "noise", "sampling_rate", "uses"),
    *("epsilon_alone", "steps_drawn", "outcome", "hash"),
)


def to_json(entries: Sequence[Entry], books: Books, *, rollback_protection: str, beside: bool = True) -> str:
    """Return the export: the same entries always give the same text.

    Args:
        entries: All entries.
        books: What follows from them.
        rollback_protection: keyring, file or none.
        beside: Also claim the PLD figure; about 0.1 s for each block that could be the worst.
    """
    return canonical(
        {
            "format": FORMAT,
            "ledger": books.ledger_id,
            "key": books.key_fingerprint,
            "head": {"seq": books.head.seq, "hash": books.head.hash},
            "orders": list(rdp.ORDERS),
            "orders_version": rdp.ORDERS_VERSION,
            "rollback_protection": rollback_protection,
            "validity": VALIDITY,
            "entries": [asdict(entry) for entry in entries],
            "claims": {scope: _claims(books, scope, beside=beside) for scope in sorted(books.budgets)},
        }
    )


def _claims(books: Books, scope: str, *, beside: bool) -> dict[str, Any]:
    budget = books.budgets[scope]
    return {
        "unit": budget.unit.value,
        "neighbours": budget.neighbours.value,
        "delta": budget.delta,
        "spent_rdp": books.spent(scope),
        "spent_pld": books.spent(scope, "pld") if beside else None,
        "total": _proved(books, AccountName(scope, "total")),
        "blocks": {block: _proved(books, AccountName(scope, "block", block=block)) for block in books.blocks(scope)},
    }


def _proved(books: Books, name: AccountName) -> dict[str, float]:
    """Return epsilon and the Renyi order that proves it."""
    if name not in books.accounts:
        return {"epsilon": 0.0, "order": rdp.ORDERS[0]}
    epsilon, order = rdp.best_order(books.accounts[name].curve, books.delta(name.scope))
    return {"epsilon": epsilon, "order": order}


def to_csv(entries: Sequence[Entry]) -> str:
    """Return one line an entry, for reading; the JSON is what can be verified."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for entry in entries:
        writer.writerow({name: _harmless(value) for name, value in _row(entry).items()})
    return text.getvalue()


def _row(entry: Entry) -> dict[str, Any]:
    facts = entry.facts()
    run = facts.get("run", {})
    row = {name: getattr(entry, name) for name in ("seq", "at", "kind", "scope", "caller", "receipt", "hash")}
    if entry.kind == "reserve":
        row |= {
            "blocks": json.dumps(facts["blocks"]),
            "mechanism": run["event"],
            "noise": run.get("noise_multiplier", run.get("scale")),
            "sampling_rate": run.get("sampling_rate", 1.0),
            "uses": run.get("steps", run.get("count")),
            "epsilon_alone": facts["alone"]["epsilon"],
        }
    return row | {"steps_drawn": facts.get("steps", facts.get("drawn", "")), "outcome": facts.get("outcome", "")}


def _harmless(value: object) -> object:
    """Keep a spreadsheet from running a name as a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value
