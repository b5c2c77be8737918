"""A run in, the scores of its canaries out: one real training whose data hold records that are easy to recognise.

A canary's gradient is a Dirac: all of it in one coordinate that no other record touches, and as long as the clip norm
in every step. Nobody hides worse, so what an attacker can do to a canary bounds what anybody can do to any record.
Each record is a unit of its own here; that larger units are clipped and drawn whole is checked by legs of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from privacy import noise
from privacy.audit.parts import Engine
from privacy.events import DpSgdRun, Unit
from privacy.ledger import Ledger
from privacy.per_example import add_grad_sample, low_rank_linear

__all__ = ["Scores", "train_with_canaries"]

ORDINARY = 32  # Records that are no canaries: the training has something to learn.
FEATURES = 8
STRENGTH = 1e3  # Gradient of a canary over the clip norm: clipped to it in full.
STEP_SIZE = 0.05  # For one record. Constant, so that the final weights are the sum of all that was released.
MICROBATCH = 128


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What an attacker sees of each canary, and what was true."""

    scores: np.ndarray
    """How far training moved the canary's weight, in charged standard deviations: (canaries,)."""
    included: np.ndarray
    """Whether its coin put it into the data: (canaries,)."""
    charged: float
    """Epsilon (nats) that the ledger charged for the run."""
    loss: tuple[float, float]
    """Mean loss of the ordinary records before and after, in nats: the training is a real one."""


def train_with_canaries(
    run: DpSgdRun, *, canaries: int, ledger: Ledger, engine: Engine | None = None, seed: int = 0
) -> Scores:
    """Reserve `run`, train a logistic regression with canaries in its data, and read the canaries' weights.

    Args:
        run: What is reserved and trained.
        canaries: How many records are in by a coin; one that is out is replaced by an empty record (zero-out).
        ledger: Where the run is charged.
        engine: What is audited; None: the real engine.
        seed: Which ordinary records; the coins and the noise cannot be seeded.

    Raises:
        PrivacyError: The ledger or the engine refuses.
    """
    engine = engine or Engine()
    receipt = ledger.reserve(run, blocks=["audit"], caller="audit")
    included = np.zeros(canaries, dtype=bool)
    included[noise.coins(canaries, 0.5)] = True
    records, labels = _records(included, clip_norm=run.clip_norm, seed=seed)
    weights = torch.zeros(1, records.shape[1], dtype=torch.float64, requires_grad=True)
    losses_of = _losses(records, labels, weights)
    before = _ordinary_loss(losses_of)
    units = None if run.unit is Unit.RECORD else range(len(records))
    step = engine.build(run, records=len(records), parameters=[weights], units=units)
    for _ in range(run.steps):
        ledger.draw(receipt)
        (gradient,) = step.step(losses_of, microbatch=MICROBATCH)
        with torch.no_grad():
            weights -= STEP_SIZE * run.sampling_rate * len(records) * gradient
    ledger.close(receipt, "audited")
    moved = -weights.detach()[0, FEATURES:].numpy() / STEP_SIZE
    return Scores(
        scores=moved / (run.noise_multiplier * run.clip_norm * run.steps**0.5),
        included=included,
        charged=ledger.spent(),
        loss=(before, _ordinary_loss(losses_of)),
    )


def _records(included: np.ndarray, *, clip_norm: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return (records, features + canaries) inputs and labels: ordinary ones ±1, canaries 0."""
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.zeros(ORDINARY + len(included), FEATURES + len(included), dtype=torch.float64)
    labels = torch.zeros(len(inputs), dtype=torch.float64)
    inputs[:ORDINARY, :FEATURES] = torch.randn(ORDINARY, FEATURES, generator=draw, dtype=torch.float64)
    truth = torch.randn(FEATURES, generator=draw, dtype=torch.float64)
    labels[:ORDINARY] = torch.sign(inputs[:ORDINARY, :FEATURES] @ truth)
    inputs[ORDINARY:, FEATURES:] = torch.diag(torch.from_numpy(included).double()) * (STRENGTH * clip_norm)
    return inputs, labels


def _losses(records: Tensor, labels: Tensor, weights: Tensor) -> Callable[[Sequence[int]], Tensor]:
    """Logistic loss for ordinary records; a straight line for canaries, so that their gradient never fades."""
    frozen, one = torch.zeros(1, records.shape[1], dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)

    def route(inputs: Tensor, projected: Tensor, upstream: Tensor) -> None:
        add_grad_sample(weights, torch.einsum("bso,bsi->boi", upstream, inputs))

    def losses(indices: Sequence[int]) -> Tensor:
        rows = list(indices)
        logits = low_rank_linear(records[rows, None], frozen, weights, one, route, [weights])[:, 0, 0]  # (batch,)
        label = labels[rows]
        return torch.where(label == 0, logits, functional.softplus(-label * logits))

    return losses


def _ordinary_loss(losses_of: Callable[[Sequence[int]], Tensor]) -> float:
    with torch.no_grad():
        return float(losses_of(range(ORDINARY)).mean())
