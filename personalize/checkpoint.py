"""A night that is under way in, a sealed file in the home out; and the same night back, to go on with.

Rules:
    1. The file is written when a night is reserved and after each of its steps, whole or not at all, under a key of the
       device. It holds parameters and the optimizer's state, which are outputs of the mechanism, and no record.
    2. The noise has no position to keep: it is fresh from the system at each step.
    3. A step that was drawn from the receipt is never taken twice. What the ledger counts decides where a night goes
       on: a step that was drawn and did not reach the disk is lost. One exception costs nothing: a step that was
       stopped before its noise was drawn has no output, and is taken under the draw that paid for it. That is noted
       here, and the note is used up on the disk before the step is begun again.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from personalize.cipher import Cipher
from personalize.errors import SealError, StoreError
from personalize.home import Home
from personalize.plan import Mix, NightPlan
from privacy import Unit

__all__ = ["Checkpoints", "TrainingState", "Unfinished"]

FORMAT = "night/1"
FILE = "night.sealed"


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """Where training stands between two steps."""

    step: int = 0
    """Index of the step to take next, from 0 to the steps of the plan."""
    drawn: bool = False
    """Whether that step is drawn already and has no output: it was stopped before its noise."""
    taken: int = 0
    """Steps whose change is in the tensors; those that were drawn and lost are not among them."""
    tensors: Mapping[str, Tensor]
    """Parameters and optimizer state, by name; empty before the first step."""

    def after_draws(self, draws: int) -> "TrainingState":
        """Where training goes on, given how many steps the ledger has drawn: steps that left nothing are passed over.

        Raises:
            StoreError: It is ahead of the ledger, so one of the two was put back to an older state.
        """
        if draws < self.step + self.drawn:
            raise StoreError(f"the kept night is at step {self.step} and the ledger has drawn {draws}; it begins anew")
        return self if self.drawn and draws == self.step + 1 else replace(self, step=draws, drawn=False)


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """A night that was reserved and not closed."""

    receipt: str
    """Id of its receipt."""
    plan: NightPlan
    """Its plan."""
    base: str
    """Digest of the base model."""
    line: str
    """Line of adapters that it learns for."""
    begun_at: str | None
    """Name of the adapter that it began at; None for the public start."""
    start: str
    """Fingerprint of the numbers that it began at."""
    gate: str | None
    """Id of the receipt for a look at held-out records, where one was charged."""
    seed: int
    """Of the draw of public texts."""
    state: TrainingState
    """How far it is."""


class Checkpoints:
    """The one unfinished night of a home. Hold the home's lock to write."""

    def __init__(self, home: Home, *, key: bytes) -> None:
        """Use the file of `home`, which need not exist.

        Args:
            home: Where it is.
            key: 32 bytes, derived from the device key for this purpose alone.
        """
        self._home, self._cipher = home, Cipher(key)

    def save(self, night: Unfinished) -> None:
        """Replace what was kept.

        Raises:
            HomeError: No room or no right to write; what was kept before is still there.
        """
        facts = {
            "receipt": night.receipt,
            "plan": night.plan.to_dict(),
            "plan_digest": night.plan.digest(),
            "base": night.base,
            "line": night.line,
            "begun_at": night.begun_at,
            "start": night.start,
            "gate": night.gate,
            "seed": night.seed,
            "step": night.state.step,
            "taken": night.state.taken,
            "drawn": night.state.drawn,
        }
        tensors = save({name: value.detach().contiguous() for name, value in night.state.tensors.items()})
        self._home.put(FILE, self._cipher.seal(json.dumps(facts).encode() + b"\n" + tensors, FORMAT))

    def load(self) -> Unfinished | None:
        """What was kept; None where nothing was, or where it does not open or was written by another version."""
        try:
            facts, tensors = self._cipher.open(self._home.get(FILE) or b"", FORMAT).split(b"\n", 1)
            return _read(json.loads(facts), load(tensors))
        except (SealError, ValueError, TypeError, KeyError):
            return None

    def clear(self) -> None:
        """Keep nothing any more."""
        self._home.remove(FILE)


def _read(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Unfinished | None:
    written = dict(facts["plan"])
    written.pop("format")
    plan = NightPlan(**written | {"unit": Unit(written["unit"]), "mix": Mix(**written["mix"])})
    if plan.digest() != facts["plan_digest"]:
        return None  # This version would follow the plan in another way.
    return Unfinished(
        receipt=facts["receipt"],
        plan=plan,
        base=facts["base"],
        line=facts["line"],
        begun_at=facts["begun_at"],
        start=facts["start"],
        gate=facts["gate"],
        seed=facts["seed"],
        state=TrainingState(step=facts["step"], drawn=facts["drawn"], taken=facts["taken"], tensors=tensors),
    )
