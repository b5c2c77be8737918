"""Per-example gradients in, the sum of their clipped selves and upper bounds of their norms out, for a Core ML program.

What is clipped is the numbers as they were computed, so no error of the gradient weakens the clip: only the norm, the
scaling and the sum have to be sound. They are typed float32. A unit that computes types as declared, which Core ML
promises (docs/core_ml.md), gets a bound within SLACK of the norm; one that computes in float16 all the same is found
out by the program, on its own inputs, and gets a wider one that holds there too:

    tight   (1) FOLD squares are added at a time: however a unit orders them, each level loses at most FOLD × 2^-23;
            (2) SLACK is several times that over all levels, and covers the roundings of scaled values and their sum;
            (3) FLOOR covers what underflows, and is what privacy.dp_sgd adds to a norm;
    wide    (1) gradients are divided by their largest entry first, so that no square overflows;
            (2) they are multiplied by SPREAD before they are squared, so that what underflows, or is flushed to zero
                below the smallest normal number, is less than FLUSHED each; that much is added for every number;
            (3) FOLD float16 additions lose at most FOLD × LOST of a sum of nonnegative numbers: the bound is divided by
                what is left after all levels;
            (4) RESERVE covers the roundings of the clipped values themselves and of their sum.

A record whose norm is not a number, or infinite, is left out, as in privacy.dp_sgd.
"""

import math

import torch
from torch import Tensor

__all__ = ["MAX_RECORDS", "clipped_sums", "norm_bounds", "tight_bounds", "wide_bounds"]

MAX_RECORDS = 8  # SLACK and RESERVE cover the sum of so many.
FOLD = 32  # Numbers that are added up at once.
SLACK = 2.0**-13  # 7 levels of FOLD additions lose 2.7e-5 of a sum, half of it of a norm; scaling and sum lose 1.3e-6.
FLOOR = 1e-6  # As privacy.dp_sgd; float32 loses at most 2^-126 a square, 1e-16 of the norm of a million numbers.
FINE = 2.0**-12  # No float16 can tell (1 + FINE) × itself from itself.
SPREAD = 16.0  # FOLD × SPREAD² is 8,192: a sum of the largest squares stays within float16.
LOST = 2.0**-10  # Share of a float16 result that one operation may lose, by truncation; rounding loses half of it.
FLUSHED = 2.0**-14 / SPREAD**2  # Largest square, in units of the largest entry, that float16 may lose.
RESERVE = 1.02  # 2^-11 for each rounding of a value and up to 3 · 2^-11 · batch of their sum: under 2 % for 8 records.
SMALLEST = 1e-4  # Added to the largest entry, so that a gradient of zeros divides by something.


def clipped_sums(rows: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
    """Clip each record alone, over all parameters together, and add the records up.

    Args:
        rows: Gradients, one record a row, (records, numbers); at most MAX_RECORDS.
        limit: Largest Euclidean norm of a record's share, shape (1,), > 0.

    Returns:
        The sum, (numbers,), and the upper bounds of the norms before, (records,).
    """
    norms = norm_bounds(rows, limit)  # (records, 1)
    shares = limit / norms
    alive = shares > 0  # Not where the norm is infinite or no number: zero times infinity would be no number either.
    shares = torch.where(alive, torch.minimum(shares, torch.ones_like(shares)), torch.zeros_like(shares))
    return (torch.where(alive, rows, torch.zeros_like(rows)) * shares).sum(0), norms[:, 0]


def norm_bounds(rows: Tensor, limit: Tensor) -> Tensor:
    """Upper bounds of the Euclidean norm of each record's gradient, (records, 1).

    Args:
        rows: Gradients, (records, numbers).
        limit: The largest allowed norm, shape (1,). Whether the unit tells (1 + FINE) × it from it says how it adds;
            it is an input, so nobody can answer before the program runs. Infinite, zero or no number says the worse.
    """
    share = limit * FINE
    fine = ((limit + share) - limit) > share * 0.5
    return torch.where(fine, tight_bounds(rows), wide_bounds(rows))


def tight_bounds(rows: Tensor) -> Tensor:
    """Bounds that hold in float32, (records, 1): at most SLACK and FLOOR over the norm."""
    level = rows * rows
    while level.shape[1] > 1:
        level = _folded(level).sum(2)
    bound: Tensor = torch.sqrt(level) * (1 + SLACK) + FLOOR
    return bound


def wide_bounds(rows: Tensor) -> Tensor:
    """Bounds that hold in float16, (records, 1): about 8 per cent over the norm; infinite where float16 overflows."""
    peak = rows.abs().amax(1, keepdim=True) + SMALLEST  # (records, 1)
    level, held, added = (rows / peak * SPREAD) ** 2, 1, 0.0
    while level.shape[1] > 1:
        added += level.shape[1] * held * FLUSHED  # Each number of this level may have been flushed to zero.
        level = _folded(level).mean(2)
        held *= FOLD
    levels = round(math.log(held, FOLD))
    gained = (1 - FOLD * LOST) ** -levels * (1 - 9 * LOST) ** -1  # 9: roundings before and after.
    bound: Tensor = peak * torch.sqrt(level * (held / SPREAD**2) * gained + added + held * FLUSHED) * RESERVE
    return bound


def _folded(level: Tensor) -> Tensor:
    """Numbers in rows of FOLD, the last filled up with zeros: (records, n) in, (records, rows, FOLD) out."""
    missing = -level.shape[1] % FOLD
    if missing:
        level = torch.cat((level, torch.zeros_like(level[:, :1]).expand(-1, missing)), 1)
    return level.reshape(len(level), -1, FOLD)
