"""Two versions of a float16 matrix in, the low-rank change between them as whole numbers out, where it is one."""

import math

import numpy as np
from numpy.typing import NDArray

from sdk.low_rank import MAX_RANK, MAX_SHIFT, Factors

__all__ = ["coarser", "factored"]

LEAST_DROP = 8.0  # Between two neighbouring singular values: a merged adapter's fall by hundreds to rounding's.
MAX_SIDE = 4_096  # The smaller side: its Gram matrix is decomposed, in seconds.
LARGEST = 32_767  # Of a 16-bit integer.


def factored(old: NDArray[np.float16], new: NDArray[np.float16]) -> Factors | None:
    """Factors of the change, or None where it is of no low rank, or too small to say.

    Args:
        old: Shape (rows, columns).
        new: The same shape.
    """
    if min(old.shape) > MAX_SIDE or min(old.shape) < 2 or not (np.isfinite(old).all() and np.isfinite(new).all()):
        return None
    step = new.astype(np.float64) - old
    wide = step.shape[0] <= step.shape[1]
    squares, sides = np.linalg.eigh(step @ step.T if wide else step.T @ step)
    sizes = np.sqrt(np.maximum(squares[::-1], 0.0))  # Singular values, largest first.
    most = min(MAX_RANK, len(sizes) - 1)
    drops = sizes[:most] / np.maximum(sizes[1 : most + 1], sizes[0] * 1e-9 + 1e-300)
    rank = int(drops.argmax()) + 1
    if sizes[0] == 0 or drops[rank - 1] < LEAST_DROP:
        return None
    kept = sides[:, ::-1][:, :rank]  # (smaller side, rank)
    root = np.sqrt(sizes[:rank])
    left, right = (kept * root, (kept / root).T @ step) if wide else (step @ (kept / root), (kept * root).T)
    up, down = _power(left), _power(right)
    if abs(up + down) > MAX_SHIFT:
        return None
    whole = (np.round(left * 2.0**up).astype(np.int16), np.round(right * 2.0**down).astype(np.int16))
    return Factors(left=whole[0], right=whole[1], shift=up + down)


def coarser(factors: Factors, bits: int) -> Factors:
    """The same change said with that many bits less for each factor."""
    left, right = (np.round(side / 2.0**bits).astype(np.int16) for side in (factors.left, factors.right))
    return Factors(left=left, right=right, shift=factors.shift - 2 * bits)


def _power(values: NDArray[np.float64]) -> int:
    """The largest power of two by which all of them are still 16-bit integers."""
    return math.floor(math.log2(LARGEST / np.abs(values).max()))
