"""A base model and a plan in, a night under way and its report out: the values that a night is made of."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from personalize.adapter import Adapter, AdapterSpec, fresh
from personalize.checkpoint import TrainingState
from personalize.gain import Gain
from personalize.plan import NightPlan
from personalize.probes import Probes
from personalize.retention import Verdict
from personalize.shelf import Shelf
from personalize.store import Record
from personalize.trainable import Basis, Trainable
from privacy import Receipt

__all__ = ["Base", "Night", "NightReport", "fingerprint"]


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

    def first(self) -> Adapter:
        """What a first night begins at: the public domain adapter, or the one that changes nothing."""
        return self.start or self.bare()


def fingerprint(adapter: Adapter, basis: Basis | None) -> str:
    """A digest of the numbers that training begins at and moves along: coefficients mean nothing beside others."""
    digest = hashlib.sha256()
    tensors = [*adapter.a.values(), *adapter.b.values()]
    tensors += [*basis.directions.values(), basis.variance] if basis else []
    for tensor in tensors:
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Night:
    """A night that was reserved, begun just now or gone on with."""

    plan: NightPlan
    """Its public settings."""
    receipt: Receipt
    """What it was charged."""
    records: Sequence[Record]
    """What it learns from."""
    units: Sequence[int] | None
    """Number of each record's unit; None: each record is a unit."""
    shelf: Shelf
    """Line of adapters that it learns for."""
    current: Adapter
    """The adapter that it began at."""
    parts: Trainable
    """What is trained of it."""
    start: str
    """Fingerprint of what it began at."""
    seed: int
    """Of the draw of public texts."""
    held: Sequence[Record] = ()
    """Records that are not learned but looked at, once, through noise."""
    gate: Receipt | None = None
    """What that look was charged."""
    state: TrainingState
    """Where training stood when it was begun or gone on with."""
    resumed: bool = False
    """Whether an earlier process began it."""

    @property
    def size(self) -> int:
        """Number of units: public under the zero-out relation."""
        return len(self.records) if self.units is None else len(set(self.units))


@dataclass(frozen=True, kw_only=True)
class NightReport:
    """What a night did. Holds no figure computed from private records outside the guarantee."""

    adapter: str | None
    """Name of the adapter in use afterwards, None where there is none yet."""
    verdict: Verdict
    """What the gate said."""
    records: int
    """Units learned from (records, unless the plan's unit is larger); public under the zero-out relation."""
    blocks: tuple[str, ...]
    """Blocks that were charged."""
    epsilon: float
    """Epsilon of this night for each of its units, by the enforcing accountant (RDP), in nats."""
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
    """Steps of the plan."""
    epsilon_left: float
    """What the lifetime budget leaves for the units that have spent most."""
    resumed: bool = False
    """Whether it went on with a night that was stopped, at no new charge."""
    gain: Gain | None = None
    """What a charged look at held-out records released; None where there was none."""

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values, with the verdict spread out."""
        facts = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "verdict"}
        facts["gain"] = self.gain.to_dict() if self.gain else None
        return facts | {"blocks": list(self.blocks)} | self.verdict.to_dict()

    def summary(self) -> str:
        """One line for a person."""
        spent = f"epsilon {self.epsilon:.2f} spent on each of {self.records} {self.unit}s, {self.epsilon_left:.2f} left"
        if self.resumed:
            spent += "; it went on with a night that was stopped, at no new charge"
        if self.gain:
            spent += f"; gain {self.gain.mean:+.3f} nats per token, noise ± {self.gain.noise_std:.3f}"
        if self.gain and self.gain.harmful:
            return f"rejected: it predicts what you wrote surely worse; the adapter before stays. {spent}"
        if not self.verdict.admitted:
            failed = ", ".join(leg.leg for leg in self.verdict.legs if not leg.passed)
            return f"rejected: it would have forgotten ({failed}); the adapter before stays. {spent}"
        return f"admitted {self.adapter} at alpha {self.verdict.alpha:g}. {spent}"
