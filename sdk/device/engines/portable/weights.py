"""A checkpoint's matrices in, the same numbers out as onnxruntime's operators hold them: nothing is rounded again.

A packed matrix keeps its codes, scales and zeros (operator MatMulNBits, blocks of sdk.packed.BLOCK inputs), a plain one
stays float32. Maps of the same input stand side by side as one matrix, so that one operator does the work of several.
"""

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sdk.device.engines.rows import array
from sdk.packed import BLOCK, Packed

__all__ = ["Matrix", "beside"]

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """One linear map as an operator's constants."""

    bits: int
    """4 or 8: codes, scales and at 4 bits zeros; 32: weights of shape (in, out)."""
    inputs: int
    outputs: int
    constants: tuple[Array, ...]
    """What the operator takes beside its input, in its order."""


def beside(maps: Sequence[Packed | Tensor], *, plain_bytes: bool = False) -> Matrix:
    """Maps of the same input as one matrix, their outputs one after another.

    Args:
        maps: Each of shape (out, in).
        plain_bytes: Unpack matrices of 8 bits: onnxruntime multiplies those by float32 only in a slow way.
    """
    packed = [each for each in maps if isinstance(each, Packed)]
    bits = {4 if each.zeros is not None else 8 for each in packed}
    if len(packed) < len(maps) or len(bits) > 1 or (plain_bytes and bits == {8}):
        plain = _joined([array(each) for each in maps], np.float32, axis=1, turned=True)  # (in, out)
        return Matrix(bits=32, inputs=len(plain), outputs=plain.shape[1], constants=(plain,))
    codes = _joined([each.codes.numpy() for each in packed], packed[0].codes.numpy().dtype)
    scales = _joined([each.scales.numpy() for each in packed], np.float32)  # (out, blocks)
    rows, blocks = scales.shape
    constants: tuple[Array, ...]
    if bits == {8}:  # The operator's own zero of bytes is 128.
        constants = ((codes.view(np.uint8) ^ 128).reshape(rows, blocks, BLOCK), scales)
    else:
        zeros = _joined([each.zeros.numpy() for each in packed if each.zeros is not None], np.uint8)
        constants = (codes.reshape(rows, blocks, -1), scales, zeros)
    return Matrix(bits=bits.pop(), inputs=blocks * BLOCK, outputs=rows, constants=constants)


def _joined(parts: Sequence[Array], kind: Any, *, axis: int = 0, turned: bool = False) -> Array:
    """Arrays one after another, each turned first if asked, in memory that goes back to the system when they go.

    The session copies what it is given; freed memory of this size would otherwise stay with the process.
    """
    laid = [part.T for part in parts] if turned else list(parts)
    shape = list(laid[0].shape)
    shape[axis] = sum(part.shape[axis] for part in laid)
    memory = mmap.mmap(-1, math.prod(shape) * np.dtype(kind).itemsize)
    whole: Array = np.frombuffer(memory, kind).reshape(shape)
    return np.concatenate(laid, axis, out=whole, casting="same_kind")
