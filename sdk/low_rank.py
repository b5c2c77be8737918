"""Old float16 rows and two factors of whole numbers in, what old + product comes to out; alike on every machine.

A merged adapter changes a matrix by a product of low rank. Sent as factors it is a small part of the matrix, and what
rounding left over is a few steps of one. The factors are 16-bit integers, so that their product is exact in float64 in
whatever order it is summed; one power of two scales it, one addition and one rounding follow, as IEEE 754 says them.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_RANK", "Factors"]

MAX_RANK = 64  # 64 products of two 16-bit integers stay far below 2⁵³.
MAX_SHIFT = 64  # Of the power of two; weights are far from 2⁻⁶⁴.

EXPONENT = np.uint16(0x7C00)  # All ones in an infinity and in a NaN of float16.

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Factors:
    """A change of a matrix, left · right · 2^-shift."""

    left: NDArray[np.int16]
    """Shape (rows, rank)."""
    right: NDArray[np.int16]
    """Shape (rank, columns)."""
    shift: int
    """Power of two, -MAX_SHIFT to MAX_SHIFT."""

    @staticmethod
    def size(rows: int, columns: int, rank: int) -> int:
        """Bytes of the stored factors."""
        return 2 * rank * (rows + columns)

    def to_bytes(self) -> bytes:
        """Low bytes of all numbers, then high bytes: the high ones of many are alike."""
        flat = np.concatenate([self.left.ravel(), self.right.ravel()]).astype("<i2")
        return np.ascontiguousarray(flat.view(np.uint8).reshape(-1, 2).T).tobytes()

    @classmethod
    def from_bytes(cls, content: bytes, rows: int, columns: int, rank: int, shift: int) -> "Factors":
        """Read what `to_bytes` wrote; `content` has `size` bytes."""
        flat = np.ascontiguousarray(np.frombuffer(content, np.uint8).reshape(2, -1).T).view("<i2")[:, 0]
        left, right = flat[: rows * rank], flat[rows * rank :]
        return cls(left=left.reshape(rows, rank), right=right.reshape(rank, columns), shift=shift)

    def after(self, old: Bytes, first: int) -> Bytes:
        """What some whole rows of float16 come to.

        Args:
            old: Their bytes, shape (bytes,).
            first: Number of the first of them.
        """
        bits = old.view("<u2").reshape(-1, self.right.shape[1])  # (rows here, columns)
        made = self.left[first : first + len(bits)].astype(np.float64) @ self._right
        made *= 2.0**-self.shift
        with np.errstate(all="ignore"):  # Infinities and NaN are kept below; a result past float16 is an infinity.
            made += bits.view("<f2")
            led = made.astype("<f2").view("<u2")
        strange = (bits & EXPONENT) == EXPONENT
        if strange.any():
            led[strange] = bits[strange]
        return led.view(np.uint8).ravel()

    @cached_property
    def _right(self) -> NDArray[np.float64]:
        return self.right.astype(np.float64)
