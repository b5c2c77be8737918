"""Ledger entries in, what was spent and what may still be spent out. Pure: no file, no clock.

Rules:
    1. A reservation is charged in full to each of its blocks, whatever happened afterwards; nothing is ever refunded.
    2. A record sits in one block and disjoint blocks compose in parallel, so a scope spent what its worst block spent.
    3. An account is held to its limit at one Renyi order, fixed by its first run, before any of its records was read.
       That is a privacy filter: it stays sound when later runs react to earlier results. A filter that may pick its
       order afterwards is not known to be sound. The figure that is reported is the best over all orders.

Sources: filters at a fixed order, arXiv:2103.01379 and arXiv:2008.11193; why a filter over several is not free,
arXiv:2602.15815; parallel composition, McSherry, SIGMOD 2009, Theorem 4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from privacy import rdp
from privacy.accounting import Accountant, Groups, epsilon_of, group, rdp_curve
from privacy.budget import MAX_DELTA, Budget
from privacy.chain import STAYS_OFF, Entry, Head
from privacy.errors import (
    BudgetError,
    BudgetExhaustedError,
    LedgerFormatError,
    LedgerTamperedError,
    ReceiptError,
)
from privacy.events import Event, event_from_dict

__all__ = ["FORMAT", "Account", "AccountName", "Books", "Receipt", "Reservation"]

FORMAT = "ledger/1"
_SLACK = 1e-12  # Nats: addition in another order may move the last digit.


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Proof that a run was charged; without one nothing is trained."""

    run: Event
    """What was charged."""
    blocks: tuple[str, ...]
    """Blocks of records it may read."""
    scope: str
    """Data scope of the blocks."""
    id: str
    """Name of the reservation in this ledger."""
    plan_digest: str = ""
    """Digest of the plan that the run follows; empty when the caller gave none."""


@dataclass
class Reservation:
    """A receipt and what became of it."""

    receipt: Receipt
    caller: str
    at: str
    drawn: int = 0
    outcome: str | None = None


@dataclass(frozen=True)
class AccountName:
    """What is held to a limit."""

    scope: str
    kind: str
    """block, caller (a caller's share of a block), total or period."""
    block: str = ""
    caller: str = ""

    def __str__(self) -> str:
        words = {"block": f"block {self.block}", "caller": f"the share of {self.caller} in block {self.block}"}
        return words.get(self.kind, f"the {self.kind} of scope {self.scope}")

    @property
    def key(self) -> str:
        """Name inside an entry."""
        return " ".join(part for part in (self.kind, self.caller, self.block) if part)


@dataclass
class Account:
    """What was charged to one account."""

    curve: rdp.Curve = field(default_factory=lambda: np.zeros(len(rdp.ORDERS)))
    groups: Groups = field(default_factory=Counter)
    order: float | None = None
    """Renyi order at which the limit is enforced; None until a limit applies."""

    def charge(self, curve: rdp.Curve, groups: Groups) -> None:
        """Add a run."""
        self.curve = self.curve + curve
        for mechanism, uses in groups.items():
            self.groups[mechanism] += uses


class Books:
    """All that follows from the entries so far."""

    def __init__(self) -> None:
        """Start before the first entry."""
        self.head = Head()
        self.ledger_id = ""
        self.key_fingerprint = ""
        self.budgets: dict[str, Budget] = {}
        self.accounts: dict[AccountName, Account] = {}
        self.reservations: dict[str, Reservation] = {}
        self.clock_behind_seconds = 0.0

    # What may be spent

    def budget(self, scope: str) -> Budget:
        """Return the budget of `scope`.

        Raises:
            BudgetError: It has none, so nothing may be spent there.
        """
        if scope not in self.budgets:
            raise BudgetError(f"scope {scope!r} has no budget, so nothing may be spent there; set one first")
        return self.budgets[scope]

    def admit(self, run: Event, *, blocks: Sequence[str], scope: str, caller: str, at: str) -> dict[str, float]:
        """Decide whether `run` fits every limit that concerns it.

        Returns:
            The Renyi orders that are fixed with this run, by account key.

        Raises:
            BudgetError: The scope has no budget, or one for another unit or relation.
            BudgetExhaustedError: A limit would be passed; the tightest one is named.
        """
        budget = self.budget(scope)
        budget.require_same_relation(run)
        curve = rdp_curve(run)
        orders: dict[str, float] = {}
        for name, limit in self._limits(budget, scope, blocks, caller):
            account = self._account_at(name, at)
            order = account.order or _choose_order(account, curve, limit, budget.delta)
            _require_room(name, account, order, curve, limit, budget.delta)
            if account.order is None:
                orders[name.key] = order
        return orders

    def fits(self, run: Event, *, blocks: Sequence[str], scope: str, caller: str, at: str) -> bool:
        """Tell whether `admit` would admit `run`."""
        try:
            self.admit(run, blocks=blocks, scope=scope, caller=caller, at=at)
        except BudgetExhaustedError:
            return False
        return True

    def _limits(
        self, budget: Budget, scope: str, blocks: Sequence[str], caller: str
    ) -> Iterator[tuple[AccountName, float]]:
        """Yield the accounts that a run is charged to, with the limit of each."""
        for block in blocks:
            yield AccountName(scope, "block", block=block), budget.epsilon
            if budget.caller_epsilon is not None:
                yield AccountName(scope, "caller", block=block, caller=caller), budget.caller_epsilon
        if budget.total_epsilon is not None:
            yield AccountName(scope, "total"), budget.total_epsilon
        if budget.period_epsilon is not None:
            yield AccountName(scope, "period"), budget.period_epsilon

    def _account_at(self, name: AccountName, at: str) -> Account:
        """Return the account; for a period, only what was charged inside the period that ends `at`."""
        account = self.accounts.get(name, Account())
        days = self.budgets[name.scope].period_days
        if name.kind != "period" or days is None:
            return account
        since = _moment(at) - timedelta(days=days)
        recent = Account(order=account.order)
        for reservation in self.reservations.values():
            if reservation.receipt.scope == name.scope and _moment(reservation.at) > since:
                recent.charge(rdp_curve(reservation.receipt.run), group(reservation.receipt.run))
        return recent

    # What was spent

    def blocks(self, scope: str) -> list[str]:
        """Return the blocks of `scope` that anything was charged to, sorted."""
        return sorted(name.block for name in self.accounts if name.scope == scope and name.kind == "block")

    def spent_by_block(self, scope: str, accountant: Accountant = "rdp") -> dict[str, float]:
        """Return epsilon (nats, at the scope's delta) of each block that anything was charged to."""
        return {
            block: self._spent(AccountName(scope, "block", block=block), accountant) for block in self.blocks(scope)
        }

    def spent(self, scope: str, accountant: Accountant = "rdp") -> float:
        """Return epsilon (nats) of the worst block: what a record of this scope has lost at most."""
        enforced = self.spent_by_block(scope)
        if accountant == "rdp":
            return max(enforced.values(), default=0.0)
        worst = 0.0
        for block, bound in sorted(enforced.items(), key=lambda item: -item[1]):
            if bound <= worst:  # The figure beside is never above the enforced one.
                break
            worst = max(worst, self._spent(AccountName(scope, "block", block=block), accountant))
        return worst

    def spent_in_total(self, scope: str, accountant: Accountant = "rdp") -> float:
        """Return epsilon (nats) as if every run of `scope` had read every record."""
        return self._spent(AccountName(scope, "total"), accountant)

    def spent_by_caller(self, scope: str) -> dict[str, float]:
        """Return epsilon (nats) that each caller took from the block it used most; shares are no guarantee."""
        shares: dict[str, float] = {}
        for name in self.accounts:
            if name.scope == scope and name.kind == "caller":
                shares[name.caller] = max(shares.get(name.caller, 0.0), self._spent(name, "rdp"))
        return shares

    def _spent(self, name: AccountName, accountant: Accountant) -> float:
        account = self.accounts.get(name)
        if account is None:
            return 0.0
        delta = self.delta(name.scope)
        if accountant == "rdp":
            return rdp.epsilon_from_rdp(account.curve, delta)
        return epsilon_of(account.groups, delta, accountant)

    def delta(self, scope: str) -> float:
        """Return the delta at which figures of `scope` are stated."""
        return self.budgets[scope].delta if scope in self.budgets else MAX_DELTA

    # Receipts

    def next_receipt(self) -> str:
        """Name the reservation that would be the next entry: unique, and the same for the same history."""
        return f"{self.ledger_id[:8]}-{self.head.seq + 1}"

    def require_open(self, receipt: Receipt) -> Reservation:
        """Return the reservation behind `receipt`.

        Raises:
            ReceiptError: This ledger never gave it out, it was altered, or it is closed.
        """
        reservation = self.reservations.get(receipt.id)
        if reservation is None or reservation.receipt != receipt:
            raise ReceiptError(f"receipt {receipt.id} was not given out by this ledger; reserve the run first")
        if reservation.outcome is not None:
            raise ReceiptError(f"receipt {receipt.id} is closed ({reservation.outcome}); reserve a new run")
        return reservation

    # Entries

    def apply(self, entry: Entry, head: Head) -> None:
        """Take in `entry`, which `chain.check` has accepted and which moved the end of the chain to `head`.

        Raises:
            LedgerFormatError: A newer version wrote it.
            LedgerTamperedError: It contradicts the entries before it.
        """
        take = {
            "genesis": self._begin,
            "budget": self._take_budget,
            "reserve": self._take_reserve,
            "draw": self._take_draw,
            "close": self._take_close,
        }.get(entry.kind)
        if take is None or (entry.kind == "genesis") != (entry.seq == 1):
            raise LedgerFormatError(f"entry {entry.seq} is of unknown kind {entry.kind[:20]!r}; update limbeck")
        try:
            facts = entry.facts()
            self.clock_behind_seconds = max(self.clock_behind_seconds, float(facts.get("clock_behind_seconds", 0.0)))
            take(entry, facts)
        except (KeyError, TypeError, ValueError, ReceiptError) as cause:
            raise LedgerTamperedError(
                f"ledger does not verify: entry {entry.seq} contradicts itself; {STAYS_OFF}"
            ) from cause
        self.head = head

    def _begin(self, entry: Entry, facts: Mapping[str, Any]) -> None:
        if facts["format"] != FORMAT:
            raise LedgerFormatError(f"ledger format {str(facts['format'])[:20]!r} is newer than this; update limbeck")
        self.ledger_id = facts["ledger"]
        self.key_fingerprint = facts["key"]

    def _take_budget(self, entry: Entry, facts: Mapping[str, Any]) -> None:
        self.budgets[entry.scope] = Budget.from_dict(facts["budget"])

    def _take_reserve(self, entry: Entry, facts: Mapping[str, Any]) -> None:
        run = event_from_dict(facts["run"])
        blocks = tuple(facts["blocks"])
        receipt = Receipt(run=run, blocks=blocks, scope=entry.scope, id=entry.receipt, plan_digest=facts["plan_digest"])
        if entry.receipt in self.reservations:
            raise ReceiptError("given out twice")
        self.reservations[entry.receipt] = Reservation(receipt, entry.caller, entry.at)
        curve, groups = rdp_curve(run), group(run)
        for name in self._names(entry.scope, blocks, entry.caller):
            account = self.accounts.setdefault(name, Account())
            if name.kind != "period":  # A period has no sum of its own: it is what the last days add up to.
                account.charge(curve, groups)
            account.order = account.order or facts["orders"].get(name.key)

    @staticmethod
    def _names(scope: str, blocks: Sequence[str], caller: str) -> Iterator[AccountName]:
        for block in blocks:
            yield AccountName(scope, "block", block=block)
            yield AccountName(scope, "caller", block=block, caller=caller)
        yield AccountName(scope, "total")
        yield AccountName(scope, "period")

    def _take_draw(self, entry: Entry, facts: Mapping[str, Any]) -> None:
        reservation = self.reservations[entry.receipt]
        reservation.drawn += facts["steps"]
        if reservation.drawn > reservation.receipt.run.uses or reservation.outcome is not None:
            raise ReceiptError("drawn beyond the reservation")

    def _take_close(self, entry: Entry, facts: Mapping[str, Any]) -> None:
        reservation = self.reservations[entry.receipt]
        if reservation.outcome is not None:
            raise ReceiptError("closed twice")
        reservation.outcome = str(facts["outcome"])


def _choose_order(account: Account, curve: rdp.Curve, limit: float, delta: float) -> float:
    """Return the order at which most runs like this one fit under the limit.

    An account that was already used without a limit gets the order that is best for plain Gaussian runs instead: a
    choice that looks at its history would not be fixed in advance.
    """
    pace = curve if not account.groups else np.array(rdp.ORDERS)
    room = rdp.headroom_at_orders(limit, delta)
    with np.errstate(divide="ignore", invalid="ignore"):
        times = np.where(room > 0, room / np.maximum(pace, 1e-300), -np.inf)
    return rdp.ORDERS[int(np.argmax(times))]


def _require_room(
    name: AccountName, account: Account, order: float, curve: rdp.Curve, limit: float, delta: float
) -> None:
    """Refuse a run that would take `account` past `limit` at its fixed order.

    Raises:
        BudgetExhaustedError: It would.
    """
    index = rdp.ORDERS.index(order)
    after = float(rdp.epsilon_at_orders(account.curve + curve, delta)[index])
    if after <= limit + _SLACK:
        return
    if not account.groups:
        raise BudgetExhaustedError(wanted=rdp.epsilon_from_rdp(curve, delta), left=limit, where=str(name))
    before = float(rdp.epsilon_at_orders(account.curve, delta)[index])
    raise BudgetExhaustedError(wanted=after - before, left=max(limit - before, 0.0), where=str(name))


def _moment(at: str) -> datetime:
    return datetime.fromisoformat(at)
