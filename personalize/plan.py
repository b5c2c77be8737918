"""What a night will do, fixed before it looks at any private record: adapter kind, budget, steps, step sizes."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from privacy import DpSgdRun, Unit, noise_multiplier

__all__ = ["Mix", "NightPlan", "clip_norm_of"]

FORMAT = "plan/1"


RECORDS_PER_UNIT = {Unit.RECORD: 1, Unit.CONVERSATION: 4, Unit.DAY: 16}
"""Records that a unit is thought to have: public guesses, because how many it does have is part of what is hidden."""

CLIP_PER_ROOT_DIRECTION = 0.75  # Whitened records have norm sqrt(K) in the root mean square; most have less.


def clip_norm_of(directions: int) -> float:
    """Clip norm for a whitened basis of so many directions."""
    return CLIP_PER_ROOT_DIRECTION * math.sqrt(directions)


LEAST_ANCHORS = 0.25  # Of a mix: a model that is fed on its own text alone collapses (arXiv:2404.01413).


@dataclass(frozen=True, kw_only=True)
class Mix:
    """What a night's rehearsal is made of, as shares that add up to 1. Public."""

    anchors: float = 1.0
    """Texts of the base bundle, in [0.25, 1]; they also stand in for generated texts that are not there."""
    by_base: float = 0.0
    """Texts that the bare base wrote, in [0, 0.75]."""
    by_adapter: float = 0.0
    """Texts that admitted private adapters wrote to public prompts, in [0, 0.75]: post-processing, so they cost
    nothing."""

    def __post_init__(self) -> None:
        shares = (self.anchors, self.by_base, self.by_adapter)
        if not all(0 <= share <= 1 for share in shares) or abs(sum(shares) - 1) > 1e-9:
            raise ValueError(f"shares must lie in [0, 1] and add up to 1, got {shares}")
        if self.anchors < LEAST_ANCHORS:
            raise ValueError(f"anchors must be at least {LEAST_ANCHORS:g} of the mix, got {self.anchors:g}")

    def counts(self, total: int) -> tuple[int, int]:
        """How many of `total` texts the base and adapters may have written, rounded down; the rest are anchors."""
        return int(total * self.by_base + 1e-9), int(total * self.by_adapter + 1e-9)


@dataclass(frozen=True, kw_only=True)
class NightPlan:
    """Public settings of one night. Nothing here may be chosen by looking at private records."""

    kind: str = "basis"
    """Adapter kind, one of personalize.trainable.KINDS."""
    epsilon: float = 2.0
    """Epsilon of this night for each record of it, in nats, > 0."""
    delta: float = 1e-5
    """Probability, in (0, 1e-5]."""
    steps: int = 3
    """Steps of the night, ≥ 1."""
    sampling_rate: float = 1.0
    """Chance that a record joins a step; 1 is the full batch, right below about 1,000 records."""
    clip_norm: float = 5.0
    """Largest gradient norm of one record, in nats per unit of parameter, > 0."""
    step_size: float = 0.5
    """`basis`: length of a step over the one that whitening suggests, > 0; other kinds: Adam's rate. 3 steps of 0.5
    gained more under privacy than 1 of 1, and 1 of 2 overshot (docs/log.md)."""
    rehearsal_weight: float = 0.1
    """Weight of the public gradient beside the private one, ≥ 0."""
    rehearsal_per_step: int = 24
    """Public texts rehearsed at each step, ≥ 0."""
    rehearsal_kl: float = 0.0
    """Weight, beside the loss of the public texts, of the distance to the bare base on them (KL, in nats), ≥ 0."""
    mix: Mix = Mix()
    """What the public texts are."""
    head_rows: int = 16_384
    """Tokens of the vocabulary, the commonest first, that a training step looks at; measurements look at all."""
    max_tokens: int = 40
    """Completion tokens of a record that are learned."""
    unit: Unit = Unit.RECORD
    """Whose presence the night hides: all records of one unit make one clipped contribution (`for_unit`)."""

    def run(self) -> DpSgdRun:
        """The event to reserve: the least noise that keeps this night within its epsilon and delta."""
        noise = noise_multiplier(
            epsilon=self.epsilon, delta=self.delta, sampling_rate=self.sampling_rate, steps=self.steps
        )
        return DpSgdRun(
            noise_multiplier=noise,
            sampling_rate=self.sampling_rate,
            steps=self.steps,
            clip_norm=self.clip_norm,
            unit=self.unit,
        )

    def for_unit(self, unit: Unit) -> "NightPlan":
        """The same night for a larger unit, with a clip norm for it.

        Records are averaged inside their unit, so the gradient of a unit of m records is about √m times shorter than
        that of one: clipped as loosely as a record, it would drown in noise.

        Args:
            unit: Of the plan that is returned; this one is for records.
        """
        return replace(self, unit=unit, clip_norm=self.clip_norm / math.sqrt(RECORDS_PER_UNIT[unit]))

    def to_dict(self) -> dict[str, Any]:
        """Write the plan as JSON-ready values."""
        return {"format": FORMAT, **asdict(self), "unit": self.unit.value}

    def digest(self) -> str:
        """SHA-256 of the canonical plan: what the ledger binds a reservation to."""
        body = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(body.encode()).hexdigest()
