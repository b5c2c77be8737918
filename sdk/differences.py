"""Two runs of bytes in, how far each number moved out, as whole numbers from 0; and the new run from the old one.

A difference of two floats is that of their places in the order of all floats of that width, which is a bijection on
the bit patterns: every NaN and both zeros survive. Small changes are then small numbers: 0, −1, 1, −2 … are 0, 1, 2, 3.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["WIDTHS", "Bytes", "Steps", "changed_back", "changes", "count", "moved", "moves"]

WIDTHS: dict[str, np.dtype[Any]] = {
    "4": np.dtype("u1"),
    "8": np.dtype("u1"),
    "16": np.dtype("<u2"),
    "32": np.dtype("<u4"),
}
"""Number types of a difference, by bits."""

Bytes = NDArray[np.uint8]
Steps = NDArray[Any]
"""How far numbers moved, of a type of WIDTHS; two for each byte where the width is 4, the low half first."""


def count(size: int, how: str) -> int:
    """Numbers in a run of `size` bytes."""
    return size * 8 // int(how)


def moves(old: Bytes, new: Bytes, how: str) -> Steps:
    """How far each number moved.

    Args:
        old: Bytes of the old run, shape (bytes,).
        new: Bytes of the new run, the same shape, a multiple of the width.
        how: Width in bits, a key of WIDTHS.
    """
    if how in ("4", "8"):
        was, now = (_halves(old), _halves(new)) if how == "4" else (old, new)
        step = (now - was) & 0x0F if how == "4" else now - was
        return _folded(step, int(how))
    kind = WIDTHS[how]
    return _folded(_ordered(new.view(kind)) - _ordered(old.view(kind)), int(how))


def moved(old: Bytes, steps: Steps, how: str) -> bytes:
    """The new run: undo `moves`. `steps` is written over."""
    step = _unfolded(steps)
    if how == "4":
        low, high = step[::2], step[1::2] << 4
        return (((old + low) & 0x0F) | ((old & 0xF0) + high & 0xF0)).tobytes()
    if how == "8":
        return (old + step).tobytes()
    step += _ordered(old.view(WIDTHS[how]))
    return _unordered(step).tobytes()


def changes(old: Bytes, new: Bytes, how: str) -> bytes:
    """What to store of a dense change: differences as planes of bytes, low bytes first; arguments as `moves`."""
    if how == "4":
        return (((new - old) & 0x0F) | (((new & 0xF0) - (old & 0xF0)) & 0xF0)).tobytes()
    if how == "8":
        return (new - old).tobytes()
    width = WIDTHS[how].itemsize
    return np.ascontiguousarray(moves(old, new, how).view(np.uint8).reshape(-1, width).T).tobytes()


def changed_back(old: Bytes, stored: bytes, how: str) -> bytes:
    """The new run: undo `changes`."""
    plane = np.frombuffer(stored, np.uint8)
    if how == "8":
        return (old + plane).tobytes()
    if how == "4":
        return (((old + plane) & 0x0F) | (((old & 0xF0) + (plane & 0xF0)) & 0xF0)).tobytes()
    kind = WIDTHS[how]
    planes, steps = plane.reshape(kind.itemsize, -1), np.empty(len(plane) // kind.itemsize, kind)
    for at, each in enumerate(planes):
        steps.view(np.uint8)[at :: kind.itemsize] = each
    return moved(old, steps, how)


def _halves(run: Bytes) -> Bytes:
    return np.stack([run & 0x0F, run >> 4], 1).ravel()


def _folded(step: Steps, bits: int) -> Steps:
    """Steps round a ring of 2^bits as whole numbers from 0, those of small size first."""
    back = step >> (bits - 1)  # 1 where the step goes down.
    if bits == 4:
        return ((step << 1) ^ (0 - back)) & np.uint8(0x0F)
    return (step << 1) ^ (0 - back)


def _unfolded(steps: Steps) -> Steps:
    """Undo `_folded`, in place; of 4 bits the upper half is left as it comes."""
    sign = steps & 1
    np.negative(sign, out=sign)
    steps >>= 1
    steps ^= sign
    return steps


def _ordered(bits: NDArray[Any]) -> NDArray[Any]:
    """Patterns of floats as their place in the order of all floats, the negative ones first."""
    turned: Steps = bits ^ _turn(bits)
    return turned


def _unordered(places: NDArray[Any]) -> NDArray[Any]:
    turned: Steps = places ^ _turn(~places)
    return turned


def _turn(bits: NDArray[Any]) -> NDArray[Any]:
    """What `_ordered` flips: every bit of a negative float, the sign alone of another one."""
    kind = bits.dtype
    signs = bits.view(kind.str.replace("u", "i")) >> (kind.itemsize * 8 - 1)
    signs = signs.view(kind)
    signs |= kind.type(1 << (kind.itemsize * 8 - 1))
    return signs
