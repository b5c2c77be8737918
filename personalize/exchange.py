"""Adapters of a home in; merged, sent, taken in or carried to a new base, each through the gate, out.

Rules:
    1. Nothing here reads a record, and nothing is charged: all of it is post-processing of admitted adapters.
    2. What comes out is a candidate like any other. It answers only after this home's gate has let it through.
    3. Its label says what it was made of. What records of another device were charged is not in this home's ledger, so
       that device's spend travels in the label, as `carried`.
    4. One process changes a home at a time.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from personalize import migrate as migration
from personalize import parcel, retention
from personalize.adapter import Adapter
from personalize.errors import AdapterError
from personalize.home import Home
from personalize.learner import NEEDED_BYTES, Base, open_ledger
from personalize.merge import merge
from personalize.retention import AdmittedAdapter, Verdict
from personalize.shelf import Shelf, count_gate_use, lines_of

__all__ = [
    "Carried",
    "Exchanged",
    "bring_in",
    "carried_over",
    "carry_over",
    "gated",
    "listed",
    "merge_lines",
    "send_out",
]

Progress = Callable[[str, int, int], None]
"""Called with (phase, done, total)."""


@dataclass(frozen=True, kw_only=True)
class Exchanged:
    """What became of a candidate."""

    line: str
    """The line that it was made for."""
    adapter: str | None
    """Name of the adapter in use on that line afterwards; None is the bare base."""
    decision: str
    """`admitted`, `rejected` (the adapter before stays) or `dropped` (the bare base answers)."""
    verdict: Verdict | None
    """What the gate said; None where there was nothing to ask it."""
    facts: Mapping[str, Any]
    """What it was made of."""

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        head = {"name": self.line, "in_use": self.adapter, "decision": self.decision}
        return {**head, **_said(self.verdict), **self.facts}

    def summary(self) -> str:
        """One line for a person."""
        if self.decision == "admitted" and self.verdict:
            return f"admitted: {self.line} is {self.adapter} now, at alpha {self.verdict.alpha:g}"
        failed = ", ".join(leg.leg for leg in self.verdict.legs if not leg.passed) if self.verdict else ""
        why = self.facts.get("why") or f"it would have forgotten ({failed})"
        return f"{self.decision}: {why}; {self.line} is {self.adapter or 'the bare base'}"


@dataclass(frozen=True, kw_only=True)
class Carried:
    """An adapter on a new base, and what the gate said of it; not yet in use anywhere."""

    admitted: AdmittedAdapter | None
    """What the gate let through; None: the bare new base answers."""
    name: str
    """A name for it that no adapter of the home had."""
    label: Mapping[str, Any]
    """What it cost and proved."""
    verdict: Verdict | None
    """What the gate said; None where there was nothing to ask it."""
    facts: Mapping[str, Any]
    """What it was made of, or `why` there is none."""


def listed(home: Home) -> list[dict[str, Any]]:
    """Every line of a home: name, whether it is the one chosen, adapter in use, those before it, label."""
    chosen, found = Shelf(home).name, []
    for name in sorted({*lines_of(home), chosen}):
        shelf = Shelf(home, name)
        found.append(
            {
                "name": name,
                "chosen": name == chosen,
                "in_use": shelf.in_use,
                "before": list(shelf.history[:-1]),
                "label": shelf.label(),
            }
        )
    return found


def merge_lines(
    home: Home,
    base: Base,
    weights: Mapping[str, float],
    *,
    into: str,
    rank: int | None = None,
    exact: bool = False,
    progress: Progress = lambda phase, done, total: None,
) -> Exchanged:
    """Put the weighted sum of the adapters in use on some lines in use on a line, if the gate admits it.

    Args:
        home: Where they are.
        base: The base that all of them fit.
        weights: Line to weight.
        into: Line of the sum; may be new, or one of those summed.
        rank: Rank of the sum; None takes the largest of the parts.
        exact: Whether the rank may grow until nothing is lost, whatever `rank` says.
        progress: Told how far the gate is.

    Raises:
        HomeBusyError, AdapterError: Nothing changed.
    """
    with home.lock():
        target = Shelf(home, into)
        adapters, parts, carried = [], [], dict[str, dict[str, Any]]()
        for line, weight in weights.items():
            shelf = Shelf(home, line)
            adapter, label = shelf.load(base_digest=base.digest), shelf.label()
            if adapter is None or label is None:
                raise AdapterError(
                    f"adapter {line} has learned nothing yet; `limbeck adapter list` names those that have"
                )
            adapters.append((adapter, weight))
            parts.append({"name": line, "adapter": shelf.in_use, "weight": weight, "label": label})
            carried |= {charge["from"]: charge for charge in label.get("carried", [])}
        widest = max((adapter.spec.rank for adapter, _ in adapters), default=1)
        merged = merge(adapters, rank=None if exact else rank or widest)
        facts = {"rank": merged.adapter.spec.rank, "lost": merged.lost}
        made = {"merge": {"parts": parts, **facts}, "carried": list(carried.values())}
        said = [{name: part[name] for name in ("name", "adapter", "weight")} for part in parts]
        return _offered(home, base, target, merged.adapter, "merge", made, {**facts, "parts": said}, progress)


def send_out(home: Home, path: Path, *, base_digest: str, passphrase: str, line: str | None = None) -> dict[str, Any]:
    """Write the adapter in use on a line to an encrypted file; returns what it says of the cost.

    Raises:
        AdapterError, ParcelError, BaseMismatchError: No adapter, or the file cannot be written; nothing is left.
    """
    shelf = Shelf(home, line)
    adapter, label = shelf.load(base_digest=base_digest), shelf.label()
    if adapter is None or label is None:
        raise AdapterError(f"adapter {shelf.name} has learned nothing yet, so there is nothing to export; learn first")
    charge = _charge(home)
    parcel.write_parcel(path, adapter, {"charge": charge, "label": label}, passphrase=passphrase)
    return {"file": str(path), "name": shelf.name, "in_use": shelf.in_use, "charge": charge}


def bring_in(
    home: Home,
    base: Base,
    path: Path,
    *,
    passphrase: str,
    into: str | None = None,
    progress: Progress = lambda phase, done, total: None,
) -> Exchanged:
    """Put an adapter from a file in use on a line, if this device's gate admits it.

    Raises:
        HomeBusyError, AdapterError, ParcelError, BaseMismatchError: Nothing changed.
    """
    with home.lock():
        shelf = Shelf(home, into)
        opened = parcel.open_parcel(path, passphrase=passphrase, base_digest=base.digest)
        spec = opened.adapter.spec
        if (spec.layers, spec.targets) != (base.spec.layers, base.spec.targets):
            raise AdapterError(
                f"the adapter in {path.name} sits on layers {spec.layers[0]} to {spec.layers[-1]}, this version "
                f"learns on {base.spec.layers[0]} to {base.spec.layers[-1]}; use the same version on both devices"
            )
        try:
            charge, label = dict(opened.label["charge"]), dict(opened.label["label"])
            carried = {one["from"]: one for one in [*label.get("carried", []), charge]}
        except (KeyError, TypeError, ValueError) as cause:
            raise AdapterError(f"the label in {path.name} does not say what it cost; export it again") from cause
        made = {"import": {"label": label}, "carried": list(carried.values())}
        facts = {"carried": made["carried"]}
        return _offered(home, base, shelf, opened.adapter, "import", made, facts, progress)


def carry_over(
    home: Home,
    old: Base,
    new: Base,
    *,
    line: str | None = None,
    plan: migration.MigrationPlan | None = None,
    progress: Progress = lambda phase, done, total: None,
) -> Exchanged:
    """Carry the adapter in use on a line from an old base to a new one: keep, distil or drop, then the gate.

    Dropped, the bare new base answers on that line; the old adapter stays for a rollback to the old base.

    Raises:
        HomeBusyError, AdapterError, BaseMismatchError, TrainingError: Nothing changed.
    """
    with home.lock():
        shelf = Shelf(home, line)
        made = carried_over(home, old, new, shelf, plan=plan, progress=progress)
        if made.admitted:
            shelf.put(made.admitted, made.name, made.label)
        else:
            shelf.put_bare()  # The old adapter fits no base that is here, so it cannot stay in use.
        return Exchanged(
            line=shelf.name,
            adapter=shelf.in_use,
            decision="admitted" if made.admitted else "dropped",
            verdict=made.verdict,
            facts=made.facts,
        )


def carried_over(
    home: Home,
    old: Base,
    new: Base,
    shelf: Shelf,
    *,
    plan: migration.MigrationPlan | None = None,
    progress: Progress = lambda phase, done, total: None,
) -> Carried:
    """What `carry_over` would put in use on a line; nothing is changed but the count of the gate. Hold the home's lock.

    Raises:
        AdapterError, BaseMismatchError, TrainingError: Nothing changed.
    """
    adapter, label = shelf.load(base_digest=old.digest), shelf.label()
    if adapter is None or label is None:
        raise AdapterError(f"adapter {shelf.name} has learned nothing yet, so there is nothing to migrate")
    if not migration.same_tokenizer(old.tokenizer, new.tokenizer):
        why = "the new base cuts text into other tokens, so nothing carries over; learn again"
        return Carried(admitted=None, name="", label={}, verdict=None, facts={"why": why})
    made = migration.migrate(_side(old), _side(new), adapter, new.rehearsal, plan=plan, progress=progress)
    facts = {
        "way": made.decision,
        "kept": made.kept,
        "kept_untrained": made.kept_untrained,
        "shift_nats": made.shift_nats,
        "positions": made.positions,
        "own_gain": "not measured: a migration reads no private text",
    }
    home.free_disk_check(NEEDED_BYTES)
    verdict, admitted = gated(home, new, made.adapter, progress)
    rest = {name: value for name, value in label.items() if name not in ("format", "adapter")}
    said = {"carried": [], **rest, "migration": {**facts, "from_base": old.digest, "from_adapter": shelf.in_use}}
    said |= {"before": shelf.in_use, "gate": _said(verdict)}
    return Carried(admitted=admitted, name=_new_name("migrated"), label=said, verdict=verdict, facts=facts)


def _side(base: Base) -> migration.Side:
    return migration.Side(model=base.model, tokenizer=base.tokenizer, digest=base.digest, spec=base.spec)


def _charge(home: Home) -> dict[str, Any]:
    """What the records of this home have spent at most, to travel with an adapter."""
    ledger = open_ledger(home)
    try:
        budget = ledger.budget()
        return {
            "from": secrets.token_hex(8),
            "epsilon": ledger.spent(),
            "epsilon_pld": ledger.spent(accountant="pld"),
            "delta": budget.delta,
            "unit": budget.unit.value,
            "neighbours": budget.neighbours.value,
        }
    finally:
        ledger.disconnect()


def _offered(
    home: Home,
    base: Base,
    shelf: Shelf,
    candidate: Adapter,
    kind: str,
    label: Mapping[str, Any],
    facts: Mapping[str, Any],
    progress: Progress,
) -> Exchanged:
    """Ask the gate about a candidate, and put what it admits in use."""
    home.free_disk_check(NEEDED_BYTES)
    verdict, admitted = gated(home, base, candidate, progress)
    if admitted:
        shelf.put(admitted, _new_name(kind), {"before": shelf.in_use, **label, "gate": _said(verdict)})
    return Exchanged(
        line=shelf.name,
        adapter=shelf.in_use,
        decision="admitted" if admitted else "rejected",
        verdict=verdict,
        facts=facts,
    )


def gated(home: Home, base: Base, candidate: Adapter, progress: Progress) -> tuple[Verdict, AdmittedAdapter | None]:
    """The gate from nothing to the candidate: what was in use before may have another shape. Hold the home's lock.

    Raises:
        LedgerError, ProbeError: The gate could not be asked; nothing is admitted.
    """
    probes, bare = base.gate(), candidate.scaled(0.0)
    ledger = open_ledger(home)
    try:
        nights = sum(entry.kind == "reserve" for entry in ledger.entries())
    finally:
        ledger.disconnect()
    return retention.admit(
        base.model,
        current=bare,
        candidate=candidate,
        base=bare,
        probes=probes,
        look=nights + count_gate_use(home),
        progress=lambda alpha: progress("checking", retention.ALPHAS.index(alpha), len(retention.ALPHAS)),
    )


def _new_name(kind: str) -> str:
    """A name that no adapter of this home had before."""
    return f"{kind}-{secrets.token_hex(6)}"


def _said(verdict: Verdict | None) -> dict[str, Any]:
    return {} if verdict is None else verdict.to_dict() | {"look": verdict.look}
