"""A night that was stopped or killed: kept, found again, gone on with under its receipt, or given up.

Rules:
    1. A night goes on only if nothing that it needs has changed: base, adapter before, plan, ledger, enough records.
    2. A night that is given up stays charged.
"""

from personalize import gain
from personalize.charge import count_of, drawn_of
from personalize.checkpoint import Checkpoints, TrainingState, Unfinished
from personalize.errors import StoreError
from personalize.home import Home
from personalize.night import Base, Night, fingerprint
from personalize.removal import adapter_of
from personalize.shelf import Shelf
from personalize.sources import MIN_RECORDS
from personalize.store import Store
from personalize.trainable import trainable
from personalize.units import units_of
from privacy import DeviceKey, Ledger, Receipt

__all__ = ["UnfinishedNights"]


class UnfinishedNights:
    """The nights of a home that began and did not end; hold the home's lock to change one."""

    def __init__(self, home: Home, store: Store, ledger: Ledger, key: DeviceKey) -> None:
        """Look after the nights of a home.

        Args:
            home: Where the kept night is.
            store: Where its records are.
            ledger: What it was charged in.
            key: Seals it, and decides which records are held out.
        """
        self._home, self._store, self._ledger = home, store, ledger
        self._kept = Checkpoints(home, key=key.derive("unfinished night"))
        self.coin_key = key.derive("held-out records")

    def taken_up(self, base: Base, *, anew: bool) -> Night | None:
        """The night that was stopped or killed, if there is one and nothing it needs has changed; else give it up."""
        kept = self._kept.load()
        receipt = self._receipt_of(kept) if kept else None
        if kept is None or receipt is None:
            self._kept.clear()
            return None
        if not self.waiting():
            self.end(receipt, self._receipt(kept.gate), "admitted")  # It was killed between its last two writes.
            return None
        night = None if anew else self._gone_on_with(base, kept, receipt)
        if night is None:
            self._given_up(kept)
        return night

    def keep(self, base: Base, night: Night, begun_at: str | None, state: TrainingState) -> None:
        """Keep a night as it stands, whole or not at all."""
        self._kept.save(
            Unfinished(
                receipt=night.receipt.id,
                plan=night.plan,
                base=base.digest,
                line=night.shelf.name,
                begun_at=begun_at,
                start=night.start,
                gate=night.gate.id if night.gate else None,
                seed=night.seed,
                state=state,
            )
        )

    def end(self, receipt: Receipt, gate: Receipt | None, outcome: str) -> None:
        """Close a night's receipts with their outcome, and keep it no longer."""
        if gate:
            self._ledger.close(gate, outcome)
        self._ledger.close(receipt, outcome)
        self._kept.clear()

    def abandon(self) -> None:
        """Give up the night that is kept, if there is one; what it was charged stays spent."""
        if kept := self._kept.load():
            self._given_up(kept)

    def _given_up(self, kept: Unfinished) -> None:
        for receipt in (self._receipt(kept.gate), self._receipt_of(kept)):
            if receipt:
                self._ledger.close(receipt, "abandoned")
        self._kept.clear()

    def waiting(self) -> Unfinished | None:
        """A kept night that is paid for and did not end: its adapter is not in use."""
        kept = self._kept.load()
        ended = kept and Shelf(self._home, kept.line).in_use == adapter_of(kept.receipt)
        return kept if kept and not ended and self._receipt_of(kept) else None

    def _gone_on_with(self, base: Base, kept: Unfinished, receipt: Receipt) -> Night | None:
        shelf, plan = Shelf(self._home, kept.line), kept.plan
        if (kept.base, kept.begun_at, receipt.plan_digest) != (base.digest, shelf.in_use, plan.digest()):
            return None
        try:
            state = kept.state.after_draws(drawn_of(self._ledger, receipt))
        except StoreError:
            return None
        # A block that was charged takes no new record, so these are the records of that night that are still there.
        records = [
            record
            for record in self._store.all()
            if record.block in receipt.blocks
            and record.trained_run in (None, receipt.id)
            and record.experience.learnable
        ]
        learned, held = gain.held_out(records, plan.unit, self.coin_key) if kept.gate else (records, [])
        steps_left = plan.steps - state.step
        if (steps_left and count_of(learned, plan.unit) < MIN_RECORDS) or not (steps_left or state.taken):
            return None
        current = shelf.load(base_digest=base.digest) or base.first()
        if fingerprint(current, base.basis if plan.kind == "basis" else None) != kept.start:
            return None
        return Night(
            plan=plan,
            receipt=receipt,
            records=learned,
            units=units_of(learned, plan.unit),
            held=held,
            gate=self._receipt(kept.gate),
            start=kept.start,
            shelf=shelf,
            current=current,
            parts=trainable(plan.kind, current, model=base.model, basis=base.basis),
            seed=kept.seed,
            state=state,
            resumed=True,
        )

    def _receipt_of(self, kept: Unfinished) -> Receipt | None:
        """The receipt of a kept night, if it is still open."""
        return self._receipt(kept.receipt)

    def _receipt(self, name: str | None) -> Receipt | None:
        return next((receipt for receipt in self._ledger.open_receipts() if receipt.id == name), None)
