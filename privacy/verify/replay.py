"""Linked entries in, what each scope owes out: every rule of the ledger followed once more."""

from __future__ import annotations

import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from dp_accounting.rdp import rdp_privacy_accountant as google_rdp

from privacy.errors import ExportError
from privacy.verify.mechanisms import SENSITIVITY, TOLERANCE, Mechanism, compare, divergence, read_mechanism
from privacy.verify.text import loads, positive, whole

__all__ = ["Scope", "replay"]

_MAX_DELTA, _MAX_DAYS = 1e-5, 36_500
_UNITS = ("record", "conversation", "day")
_BUDGET = {"format", "unit", "neighbours", "delta", "epsilon", "total_epsilon", "caller_epsilon"}
_BUDGET |= {"period_epsilon", "period_days"}


@dataclass
class Scope:
    """What the entries say of one scope."""

    budget: Mapping[str, Any] = field(default_factory=dict)
    blocks: dict[str, Counter[Mechanism]] = field(default_factory=lambda: defaultdict(Counter))
    total: Counter[Mechanism] = field(default_factory=Counter)
    orders: dict[str, float] = field(default_factory=dict)
    spent_at: dict[str, float] = field(default_factory=dict)
    """Renyi divergence so far of each limited account, at its own order; the upper end."""
    history: list[tuple[datetime, Mechanism, int]] = field(default_factory=list)


def replay(entries: Sequence[Mapping[str, Any]]) -> dict[str, Scope]:
    """Charge every reservation again; return what each scope owes, or refuse an entry that no ledger would write."""
    scopes: dict[str, Scope] = {}
    reserved: dict[str, int] = {}
    closed: set[str] = set()
    for entry in entries:
        facts, receipt = loads(entry["body"]), entry["receipt"]
        if entry["kind"] == "budget":
            scopes.setdefault(entry["scope"], Scope()).budget = _known_budget(facts["budget"])
        elif entry["kind"] == "reserve":
            if entry["scope"] not in scopes or receipt in reserved:
                raise ExportError(f"entry {entry['seq']} reserves without a budget, or a receipt twice")
            reserved[receipt] = _reserve(scopes[entry["scope"]], entry, facts)
        elif entry["kind"] == "draw":
            reserved[receipt] -= whole(facts["steps"])
            if reserved[receipt] < 0 or receipt in closed:
                raise ExportError(f"entry {entry['seq']} draws more than receipt {receipt} reserved")
        elif entry["kind"] == "close":
            if receipt not in reserved or receipt in closed:
                raise ExportError(f"entry {entry['seq']} closes receipt {receipt}, which is not open")
            closed.add(receipt)
        elif entry["kind"] != "genesis" or entry["seq"] != 1:
            raise ExportError(f"entry {entry['seq']} is of an unknown kind; verify with a newer version")
    return scopes


def _known_budget(budget: Mapping[str, Any]) -> Mapping[str, Any]:
    """Refuse a budget with limits that are not known here, or that no ledger accepts."""
    if set(budget) != _BUDGET or budget["format"] != "budget/1":
        raise ExportError("an entry holds a budget of an unknown format; verify with a newer version")
    for name in ("epsilon", "delta", "total_epsilon", "caller_epsilon", "period_epsilon"):
        if budget[name] is not None or name in ("epsilon", "delta"):
            positive(budget[name], least=math.ulp(0.0), most=_MAX_DELTA if name == "delta" else sys.float_info.max)
    period = budget["period_days"]
    if (budget["period_epsilon"] is None) != (period is None) or (period is not None and whole(period) > _MAX_DAYS):
        raise ExportError("an entry holds a budget with half a period or an endless one; no ledger accepts it")
    if budget["unit"] not in _UNITS or budget["neighbours"] not in SENSITIVITY:
        raise ExportError("an entry holds a budget for an unknown unit or relation; verify with a newer version")
    return budget


def _reserve(scope: Scope, entry: Mapping[str, Any], facts: Mapping[str, Any]) -> int:
    """Charge one reservation; return how many uses it covers."""
    run, budget = facts["run"], scope.budget
    if (run["unit"], run["neighbours"]) != (budget["unit"], budget["neighbours"]):
        raise ExportError(f"entry {entry['seq']} charges another unit or relation than its budget")
    mechanism, uses = read_mechanism(run)
    alone = facts["alone"]
    compare({mechanism: uses}, alone["order"], budget["delta"], alone["epsilon"], f"the run in entry {entry['seq']}")
    if set(facts["orders"]) & set(scope.orders):
        raise ExportError(f"entry {entry['seq']} moves a Renyi order that was fixed before; the filter would not hold")
    scope.orders |= {name: float(order) for name, order in facts["orders"].items()}
    at = datetime.fromisoformat(entry["at"])
    scope.history.append((at, mechanism, uses))
    blocks = facts["blocks"]
    if not blocks or len(set(blocks)) != len(blocks):
        raise ExportError(f"entry {entry['seq']} names no block, or one twice")
    for account, limit in _limits(budget, blocks, entry["caller"]):
        order = scope.orders[account]
        lost = uses * divergence(mechanism, order)[1]
        if account == "period":
            since = at - timedelta(days=whole(budget["period_days"]))
            spent = math.fsum(times * divergence(one, order)[1] for when, one, times in scope.history if when > since)
        else:
            spent = scope.spent_at.get(account, 0.0) + lost
            scope.spent_at[account] = spent
        proved = google_rdp.compute_epsilon([order], [spent], budget["delta"])[0]
        if proved > limit * (1 + TOLERANCE):
            raise ExportError(f"entry {entry['seq']} passes the limit of {account}: {proved:.4f} of {limit:.4f}")
    for block in blocks:
        scope.blocks[block][mechanism] += uses
    scope.total[mechanism] += uses
    return whole(run.get("steps", run.get("count")))


def _limits(budget: Mapping[str, Any], blocks: Sequence[str], caller: str) -> Iterator[tuple[str, float]]:
    for block in blocks:
        yield f"block {block}", budget["epsilon"]
        if budget["caller_epsilon"] is not None:
            yield f"caller {caller} {block}", budget["caller_epsilon"]
    for name in ("total", "period"):
        if budget[f"{name}_epsilon"] is not None:
            yield name, budget[f"{name}_epsilon"]
