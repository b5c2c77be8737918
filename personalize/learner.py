"""One night of learning, start to end.

Rules:
    1. The budget is reserved before the first gradient. Whatever happens then, it stays spent.
    2. A record is trained in one night. It belongs to a wall-clock block; a block that was charged takes no new record.
    3. The adapter in use changes in one step at the very end, and only to one that passed the gate.
    4. One process learns in a home at a time.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from personalize import rehearsal, retention
from personalize.adapter import Adapter, AdapterSpec, fresh
from personalize.errors import TrainingError
from personalize.experience import Experience
from personalize.forward import encode, prefixes
from personalize.home import Home
from personalize.plan import NightPlan
from personalize.probes import Probes
from personalize.retention import AdmittedAdapter, Verdict
from personalize.shelf import Shelf
from personalize.sources import MIN_RECORDS
from personalize.store import Forgotten, Record, Store
from personalize.train import train
from personalize.trainable import Basis, Trainable, trainable
from privacy import Budget, BudgetExhaustedError, DeviceKey, Ledger, Receipt
from privacy import epsilon as epsilon_of
from privacy.anchor import open_anchor

__all__ = ["LIFETIME", "Base", "Learner", "NightReport", "open_ledger", "require_policy"]

LIFETIME = Budget(epsilon=4.0, delta=1e-5)
"""Policy: what one record may ever cost, whatever a caller asks for: two nights of epsilon 2 compose to about 3."""

NEEDED_BYTES = 32_000_000  # An adapter, its predecessor and the logs of two databases, with room to spare.

Progress = Callable[[str, int, int], None]
"""Called with (phase, done, total): phase is `reading`, `learning` or `checking`."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """What learning needs of a base model."""

    model: Any
    """A causal language model of the Llama family, evaluation mode, frozen."""
    tokenizer: Any
    """Its tokenizer."""
    digest: str
    """Digest of the checkpoint, `sha256:…`."""
    probes: Sequence[Mapping[str, Any]]
    """Rows of `probes.jsonl`."""
    rehearsal: Sequence[Mapping[str, Any]]
    """Rows of `rehearsal.jsonl`."""
    spec: AdapterSpec
    """Where adapters sit."""
    start: Adapter | None = None
    """A public domain adapter to begin at, learned on other people's text; None begins at the bare base."""
    basis: Basis | None = None
    """Directions for the kind `basis`."""
    probes_per_leg: int | None = None
    """Probe items used of each leg; None is all."""
    _kept: dict[str, Probes] = field(default_factory=dict, repr=False, compare=False)

    def gate(self) -> Probes:
        """The probes, encoded once for all nights."""
        if "probes" not in self._kept:
            self._kept["probes"] = Probes(self.probes, self.tokenizer, per_leg=self.probes_per_leg)
        return self._kept["probes"]

    def bare(self) -> Adapter:
        """The adapter that changes nothing."""
        return fresh(self.model, self.spec, fits_base=self.digest)


@dataclass(frozen=True, kw_only=True)
class NightReport:
    """What a night did. Holds no figure computed from private records outside the guarantee."""

    adapter: str | None
    """Name of the adapter in use afterwards, None where there is none yet."""
    verdict: Verdict
    """What the gate said."""
    records: int
    """Records learned from; public under the zero-out relation."""
    blocks: tuple[str, ...]
    """Blocks that were charged."""
    epsilon: float
    """Epsilon of this night for each of its records, by the enforcing accountant (RDP), in nats."""
    epsilon_pld: float
    """The same run by the PLD accountant: tighter, valid because the plan was fixed in advance."""
    delta: float
    """Probability that goes with both."""
    unit: str
    """Unit of privacy."""
    neighbours: str
    """Neighbouring relation."""
    noise_multiplier: float
    """Noise over clip norm."""
    steps: int
    """Steps taken."""
    epsilon_left: float
    """What the lifetime budget leaves for the records that have spent most."""

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values, with the verdict spread out."""
        facts = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "verdict"}
        legs = [asdict(leg) | {"passed": leg.passed} for leg in self.verdict.legs]
        verdict = {"admitted": self.verdict.admitted, "alpha": self.verdict.alpha, "retention": legs}
        return facts | {"blocks": list(self.blocks)} | verdict

    def summary(self) -> str:
        """One line for a person."""
        spent = f"epsilon {self.epsilon:.2f} spent on each of {self.records} records, {self.epsilon_left:.2f} left"
        if not self.verdict.admitted:
            failed = ", ".join(leg.leg for leg in self.verdict.legs if not leg.passed)
            return f"rejected: it would have forgotten ({failed}); the adapter before stays. {spent}"
        return f"admitted {self.adapter} at alpha {self.verdict.alpha:g}. {spent}"


class Learner:
    """Learns from one person in one home."""

    def __init__(self, home: Home, base: Base | None, *, night_of: Callable[[datetime], str] | None = None) -> None:
        """Open the store, the ledger and the shelf of a home.

        Args:
            home: Where everything is kept.
            base: The base model; None where nothing will be learned (remember, forget, status).
            night_of: Public rule from a time to the label of its wall-clock block; default: the UTC day.

        Raises:
            StoreError, LedgerError, DeviceKeyError: One of them cannot be trusted; training stays off.
        """
        self.home, self.base = home, base
        self.store = Store.open(home.experience_db, key=DeviceKey.open(home.path).derive("experience"))
        self.ledger = open_ledger(home)
        self.shelf = Shelf(home)
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

    def forget(self, **which: Any) -> Forgotten:
        """Remove records and everything cached from them; arguments as `Store.forget`. Refunds nothing."""
        return self.store.forget(**which)

    def learn(
        self,
        plan: NightPlan,
        *,
        blocks: Collection[str] | None = None,
        progress: Progress = lambda phase, done, total: None,
    ) -> NightReport:
        """Learn from the fresh records tonight: private, gated, reversible.

        Args:
            plan: Public settings, fixed before any record is looked at.
            blocks: Wall-clock blocks to learn from; None takes all that have fresh records.
            progress: Told how far each phase is.

        Raises:
            HomeBusyError: Another process is learning; nothing was started.
            TrainingError, AdapterError, ProbeError: Too few fresh records, or the base, the adapter in use or the plan
                does not fit the others; nothing was reserved.
            BudgetExhaustedError: The night would pass the lifetime budget; nothing was reserved.
            PersonalizeError, PrivacyError: Training or the gate failed; what was reserved stays spent, the adapter in
                use stays in use.
        """
        base = self._require_base()
        with self.home.lock():
            fresh_records = [item for item in self.store.fresh() if blocks is None or item.block in blocks]
            records = self._affordable(fresh_records, plan)
            current = self.shelf.load(base_digest=base.digest) or base.start or base.bare()
            parts = trainable(plan.kind, current, model=base.model, basis=base.basis)
            probes = base.gate()  # Whatever can be refused is refused before anything is charged.
            self.home.free_disk_check(NEEDED_BYTES)
            receipt = self._reserve(plan, records)  # Charged first: a crash wastes budget and never overspends it.
            outcome = "crashed"
            try:
                candidate = self._train(base, plan, receipt, parts, records, progress)
                verdict, admitted = retention.admit(
                    base.model,
                    current=current,
                    candidate=candidate,
                    base=base.bare(),
                    probes=probes,
                    progress=lambda alpha: progress("checking", retention.ALPHAS.index(alpha), len(retention.ALPHAS)),
                )
                self.store.mark_trained([record.id for record in records], receipt.id)
                report = self._promote(plan, receipt, records, verdict, admitted)
                outcome = "admitted" if admitted else "rejected"
                return report
            finally:
                self.ledger.close(receipt, outcome)

    def status(self) -> dict[str, Any]:
        """What is remembered, learned, spent and left, as plain values; checks the whole ledger."""
        self.ledger.verify()
        total, trained = self.store.count(), self.store.count(trained=True)
        budget = self.ledger.budget()
        return {
            "home": str(self.home.path),
            "records": total,
            "trained": trained,
            "fresh": sum(1 for _ in self.store.fresh()),
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
        }

    def _require_base(self) -> Base:
        if self.base is None:
            raise TrainingError("learning needs a base model and none was opened; open the learner with one")
        return self.base

    def _affordable(self, records: list[Record], plan: NightPlan) -> list[Record]:
        """The fresh records whose blocks can still pay for the night; the rest were charged in a night that crashed."""
        require_policy(plan)
        if len(records) < MIN_RECORDS:
            raise TrainingError(
                f"{len(records)} fresh records, a night needs {MIN_RECORDS}; remember {MIN_RECORDS - len(records)} more"
            )
        blocks = _blocks_of(records)
        fitting = set(self.ledger.affordable(plan.run(), blocks=blocks))
        able = [item for item in records if item.block in fitting]
        if len(able) < MIN_RECORDS:
            raise BudgetExhaustedError(wanted=plan.epsilon, left=self.ledger.left(blocks=blocks))
        return able

    def _reserve(self, plan: NightPlan, records: Sequence[Record]) -> Receipt:
        return self.ledger.reserve(
            plan.run(), blocks=_blocks_of(records), plan_digest=plan.digest(), records=len(records)
        )

    def _train(
        self,
        base: Base,
        plan: NightPlan,
        receipt: Receipt,
        parts: Trainable,
        records: Sequence[Record],
        progress: Progress,
    ) -> Adapter:
        progress("reading", 0, len(records))
        mine = [
            encode(base.tokenizer, record.experience.prompt, record.experience.answer, max_tokens=plan.max_tokens)
            for record in records
        ]
        mine.sort(key=lambda record: len(record.ids))  # Equal lengths meet: less padding.
        private = []
        for prefix in prefixes(base.model, mine, cut=base.spec.cut):
            private.append(prefix)
            progress("reading", len(private), len(records))
        wanted = plan.steps * plan.rehearsal_per_step if plan.rehearsal_weight > 0 else 0
        texts = rehearsal.anchors(base.rehearsal, base.tokenizer, count=wanted, seed=len(self.ledger.entries()))
        public = list(prefixes(base.model, texts, cut=base.spec.cut))

        def draw() -> None:
            self.ledger.draw(receipt)

        progress("learning", 0, plan.steps)
        return train(
            base.model,
            parts,
            private,
            public,
            plan,
            run=receipt.run,  # type: ignore[arg-type]
            draw=draw,
            progress=lambda done, steps: progress("learning", done, steps),
        )

    def _promote(
        self,
        plan: NightPlan,
        receipt: Receipt,
        records: Sequence[Record],
        verdict: Verdict,
        admitted: AdmittedAdapter | None,
    ) -> NightReport:
        run = receipt.run
        name = f"night-{receipt.id}" if admitted else self.shelf.in_use
        report = NightReport(
            adapter=name,
            verdict=verdict,
            records=len(records),
            blocks=receipt.blocks,
            epsilon=epsilon_of(run, delta=plan.delta, accountant="rdp"),
            epsilon_pld=epsilon_of(run, delta=plan.delta),
            delta=plan.delta,
            unit=run.unit.value,
            neighbours=run.neighbours.value,
            noise_multiplier=run.noise_multiplier,  # type: ignore[attr-defined]
            steps=plan.steps,
            epsilon_left=self.ledger.left(),
        )
        if admitted:
            self.shelf.put(admitted, f"night-{receipt.id}", {"night": report.to_dict(), "plan": asdict(plan)})
        return report


def _blocks_of(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(record.block for record in records))


def require_policy(plan: NightPlan) -> None:
    """Refuse a plan that the policy forbids.

    Raises:
        TrainingError: Epsilon or delta is out of range; nothing was reserved.
    """
    if not 0 < plan.epsilon <= LIFETIME.epsilon:
        raise TrainingError(
            f"epsilon {plan.epsilon:g} is outside the policy (above 0, at most the lifetime budget of "
            f"{LIFETIME.epsilon:g}); choose another --epsilon"
        )
    if not 0 < plan.delta <= LIFETIME.delta:
        raise TrainingError(
            f"delta {plan.delta:g} is outside the policy (above 0, at most {LIFETIME.delta:g}); choose another --delta"
        )


def open_ledger(home: Home) -> Ledger:
    """The ledger of a home, checked, with the lifetime budget as its policy.

    Raises:
        LedgerError, DeviceKeyError: It cannot be trusted; training stays off.
    """
    key = DeviceKey.open(home.path).derive("ledger")
    return Ledger.open(home.ledger_db, key=key, budget=LIFETIME, anchor=open_anchor(home.path))


def _utc_day(at: datetime) -> str:
    return at.astimezone(UTC).date().isoformat()
