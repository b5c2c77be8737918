"""Records held out of a night in, a noisy answer to "does the new adapter suit this person?" out, at a charge.

Rules:
    1. Which units are held out is a coin with a key of the device and the ids of the records: not their content.
    2. The look is charged to the blocks before the night begins, and drawn before any score is released.
    3. A score is how much better the candidate predicts a unit than the adapter in use, in nats per token, clipped.
       Only the noisy mean leaves the learner.
    4. With few records the noise is wide, so the answer can refuse what surely harms; it cannot prove a small gain.
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch

from personalize.adapter import Adapter, attached
from personalize.forward import Prefix, collate, completion_losses
from personalize.store import Record
from personalize.units import units_of
from privacy import GateRelease, Unit

__all__ = ["LEAST_UNITS", "Gain", "event", "held_out", "scores"]

SHARE = 0.15  # Of the units of a night; what is held out is not learned.
LEAST_UNITS = 5  # Fewer say nothing through the noise.
BOUND = 0.5  # Nats per token: most changes that a night makes to one text are smaller.
NOISE = 6.0  # Noise over bound, on the sum: epsilon 0.6 by itself at delta 1e-5; 0.14 more beside a night of 2.
Z = 1.645  # One-sided 95 %.
BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What a look at held-out records released."""

    mean: float
    """Noisy mean of the clipped scores, in nats per token; above 0 the new adapter is better."""
    noise_std: float
    """Standard deviation of the noise on it: public."""
    units: int
    """Units that were held out."""

    @property
    def harmful(self) -> bool:
        """Whether the new adapter is surely worse, as far as the noise can tell."""
        return self.mean + Z * self.noise_std < 0

    def to_dict(self) -> dict[str, float]:
        """The same as plain values."""
        return {"mean": self.mean, "noise_std": self.noise_std, "units": self.units}


def event(unit: Unit) -> GateRelease:
    """What a look costs."""
    return GateRelease(noise_multiplier=NOISE, unit=unit)


def held_out(records: Sequence[Record], unit: Unit, key: bytes) -> tuple[list[Record], list[Record]]:
    """Split records into those to learn from and those to look at; all records of a unit go the same way.

    Args:
        records: Of a night.
        unit: Unit of privacy.
        key: 32 bytes of the device, so that nobody can choose an id that is never looked at.
    """
    numbers = units_of(records, unit) or list(range(len(records)))
    first: dict[int, str] = {}
    for number, record in zip(numbers, records, strict=True):
        first[number] = min(first.get(number, record.id), record.id)
    out = {number for number, name in first.items() if _coin(name, key) < SHARE}
    learned = [record for number, record in zip(numbers, records, strict=True) if number not in out]
    return learned, [record for number, record in zip(numbers, records, strict=True) if number in out]


@torch.no_grad()
def scores(
    model: Any, prefixes: Sequence[Prefix], units: Sequence[int] | None, *, before: Adapter, after: Adapter
) -> list[float]:
    """One private score a unit: mean over its records of the loss that the change saves, in nats per token."""
    saved = _losses(model, prefixes, before) - _losses(model, prefixes, after)  # (records,)
    numbers = list(range(len(prefixes))) if units is None else list(units)
    found: dict[int, list[float]] = {}
    for number, value in zip(numbers, saved.tolist(), strict=True):
        found.setdefault(number, []).append(value)
    return [sum(values) / len(values) for values in found.values()]


def _losses(model: Any, prefixes: Sequence[Prefix], adapter: Adapter) -> torch.Tensor:
    parts = []
    with attached(model, adapter):
        for start in range(0, len(prefixes), BATCH):
            group = prefixes[start : start + BATCH]
            tokens = torch.tensor([max(1, len(one.record.ids) - one.record.completion) for one in group])  # (batch,)
            parts.append(completion_losses(model, collate(group), cut=adapter.spec.cut).double() / tokens)
    return torch.cat(parts)


def _coin(name: str, key: bytes) -> float:
    return int.from_bytes(hmac.digest(key, name.encode(), sha256)[:8], "big") / 2**64
