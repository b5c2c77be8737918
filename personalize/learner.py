"""One night of learning, start to end.

Rules:
    1. The budget is reserved before the first gradient. Whatever happens then, it stays spent.
    2. A record is trained in one night. It belongs to a wall-clock block; a block that was charged takes no new record.
    3. The adapter in use changes in one step at the very end, and only to one that passed the gate.
    4. One process learns in a home at a time.
    5. A night that was stopped or killed is gone on with by the next one, under the receipt that it has.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from personalize import gain, retention
from personalize.adapter import Adapter
from personalize.charge import (
    LIFETIME,
    affordable,
    agree_on_unit,
    count_of,
    drawn_of,
    open_ledger,
    require_policy,
    reserve_look,
    reserve_night,
    split,
)
from personalize.checkpoint import TrainingState
from personalize.drift import drift_of
from personalize.errors import NightStoppedError, TrainingError
from personalize.experience import Experience
from personalize.home import Home
from personalize.material import Progress, public_texts, read
from personalize.night import Base, Night, NightReport, fingerprint
from personalize.plan import NightPlan
from personalize.removal import Removal, adapter_of, take_out, traces
from personalize.retention import AdmittedAdapter, Verdict
from personalize.shelf import Shelf, gate_uses
from personalize.stopping import Stop, stoppable
from personalize.store import Forgotten, Store
from personalize.train import train
from personalize.trainable import trainable
from personalize.unfinished import UnfinishedNights
from personalize.units import units_of
from personalize.written import WrittenTexts
from privacy import BudgetError, BudgetExhaustedError, DeviceKey, Receipt, Unit
from privacy import epsilon as epsilon_of
from privacy.gate import charged_mean, noise_std
from privacy.label import label, newest_audit

__all__ = ["LIFETIME", "Base", "Learner", "NightReport", "open_ledger", "require_policy"]

NEEDED_BYTES = 32_000_000  # An adapter, its predecessor and the logs of two databases, with room to spare.


class Learner:
    """Learns from one person in one home."""

    def __init__(
        self,
        home: Home,
        base: Base | None,
        *,
        night_of: Callable[[datetime], str] | None = None,
        adapter: str | None = None,
    ) -> None:
        """Open the store, the ledger and the shelf of a home.

        Args:
            home: Where everything is kept.
            base: The base model; None where nothing will be learned (remember, forget, status).
            night_of: Public rule from a time to the label of its wall-clock block; default: the UTC day.
            adapter: Line of adapters to learn for; None is the one that was chosen last.

        Raises:
            StoreError, LedgerError, DeviceKeyError: One of them cannot be trusted; training stays off.
        """
        self.home, self.base = home, base
        key = DeviceKey.open(home.path)
        self.store = Store.open(home.experience_db, key=key.derive("experience"))
        self.ledger = open_ledger(home)
        self.shelf = Shelf(home, adapter)
        self.written = WrittenTexts(home.path / "written.sealed", key=key.derive("written"))
        self._unfinished = UnfinishedNights(home, self.store, self.ledger, key)
        self._night_of = night_of or _utc_day

    def close(self) -> None:
        """Close the store and the ledger."""
        self.store.close()
        self.ledger.disconnect()

    def remember(self, experiences: Iterable[Experience]) -> list[str]:
        """Keep experiences for the next night; nothing leaves the device. Returns their ids."""
        charged = set(self.ledger.spent_by_block())
        return self.store.add_all([(item, self._open_block(item.at, charged)) for item in experiences])

    def _open_block(self, at: datetime, charged: set[str]) -> str:
        """The block of a time, or what follows it where that was charged already: rule 2."""
        block = self._night_of(at)
        while block in charged:
            block += "+"  # The rest of that day, after the night that charged its first part.
        return block

    def forget(self, *, exact: bool = False, **which: Any) -> Removal:
        """Remove records, what was cached from them, and texts written by adapters that learned from them.

        Refunds nothing.

        Args:
            exact: Also go back, on every line of adapters, to before the first that learned from them (removal.py).
                What later nights learned from other records goes too, until it is learned again at a new charge.
            which: Which records; arguments as `Store.forget`.

        Raises:
            HomeBusyError: Another process is learning; nothing was done.
            AdapterError: There is nothing exact to go back to; nothing was done.
        """
        everything = bool(which.get("everything"))
        if which.get("ids") is not None:
            which["ids"] = list(which["ids"])  # Read twice.
        if not exact:
            gone = self.store.forget(**which)
            adapters = traces(self.home, gone.trained_runs)
            return self._removal(gone, adapters, adapters, everything=everything)
        with self.home.lock():
            self._unfinished.abandon()  # It may have read what is forgotten.
            trained = self.store.trained_of(**which)
            # Adapters first: whoever is killed after that may ask for the same again.
            undone = take_out(self.home, self.store, {run for _, run in trained}, everything=everything)
            gone = Forgotten.of(self.store.forget(**which).count, trained)
        return replace(self._removal(gone, [], undone.adapters, everything=everything), undone=undone)

    def learn(
        self,
        plan: NightPlan,
        *,
        blocks: Collection[str] | None = None,
        progress: Progress = lambda phase, done, total: None,
        stop: Stop | None = None,
        anew: bool = False,
        gain_check: bool = False,
    ) -> NightReport:
        """Learn from the fresh records tonight: private, gated, reversible. A night that was stopped is ended first.

        Args:
            plan: Public settings, fixed before any record is looked at. A night that is gone on with keeps its own.
            blocks: Wall-clock blocks to learn from; None takes all that have fresh records.
            progress: Told how far each phase is.
            stop: Asked all the time; the night stops within a second once it says yes, and the next one goes on.
            anew: Give up a night that was stopped; what it was charged stays spent.
            gain_check: Hold some records out, and look at them once, through noise and at a charge of its own, before
                the candidate may answer: it is refused where it is surely worse for this person (gain.py).

        Raises:
            HomeBusyError: Another process is learning; nothing was started.
            NightStoppedError: It was asked to stop; the next call goes on where it was, at no new charge.
            TrainingError, AdapterError, ProbeError: Too few fresh records, or the base, the adapter in use or the plan
                does not fit the others; nothing was reserved.
            BudgetExhaustedError: The night would pass the lifetime budget; nothing was reserved.
            PersonalizeError, PrivacyError: Training or the gate failed; what was reserved stays spent, the adapter in
                use stays in use.
        """
        base = self._require_base()
        with self.home.lock(), stoppable(base.model, stop):
            night = self._unfinished.taken_up(base, anew=anew) or self._begun(base, plan, blocks, gain_check=gain_check)
            try:
                candidate = self._train(base, night, progress)
                verdict, admitted = self._admit(base, night, candidate, progress)
                seen = self._look_at_gain(base, night, admitted) if admitted else None
                if seen and seen.harmful:
                    verdict, admitted = replace(verdict, alpha=0.0), None
                self.store.mark_trained([item.id for item in (*night.records, *night.held)], night.receipt.id)
                report = self._promote(night, verdict, admitted, seen)
            except NightStoppedError:
                raise  # The receipt stays open and the checkpoint stays: the next call goes on.
            except Exception:
                self._unfinished.end(night.receipt, night.gate, "crashed")
                raise
            self._unfinished.end(night.receipt, night.gate, "admitted" if admitted else "rejected")
            return report

    def public_count(self, unit: Unit) -> int | None:
        """Number of fresh records, to choose public settings by; None where it is not public.

        At the unit of a record a neighbour is an emptied record, so the number is the same for both. In a larger unit
        the number of its records is part of what is protected.
        """
        return sum(1 for _ in self.store.fresh()) if unit is Unit.RECORD else None

    def learnable(self, plan: NightPlan) -> int:
        """How many units a night could learn from now; 0 where they are too few or cannot pay."""
        if self._unfinished.waiting():
            return 1  # A night that is paid for waits to be gone on with.
        try:
            agree_on_unit(self.ledger, plan)
            records = affordable(self.ledger, list(self.store.fresh()), plan)
        except (TrainingError, BudgetError, BudgetExhaustedError):
            return 0
        return count_of(records, plan.unit)

    def status(self) -> dict[str, Any]:
        """What is remembered, learned, spent and left, as plain values; checks the whole ledger."""
        self.ledger.verify()
        total, trained = self.store.count(), self.store.count(trained=True)
        budget, waiting = self.ledger.budget(), self._unfinished.waiting()
        return {
            "home": str(self.home.path),
            "records": total,
            "trained": trained,
            "fresh": sum(1 for _ in self.store.fresh()),
            "line": self.shelf.name,
            "adapter": self.shelf.in_use,
            "label": self.shelf.label(),
            "epsilon_spent": self.ledger.spent(),
            "epsilon_left": self.ledger.left(),
            "lifetime_budget": budget.epsilon,
            "delta": budget.delta,
            "unit": budget.unit.value,
            "neighbours": budget.neighbours.value,
            "ledger_entries": len(self.ledger.entries()),
            "rollback_protection": self.ledger.rollback_protection,
            "unfinished_nights": len(self.ledger.open_receipts()),
            "can_go_on": waiting
            and {"receipt": waiting.receipt, "step": waiting.state.step, "steps": waiting.plan.steps},
            "last_night": self.home.state().get("last_night"),
            "drift": drift_of(self.shelf).to_dict(),
        }

    # Its phases

    def _begun(self, base: Base, plan: NightPlan, blocks: Collection[str] | None, *, gain_check: bool) -> Night:
        """Charge a new night. Whatever can be refused is refused before anything is charged."""
        agree_on_unit(self.ledger, plan)
        fresh_records = [item for item in self.store.fresh() if blocks is None or item.block in blocks]
        records = affordable(self.ledger, fresh_records, plan)
        current = self.shelf.load(base_digest=base.digest) or base.first()
        self.shelf.label()  # `put` reads it: an unreadable one is refused before anything is charged.
        parts = trainable(plan.kind, current, model=base.model, basis=base.basis)
        base.gate()
        self.home.free_disk_check(NEEDED_BYTES)
        learned, held = split(records, plan, self._unfinished.coin_key) if gain_check else (records, [])
        begun_at, state = self.shelf.in_use, TrainingState(tensors={})
        # Charged first: a crash wastes budget and never overspends it.
        receipt = reserve_night(self.ledger, plan, records)
        gate = reserve_look(self.ledger, plan, records, held) if gain_check else None
        if gate is None:
            learned, held = records, []
        night = Night(
            plan=plan,
            receipt=receipt,
            records=learned,
            units=units_of(learned, plan.unit),
            held=held,
            gate=gate,
            start=fingerprint(current, base.basis if plan.kind == "basis" else None),
            shelf=self.shelf,
            current=current,
            parts=parts,
            seed=len(self.ledger.entries()),
            state=state,
        )
        self._unfinished.keep(base, night, begun_at, state)
        return night

    def _require_base(self) -> Base:
        if self.base is None:
            raise TrainingError("learning needs a base model and none was opened; open the learner with one")
        return self.base

    def _train(self, base: Base, night: Night, progress: Progress) -> Adapter:
        plan, left = night.plan, night.state.step < night.plan.steps
        private, units = read(self.store, base, night, night.records, progress) if left else ([], None)
        public = public_texts(self.written, base, night) if left else []
        begun_at = night.shelf.in_use

        def draw() -> None:
            self.ledger.draw(night.receipt)

        progress("learning", night.state.step, plan.steps)
        return train(
            base.model,
            night.parts,
            private,
            public,
            plan,
            run=night.receipt.run,  # type: ignore[arg-type]
            units=units,
            draw=draw,
            progress=lambda done, steps: progress("learning", done, steps),
            resume=night.state,
            save=lambda state: self._unfinished.keep(base, night, begun_at, state),
        )

    def _look_at_gain(self, base: Base, night: Night, admitted: AdmittedAdapter) -> gain.Gain | None:
        """The noisy gain on what was held out; None where nothing was, or where the one look is used up."""
        if night.gate is None or not night.held or drawn_of(self.ledger, night.gate):
            return None
        prefixes, units = read(self.store, base, night, night.held)
        scores = gain.scores(base.model, prefixes, units, before=night.current, after=admitted.adapter)
        mean = charged_mean(scores, bound=gain.BOUND, ledger=self.ledger, receipt=night.gate)
        noise = noise_std(len(scores), bound=gain.BOUND, noise_multiplier=gain.NOISE)
        return gain.Gain(mean=mean, noise_std=noise, units=len(scores))

    def _admit(
        self, base: Base, night: Night, candidate: Adapter, progress: Progress
    ) -> tuple[Verdict, AdmittedAdapter | None]:
        return retention.admit(
            base.model,
            current=night.current,
            candidate=candidate,
            base=base.bare(),
            probes=base.gate(),
            look=self._look(night.receipt),
            progress=lambda alpha: progress("checking", retention.ALPHAS.index(alpha), len(retention.ALPHAS)),
        )

    def _look(self, receipt: Receipt) -> int:
        """Which use of this home's gate it is: no two have the same number."""
        reserved = [entry.receipt for entry in self.ledger.entries() if entry.kind == "reserve"]
        return reserved.index(receipt.id) + 1 + gate_uses(self.home)

    def _promote(
        self, night: Night, verdict: Verdict, admitted: AdmittedAdapter | None, seen: gain.Gain | None
    ) -> NightReport:
        run, plan = night.receipt.run, night.plan
        before = night.shelf.in_use
        name = adapter_of(night.receipt.id) if admitted else before
        report = NightReport(
            adapter=name,
            verdict=verdict,
            records=night.size,
            blocks=night.receipt.blocks,
            epsilon=epsilon_of(run, delta=plan.delta, accountant="rdp"),
            epsilon_pld=epsilon_of(run, delta=plan.delta),
            delta=plan.delta,
            unit=run.unit.value,
            neighbours=run.neighbours.value,
            noise_multiplier=run.noise_multiplier,  # type: ignore[attr-defined]
            steps=plan.steps,
            epsilon_left=self.ledger.left(),
            resumed=night.resumed,
            gain=seen,
        )
        if admitted:
            written = label(
                run,
                delta=plan.delta,
                spent=self.ledger.spent(),
                spent_pld=self.ledger.spent(accountant="pld"),
                audit=newest_audit(self.home.reports),
            )
            facts = {"night": report.to_dict(), "plan": plan.to_dict(), "privacy": written, "before": before}
            night.shelf.put(admitted, adapter_of(night.receipt.id), facts)
        return report

    def _removal(
        self, gone: Forgotten, remaining: Collection[str], writers: Collection[str], *, everything: bool
    ) -> Removal:
        """Delete what these adapters wrote, and say what is left of what was forgotten."""
        texts = self.written.drop(writers) if writers else 0
        if everything:
            self.written.clear()  # Also what can no longer be read.
        spent, budget = self.ledger.spent_by_block(), self.ledger.budget()
        return Removal(
            count=gone.count,
            trained_blocks=gone.trained_blocks,
            trained_runs=gone.trained_runs,
            adapters=tuple(remaining),
            epsilon=max((spent.get(block, 0.0) for block in gone.trained_blocks), default=0.0),
            delta=budget.delta,
            texts=texts,
        )


def _utc_day(at: datetime) -> str:
    return at.astimezone(UTC).date().isoformat()
