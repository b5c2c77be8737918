"""A safeguard in, an AssertionError out where it does not hold: the same checks for the healthy engine and its mutants.

Every random check holds for a healthy engine with a probability of 1 - 1e-9; the mutants miss it by far more.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from privacy.dp_sgd import DpSgd
from privacy.events import DpSgdRun
from privacy.ledger import Ledger
from tests.brute_force import norm_of
from tests.privacy.linear import Linear, run_of

NEVER = 1e-9
"""A p-value below this does not happen to a healthy engine."""

MakeEngine = Callable[[Linear, DpSgdRun], DpSgd]


def require_each_record_moves_the_sum_by_at_most(
    clip_norm: float, records: int, sum_without: Callable[[int | None], Sequence[Tensor]]
) -> None:
    """The neighbour test: |S(D) - S(D')| ≤ clip norm for the neighbour D' of each record.

    Args:
        clip_norm: Largest L2 norm of one record's part.
        records: Number of records.
        sum_without: Clipped sum with one record replaced by an empty one, or (None) of all.
    """
    whole = [part.clone() for part in sum_without(None)]
    moved = [
        norm_of([one - other for one, other in zip(whole, sum_without(row), strict=True)]) for row in range(records)
    ]
    assert max(moved) > 0.5 * clip_norm, "no record moves the sum: the check would prove nothing"
    assert max(moved) <= clip_norm * (1 + 1e-9), f"record {moved.index(max(moved))} moves the sum by {max(moved)}"


def require_noise_of_the_run(make: MakeEngine, *, microbatch: int = 4) -> None:
    """The noise of a step has the standard deviation that the accountant was told, whatever the microbatches."""
    numbers = 40_000
    records, run = Linear(torch.zeros(16, numbers, dtype=torch.float64)), run_of(steps=2)
    made = make(records, run)
    std = run.noise_multiplier * run.clip_norm / 16
    first, second = (made.step(records.losses_of, microbatch=microbatch)[0].numpy() / std for _ in range(2))
    for drawn in (first, second):
        likelihood = stats.chi2.cdf(float((drawn**2).sum()), df=numbers)
        assert NEVER < likelihood < 1 - NEVER, f"noise is {drawn.std():.1f} times what it should be"
        assert stats.kstest(drawn, "norm").pvalue > NEVER, "noise is not normal"
    assert abs(np.corrcoef(first, second)[0, 1]) < 6.2 / numbers**0.5, "two steps share their noise"


def require_public_divisor(make: MakeEngine) -> None:
    """The sum is divided by sampling rate times records, however many records were drawn.

    Args:
        make: Gives an engine without noise, so that the quotient shows.
    """
    run = run_of(sampling_rate=0.25, steps=60)
    records = Linear(torch.ones(20, 1, dtype=torch.float64))
    made = make(records, run)
    drawn = set()
    for _ in range(run.steps):
        records.asked.clear()
        (gradient,) = made.step(records.losses_of, microbatch=3)
        size = sum(map(len, records.asked))
        drawn.add(size)
        assert gradient.item() == size / 5, f"{size} records of gradient 1 came to {gradient.item()}, not {size}/5"
    assert len(drawn) > 2, "every batch had the same size: the check would prove nothing"


def require_poisson_batches(make: MakeEngine) -> None:
    """Each record joins each step by a coin of its own: the amplification that the accountant grants needs that."""
    rate, steps, count = 0.2, 400, 60
    run, records = run_of(sampling_rate=rate, steps=steps), Linear(torch.zeros(count, 1))
    made, joined = make(records, run), np.zeros((steps, count))
    for step in range(steps):
        records.asked.clear()
        made.step(records.losses_of, microbatch=7)
        for group in records.asked:
            joined[step, group] += 1
    assert joined.max() == 1, "a record joined a step twice"
    spread = rate * (1 - rate)
    tests = {
        "a record joins more or less often than others": ((joined.sum(0) - steps * rate) ** 2, steps * spread),
        "batch sizes are not binomial": ((joined.sum(1) - count * rate) ** 2, count * spread),
    }
    for wrong, (squares, variance) in tests.items():
        likelihood = stats.chi2.cdf(float(squares.sum()) / variance, df=len(squares))
        assert NEVER < likelihood < 1 - NEVER, wrong
    total = int(joined.sum())
    assert stats.binomtest(total, steps * count, rate).pvalue > NEVER, "the sampling rate is another one"
    again = int((joined[1:] * joined[:-1]).sum())  # Records that join two steps in a row.
    assert stats.binomtest(again, (steps - 1) * count, rate**2).pvalue > NEVER, "one step knows of the one before"


def require_nothing_refunded(ledger: Ledger, runs: Sequence[DpSgdRun], block: str) -> None:
    """All runs that ever began are still charged to the block, whatever became of them."""
    from privacy import epsilon

    owed = epsilon(runs, delta=ledger.budget().delta, accountant="rdp")
    spent = ledger.spent_by_block().get(block, 0.0)
    assert spent >= owed * (1 - 1e-9), f"{len(runs)} runs cost epsilon {owed:.3f} and the ledger shows {spent:.3f}"


def require_private_part_is_clipped_alone(
    gradients: Sequence[Tensor], clipped: Sequence[Tensor], divisor: float, public: Sequence[Tensor], weight: float
) -> None:
    """A noiseless step is clipped private sum over public divisor, plus weight times the public gradient, unclipped."""
    wanted = [mine / divisor + weight * theirs for mine, theirs in zip(clipped, public, strict=True)]
    off = norm_of([one - other for one, other in zip(gradients, wanted, strict=True)]) / norm_of(wanted)
    assert off < 1e-9, f"public and private gradients met before the clip: off by {off:.2g}"
