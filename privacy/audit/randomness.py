"""The engine's randomness in, findings about it out: is the noise as large, as fresh and as secret as the claim needs?

Statistical checks fail at p < `findings.ALARM`, so that a sound engine is not accused. A generator that passes them may
still be a bad one: what is looked for are the mistakes that people make.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from scipy.special import ndtr
from scipy.stats import chi2, kstest

from privacy.audit.findings import Finding, judged
from privacy.audit.parts import Engine, TinyTask
from privacy.audit.secrecy import secrecy
from privacy.dp_sgd import DpSgd
from privacy.events import DpSgdRun

__all__ = [
    "noise_findings",
    "noise_freshness",
    "noise_secrecy",
    "noise_shape",
    "noise_size",
    "released_noise",
    "sampler_independence",
    "sampler_rate",
    "sampler_secrecy",
    "sampler_units",
]

NOISE_STEPS = 90  # With 1,536 numbers a step the size of the noise is known within 0.2 %.
CLIP_NORM, NOISE = 0.37, 1.9
SAMPLED, RATE, SAMPLED_STEPS = 60, 0.1, 3_000
_REPEATS = 3  # Equal numbers of 53 random bits among 140,000 that chance may bring; more have another reason.
REAL = Engine()


# --- noise -----------------------------------------------------------------------------------------------------------


def noise_findings(engine: Engine = REAL) -> tuple[Finding, ...]:
    """Judge size, shape and freshness of the same steps' noise."""
    draws = released_noise(engine)
    return noise_size(draws), noise_shape(draws), noise_freshness(draws)


def noise_size(draws: np.ndarray) -> Finding:
    """The noise has the variance that was charged for, whatever batch was drawn; `draws` as `released_noise` gives."""
    energy, numbers = float((draws**2).sum()), draws.size
    return judged(
        "noise size",
        "the noise on the sum has the charged standard deviation, once per step",
        2 * min(chi2.cdf(energy, numbers), chi2.sf(energy, numbers)),
        f"{np.sqrt(energy / numbers):.4f} × the charged standard deviation over {numbers} numbers",
    )


def noise_shape(draws: np.ndarray) -> Finding:
    """The noise is Gaussian: the accountant's figures hold for no other shape."""
    distance, p_value = kstest(draws.ravel(), "norm")
    return judged(
        "noise shape",
        "the noise is Gaussian with mean 0",
        float(p_value),
        f"distance {distance:.4f} from the Gaussian distribution over {draws.size} numbers",
    )


def noise_freshness(draws: np.ndarray) -> Finding:
    """Steps, and parameters within a step, get noise of their own."""
    half = draws.shape[1] // 2
    overlap = draws @ draws.T / np.sqrt(draws.shape[1])  # (steps, steps); standard normal beside the diagonal
    between = overlap[np.triu_indices(len(draws), 1)]
    within = (draws[:, :half] * draws[:, half:]).sum(axis=1) / np.sqrt(half)  # The two parameters have one size.
    pairs = np.concatenate([between, within])
    strongest = float(np.abs(pairs).max())
    repeats = draws.size - len(np.unique(draws))
    return judged(
        "noise freshness",
        "noise is drawn anew for every step and every parameter",
        0.0 if repeats > _REPEATS else len(pairs) * _two_sided(strongest),
        f"strongest correlation {strongest:.2f} standard deviations among {len(pairs)} pairs, {repeats} numbers twice",
    )


def noise_secrecy(engine: Engine = REAL) -> Finding:
    """Nobody who sets a seed, or shares the process or its past, can repeat the noise."""

    def draw() -> bytes:
        task = TinyTask(quiet=True)
        step = engine.build(
            _run(steps=1), records=task.records, parameters=task.parameters, coins=lambda records, rate: []
        )
        parts = step.step(task.losses_of(engine))
        return b"".join(part.detach().double().numpy().tobytes() for part in parts)

    return secrecy("noise secrecy", "noise cannot be repeated: not by seeds, in a second engine, or in a fork", draw)


# --- sampler ---------------------------------------------------------------------------------------------------------


def sampler_rate(engine: Engine = REAL) -> Finding:
    """Every record is drawn at the charged rate, once per step at most."""
    drawn = _drawn(engine, rate=RATE)
    if drawn is None:
        return judged("sampler rate", _RATE_CLAIM, 0.0, "a step drew a record twice, or one that does not exist")
    counts = drawn.sum(axis=0)
    statistic = float(((counts - SAMPLED_STEPS * RATE) ** 2).sum() / (SAMPLED_STEPS * RATE * (1 - RATE)))
    p_value = 2 * min(chi2.cdf(statistic, SAMPLED), chi2.sf(statistic, SAMPLED))
    return judged(
        "sampler rate",
        _RATE_CLAIM,
        p_value,
        f"records were drawn in {counts.min() / SAMPLED_STEPS:.4f} to {counts.max() / SAMPLED_STEPS:.4f} of "
        f"{SAMPLED_STEPS} steps, charged {RATE:g}",
    )


_RATE_CLAIM = "each record joins each step with the charged probability"


def sampler_independence(engine: Engine = REAL) -> Finding:
    """Records are drawn independently of one another and of earlier steps: Poisson sampling, not shuffling."""
    claim = "records join a step by coins of their own (Poisson), not in shuffled batches"
    drawn = _drawn(engine, rate=0.5)  # At one half a coin is symmetric, so correlations are normal far into the tail.
    if drawn is None:
        return judged("sampler independence", claim, 0.0, "a step drew a record twice, or one that does not exist")
    steps, records = drawn.shape
    sizes = drawn.sum(axis=1)
    spread = ((sizes - records / 2) ** 2).sum() / (records / 4)  # Chi-square with `steps` degrees of freedom
    scatter = (spread - steps) / np.sqrt(steps * (2 - 2 / records))  # with the variance of a binomial's square.
    signs = 2.0 * drawn - 1  # (steps, records)
    together = (signs.T @ signs / np.sqrt(steps))[np.triu_indices(records, 1)]
    again = (signs[1:].T @ signs[:-1] / np.sqrt(steps - 1)).ravel()
    same = (signs[1:] * signs[:-1]).sum() / np.sqrt((steps - 1) * records)
    pairs = np.concatenate([together, again])
    strongest = float(np.abs(pairs).max())
    p_value = 3 * min(len(pairs) * _two_sided(strongest), _two_sided(same), _two_sided(scatter))
    return judged(
        "sampler independence",
        claim,
        p_value,
        f"batch sizes {sizes.min()} to {sizes.max()}, their variance {sizes.var() / (records / 4):.3f} × Poisson "
        f"sampling's; strongest correlation {strongest:.2f} standard deviations among {len(pairs)} pairs",
    )


def sampler_units(engine: Engine = REAL) -> Finding:
    """Where units are larger than a record, each is drawn whole, by one coin at the charged rate."""
    claim = "records of one unit join a step together, with the charged probability"
    units = [record // 5 for record in range(SAMPLED)]
    drawn = _drawn(engine, rate=RATE, steps=SAMPLED_STEPS // 3, units=units)
    if drawn is None:
        return judged("sampler units", claim, 0.0, "a step drew a record twice, or one that does not exist")
    whole = drawn.reshape(len(drawn), -1, 5)  # (steps, units, 5)
    broken = int((whole.min(axis=2) != whole.max(axis=2)).sum())
    counts = whole[:, :, 0].sum(axis=0)
    statistic = float(((counts - len(drawn) * RATE) ** 2).sum() / (len(drawn) * RATE * (1 - RATE)))
    p_value = 2 * min(chi2.cdf(statistic, len(counts)), chi2.sf(statistic, len(counts)))
    return judged(
        "sampler units",
        claim,
        0.0 if broken else p_value,
        f"{broken} units were drawn in part; units were drawn in {counts.min() / len(drawn):.4f} to "
        f"{counts.max() / len(drawn):.4f} of {len(drawn)} steps, charged {RATE:g}",
    )


def sampler_secrecy(engine: Engine = REAL) -> Finding:
    """Nobody who sets a seed, or shares the process or its past, can repeat which records were drawn."""

    def draw() -> bytes:
        drawn = _drawn(engine, rate=0.5, records=200, steps=1)
        return b"" if drawn is None else drawn.tobytes()

    return secrecy("sampler secrecy", "the drawn records cannot be repeated, as for the noise", draw)


def _two_sided(deviations: float) -> float:
    """Chance that a standard normal number is so far from zero."""
    return 2 * float(ndtr(-abs(deviations)))


# --- what an engine shows --------------------------------------------------------------------------------------------


def _run(*, steps: int, rate: float = 1.0) -> DpSgdRun:
    return DpSgdRun(noise_multiplier=NOISE, sampling_rate=rate, steps=steps, clip_norm=CLIP_NORM)


def released_noise(engine: Engine) -> np.ndarray:
    """Return what the steps of a task without gradients release, in charged standard deviations: (steps, numbers).

    Batches are empty, whole in one microbatch, and whole in many, in turn.
    """
    task = TinyTask(records=9, width=48, rank=16, quiet=True)
    batches: Iterator[Sequence[int]] = iter([[], range(task.records), range(task.records)] * NOISE_STEPS)
    step = engine.build(
        _run(steps=NOISE_STEPS),
        records=task.records,
        parameters=task.parameters,
        coins=lambda records, rate: list(next(batches)),
    )
    rows = []
    for number in range(NOISE_STEPS):
        parts = step.step(task.losses_of(engine), microbatch=(16, 16, 2)[number % 3])
        rows.append(torch.cat([part.detach().double().flatten() for part in parts]).numpy())
    return np.stack(rows) * (task.records / (NOISE * CLIP_NORM))


class _Drawn(Exception):
    """Carries the drawn records out of a step, before any gradient is computed."""


def _drawn(
    engine: Engine,
    *,
    rate: float,
    records: int = SAMPLED,
    steps: int = SAMPLED_STEPS,
    units: Sequence[int] | None = None,
) -> np.ndarray | None:
    """Return which records joined which step, shape (steps, records); None when a draw is impossible."""
    task = TinyTask(quiet=True)
    run = _run(steps=steps, rate=rate)
    step: DpSgd = engine.build(run, records=records, parameters=task.parameters, units=units)

    def losses(indices: Sequence[int]) -> torch.Tensor:
        raise _Drawn(list(indices))

    joined = np.zeros((steps, records), dtype=np.int64)
    for number in range(steps):
        try:
            step.step(losses, microbatch=2 * records)
        except _Drawn as seen:
            (indices,) = seen.args
            if len(set(indices)) != len(indices) or not all(0 <= index < records for index in indices):
                return None
            joined[number, indices] = 1
    return joined
