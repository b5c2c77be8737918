"""The engine's parts in, findings about one step without its noise out: exact checks, in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from privacy.audit.findings import Finding
from privacy.audit.parts import ODD, Engine, TinyTask
from privacy.errors import StepsExhaustedError
from privacy.events import DpSgdRun, Unit

__all__ = [
    "UNITS",
    "clip_invariant",
    "limited_steps",
    "microbatches_add_up",
    "neighbour_sensitivity",
    "public_divisor",
    "unit_sensitivity",
]

CLIP_NORM = 0.37  # Not 1, so that a forgotten factor shows.
_ROUNDING = 1e-9  # Of a sum in float64, relative to the clip norm.
REAL = Engine()
UNITS = (0, 1, 0, 2, 3, 1, 0, 2, 4, 0, 0, 1, 5, 5, 6, 7, 7, 7, 8, 2, 9, 9, 3, 3, 3, 10)
"""Unit of each record of a tiny task: one to five records, not side by side, odd ones among them."""


def clip_invariant(engine: Engine = REAL) -> Finding:
    """No record alone moves the sum by more than the clip norm; one whose gradient is not finite not at all."""
    task = TinyTask()
    alone = [_norm(_clipped_sum(engine, task, [record])) for record in range(task.records)]
    largest, odd = float(np.max(alone)), float(np.max(alone[-ODD:]))
    return Finding(
        leg="clip invariant",
        claim="a record alone moves the sum by at most the clip norm, and not at all if its gradient is not finite",
        passed=largest <= CLIP_NORM * (1 + _ROUNDING) and odd == 0,  # Also false for what is no number.
        measured=f"largest of {task.records} records {largest / CLIP_NORM:.6f} × the clip norm, not finite {odd:g}",
    )


def neighbour_sensitivity(engine: Engine = REAL) -> Finding:
    """Taking away any one record moves the sum by at most the clip norm, and exactly by that record's own share.

    A loss that is averaged over the batch fails here: then a record rescales its neighbours before they are clipped.
    """
    task = TinyTask()
    worst, stray = 0.0, 0.0
    for size in (task.records // 2, task.records - ODD):  # One long record among short ones, then all sorts.
        everybody = list(range(size))
        whole = _clipped_sum(engine, task, everybody)
        for record in everybody:
            moved = _difference(whole, _clipped_sum(engine, task, [other for other in everybody if other != record]))
            worst = _larger(worst, _norm(moved) / CLIP_NORM)
            stray = _larger(stray, _norm(_difference(moved, _clipped_sum(engine, task, [record]))) / CLIP_NORM)
    return Finding(
        leg="neighbour sensitivity",
        claim="sums over neighbouring data differ by at most the clip norm, and only by the record that differs",
        passed=worst <= 1 + _ROUNDING and stray <= _ROUNDING * task.records,
        measured=f"largest difference {worst:.4f} × the clip norm, of it {stray:.2e} through other records",
    )


def unit_sensitivity(engine: Engine = REAL) -> Finding:
    """Taking away a whole unit moves the sum by at most the clip norm, however its records fall into microbatches.

    An engine that clips record by record fails here: then a unit of five records moves the sum by five clip norms.
    """
    task, worst, stray = TinyTask(), 0.0, 0.0
    everybody = range(len(set(UNITS)))
    alone = [_clipped_sum(engine, task, [unit], units=UNITS) for unit in everybody]  # Each in one microbatch.
    for microbatch in (4, 1_000):

        def summed(units: Sequence[int], microbatch: int = microbatch) -> list[Tensor]:
            return _clipped_sum(engine, task, units, microbatch=microbatch, units=UNITS)

        whole = summed(everybody)
        for unit in everybody:
            moved = _difference(whole, summed([other for other in everybody if other != unit]))
            worst = _larger(worst, _norm(moved) / CLIP_NORM)
            stray = _larger(stray, _norm(_difference(moved, alone[unit])) / CLIP_NORM)
    return Finding(
        leg="unit sensitivity",
        claim="a unit of several records moves the sum by at most the clip norm, whatever microbatches it falls into",
        passed=0.5 < worst <= 1 + _ROUNDING and stray <= _ROUNDING * task.records,
        measured=f"largest of {len(everybody)} units {worst:.4f} × the clip norm, of it {stray:.2e} through others",
    )


def microbatches_add_up(engine: Engine = REAL) -> Finding:
    """The size of the microbatch does not change the sum."""
    task = TinyTask()
    everybody = list(range(task.records))
    whole = _clipped_sum(engine, task, everybody)
    gap = 0.0
    for size in (1, 3, task.records - 1):
        parts = _clipped_sum(engine, task, everybody, microbatch=size)
        gap = _larger(gap, _norm(_difference(whole, parts)) / CLIP_NORM)
    return Finding(
        leg="microbatches",
        claim="microbatches bound memory and do not change the sum",
        passed=gap <= _ROUNDING * task.records,
        measured=f"largest difference {gap:.2e} × the clip norm over microbatches of 1, 3 and {task.records - 1}",
    )


def public_divisor(engine: Engine = REAL) -> Finding:
    """The sum is divided by the public expected batch, whether many, one or no record was drawn."""
    task = TinyTask()
    gap = 0.0
    for drawn in ([], [4], [0, 3, 4, 5], list(range(task.records))):
        whole, sampled = (_clipped_sum(engine, task, drawn, rate=rate) for rate in (1.0, 0.25))
        gap = _larger(gap, _norm(_difference(whole, sampled)) / CLIP_NORM)
        if not drawn:
            gap = _larger(gap, _norm(whole) / CLIP_NORM)
    return Finding(
        leg="public divisor",
        claim="the sum is divided by sampling rate times records, never by the batch that was drawn",
        passed=gap <= _ROUNDING * task.records,
        measured=f"largest difference {gap:.2e} × the clip norm over batches of 0, 1, 4 and {task.records}",
    )


def limited_steps(engine: Engine = REAL) -> Finding:
    """A run gives its steps and no more."""
    task = TinyTask(quiet=True)
    run = DpSgdRun(noise_multiplier=1.0, sampling_rate=1.0, steps=3, clip_norm=CLIP_NORM)
    step, given = engine.build(run, records=task.records, parameters=task.parameters), 0
    try:
        while given <= run.steps:
            step.step(task.losses_of(engine))
            given += 1
    except StepsExhaustedError:
        pass
    return Finding(
        leg="limited steps",
        claim="a run draws the steps it was charged for and no more",
        passed=given == run.steps,
        measured=f"{given} steps of {run.steps}, then {'refused' if given <= run.steps else 'another one'}",
    )


def _clipped_sum(
    engine: Engine,
    task: TinyTask,
    drawn: Sequence[int],
    *,
    rate: float = 1.0,
    microbatch: int = 1_000,
    units: Sequence[int] | None = None,
) -> list[Tensor]:
    """Return what one step adds up for the units `drawn`: its result without noise, times the public batch."""
    hidden = Unit.RECORD if units is None else Unit.DAY
    run = DpSgdRun(noise_multiplier=1.0, sampling_rate=rate, steps=1, clip_norm=CLIP_NORM, unit=hidden)
    step = engine.build(
        run,
        records=task.records,
        parameters=task.parameters,
        units=units,
        gaussian=lambda shape: torch.zeros(shape, dtype=torch.float64),
        coins=lambda records, probability: list(drawn),
    )
    released = step.step(task.losses_of(engine), microbatch=microbatch)
    count = task.records if units is None else len(set(units))
    return [part * (rate * count) for part in released]


def _difference(ones: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    return [one - other for one, other in zip(ones, others, strict=True)]


def _norm(parts: Sequence[Tensor]) -> float:
    return float(torch.cat([part.detach().flatten() for part in parts]).norm())


def _larger(one: float, other: float) -> float:
    return float(np.maximum(one, other))  # Not a number, if one of them is: max() would forget it.
