"""What a night will do, fixed before it looks at any private record: adapter kind, budget, steps, step sizes."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass

from privacy import DpSgdRun, noise_multiplier

__all__ = ["NightPlan", "clip_norm_of"]

FORMAT = "plan/1"


CLIP_PER_ROOT_DIRECTION = 0.75  # Whitened records have norm sqrt(K) in the root mean square; most have less.


def clip_norm_of(directions: int) -> float:
    """Clip norm for a whitened basis of so many directions."""
    return CLIP_PER_ROOT_DIRECTION * math.sqrt(directions)


@dataclass(frozen=True, kw_only=True)
class NightPlan:
    """Public settings of one night. Nothing here may be chosen by looking at private records."""

    kind: str = "basis"
    """Adapter kind, one of personalize.trainable.KINDS."""
    epsilon: float = 2.0
    """Epsilon of this night for each record of it, in nats, > 0."""
    delta: float = 1e-5
    """Probability, in (0, 1e-5]."""
    steps: int = 1
    """Steps of the night, ≥ 1."""
    sampling_rate: float = 1.0
    """Chance that a record joins a step; 1 is the full batch, right below about 1,000 records."""
    clip_norm: float = 5.0
    """Largest gradient norm of one record, in nats per unit of parameter, > 0."""
    step_size: float = 2.0
    """`basis`: length of a step over the one that whitening suggests, > 0; other kinds: Adam's rate. Chosen on public
    people: 1 step of 2 gained more under privacy than 2 of 1.5 or 2, and 4 overshot (docs/log.md)."""
    rehearsal_weight: float = 0.1
    """Weight of the public gradient beside the private one, ≥ 0."""
    rehearsal_per_step: int = 24
    """Public texts rehearsed at each step, ≥ 0."""
    head_rows: int = 16_384
    """Tokens of the vocabulary, the commonest first, that a training step looks at; measurements look at all."""
    max_tokens: int = 40
    """Completion tokens of a record that are learned."""

    def run(self) -> DpSgdRun:
        """The event to reserve: the least noise that keeps this night within its epsilon and delta."""
        noise = noise_multiplier(
            epsilon=self.epsilon, delta=self.delta, sampling_rate=self.sampling_rate, steps=self.steps
        )
        return DpSgdRun(
            noise_multiplier=noise, sampling_rate=self.sampling_rate, steps=self.steps, clip_norm=self.clip_norm
        )

    def digest(self) -> str:
        """SHA-256 of the canonical plan: what the ledger binds a reservation to."""
        body = json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(body.encode()).hexdigest()
