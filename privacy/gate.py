"""Scores of private units in, their noisy mean out: what a gate on private text may look at, and what it costs.

Rules:
    1. A unit gives one score, clipped to [-bound, bound]; one that is not finite counts as 0, as an empty unit does.
    2. Noise is added once, to the sum. The number of units is public under the zero-out relation.
    3. The verdict is a function of the noisy mean, so it costs what the mean costs, whether it says yes or no.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from privacy import noise
from privacy.errors import EngineError, EventError
from privacy.events import GateRelease, Neighbours
from privacy.ledger import Ledger, Receipt

__all__ = ["charged_mean", "noise_std", "released_mean"]


def charged_mean(scores: Sequence[float], *, bound: float, ledger: Ledger, receipt: Receipt) -> float:
    """Draw one use from the receipt, then release the noisy mean that it paid for.

    Args:
        scores: One score a unit, such as how much better a candidate predicts it than the adapter in use.
        bound: Largest score that counts, > 0; chosen without looking at any score.
        ledger: Where the gate was reserved.
        receipt: Of a `GateRelease` for these units.

    Raises:
        EventError: The receipt is for something else, or for a relation under which the number of units is secret.
        EngineError: No score, or an impossible bound. In both cases nothing was drawn.
        ReceiptError, LedgerError: As `Ledger.draw`; nothing was released.
    """
    run = receipt.run
    if not isinstance(run, GateRelease) or run.neighbours is not Neighbours.ZERO_OUT:
        raise EventError(f"a gate needs a receipt for a GateRelease under zero_out, got {run.kind}; reserve one")
    _require(scores, bound, run.noise_multiplier)
    ledger.draw(receipt)  # Before any score is looked at.
    return released_mean(scores, bound=bound, noise_multiplier=run.noise_multiplier)


def released_mean(
    scores: Sequence[float],
    *,
    bound: float,
    noise_multiplier: float,
    gaussian: Callable[[tuple[int, ...]], Tensor] = noise.gaussian,
) -> float:
    """Return the mean of the clipped scores with Gaussian noise; whoever calls it has charged a `GateRelease`.

    Zeroing one unit moves the sum by at most `bound`, so noise of `noise_multiplier` times `bound` on the sum is the
    Gaussian mechanism that the event names.

    Args:
        scores: One score a unit, at least one.
        bound: Largest score that counts, > 0.
        noise_multiplier: As in the event that was charged, > 0.
        gaussian: Source of standard normal noise; the default cannot be seeded.

    Raises:
        EngineError: No score, or an impossible bound or noise; nothing was released.

    Source: Dwork and Roth 2014, doi:10.1561/0400000042, appendix A; the clip as in arXiv:1607.00133.
    """
    _require(scores, bound, noise_multiplier)
    clipped = [min(max(score, -bound), bound) if math.isfinite(score) else 0.0 for score in map(float, scores)]
    # Not the difference of two noisy means: one sum, one draw, and nothing else of the scores leaves this function.
    return (math.fsum(clipped) + noise_multiplier * bound * float(gaussian((1,))[0])) / len(clipped)


def noise_std(units: int, *, bound: float, noise_multiplier: float) -> float:
    """Return the standard deviation of the noise on a released mean: public, so a gate may allow for it."""
    _require(range(units), bound, noise_multiplier)
    return noise_multiplier * bound / units


def _require(scores: Sequence[float], bound: float, noise_multiplier: float) -> None:
    if len(scores) < 1:
        raise EngineError("a gate needs the score of at least one unit, got none; remember something first")
    if not (0 < bound < math.inf and 0 < noise_multiplier < math.inf):
        raise EngineError(f"bound and noise must be above 0 and finite, got {bound:g} and {noise_multiplier:g}")
