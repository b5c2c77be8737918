"""How far numbers moved in, a few streams of like bytes out, each of which packs well; and the numbers back.

A chunk of a part is stored in one of these ways. What it needs is taken from streams that all parts of a file share:

    ""       every number, as planes of bytes: `main`. For changes of any size.
    "2" "4"  every number in so many bits: `small`. The largest of them says that the rest of the number follows in
             `low` (its lowest byte) and `high` (the others). For changes of a step or two.
    "blocks" the numbers in blocks of 32. `main` says how many bytes of `gaps` follow, `gaps` how many blocks that did
             not change lie before each that did (255: so many, and go on), `marks` which of its numbers changed, one
             bit each, `low` and `high` by how much. For changes here and there.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sdk.differences import WIDTHS, Bytes, Steps, changed_back, changes, count, moved, moves
from sdk.errors import PatchError

__all__ = ["CODINGS", "STREAMS", "Take", "restored", "stored"]

STREAMS = ("main", "gaps", "marks", "small", "low", "high")
CODINGS = ("", "2", "4", "blocks")
BLOCK = 32  # Numbers; 4-bit codes share a scale in blocks of 32, and where one of them changes, others do.
FAR = 255  # A gap of so many blocks, and the next byte goes on.
COUNT_BYTES = 4

Take = Callable[[str, int], bytes]
"""Given a stream and a number of bytes: the next of them."""


def stored(old: Bytes, new: Bytes, how: str, coding: str) -> dict[str, bytes]:
    """What to store of a chunk, by stream; arguments as `sdk.differences.moves`, and a key of CODINGS."""
    if not coding:
        return {"main": changes(old, new, how)}
    steps = moves(old, new, how)
    if coding == "blocks":
        return _in_blocks(steps)
    most = (1 << int(coding)) - 1
    small = np.minimum(steps, most).astype(np.uint8)
    each = 8 // int(coding)
    rows = np.pad(small, (0, -len(small) % each)).reshape(-1, each)
    packed = np.bitwise_or.reduce(rows << (np.arange(each, dtype=np.uint8) * int(coding)), 1).astype(np.uint8)
    return {"small": packed.tobytes(), **_rest(steps[steps >= most] - steps.dtype.type(most))}


def restored(old: Bytes, how: str, coding: str, take: Take) -> bytes:
    """The new run of a chunk: undo `stored`.

    Raises:
        PatchError: What was stored reaches outside the chunk.
    """
    if not coding:
        return changed_back(old, take("main", len(old)), how)
    if coding == "blocks":
        return _with_blocks(old, how, take)
    numbers, kind = count(len(old), how), WIDTHS[how]
    packed = np.frombuffer(take("small", -(-numbers * int(coding) // 8)), np.uint8)
    steps = SPREAD[coding].take(packed).view(np.uint8)[:numbers].astype(kind)
    more = np.flatnonzero(steps == (1 << int(coding)) - 1)
    steps[more] += _taken(len(more), kind, take)
    return moved(old, steps, how)


def _in_blocks(steps: Steps) -> dict[str, bytes]:
    changed = np.pad(steps != 0, (0, -len(steps) % BLOCK)).reshape(-1, BLOCK)
    blocks = np.flatnonzero(changed.any(1))
    far, near = np.divmod(np.diff(blocks, prepend=-1) - 1, FAR)
    gaps = np.full(int(far.sum()) + len(far), FAR, np.uint8)
    gaps[np.cumsum(far + 1) - 1] = near
    return {
        "main": len(gaps).to_bytes(COUNT_BYTES, "little"),
        "gaps": gaps.tobytes(),
        "marks": np.packbits(changed[blocks], bitorder="little").tobytes(),
        **_rest(steps[steps != 0]),
    }


def _with_blocks(old: Bytes, how: str, take: Take) -> bytes:
    each = BLOCK * int(how) // 8  # Bytes of a block.
    rows = np.concatenate([old, np.zeros(-len(old) % each, np.uint8)]).reshape(-1, each)
    size = int.from_bytes(take("main", COUNT_BYTES), "little")
    if size > len(rows):  # Also bounds what is read next.
        raise PatchError("the patch names more blocks than its file has; get the files whole")
    gaps = np.frombuffer(take("gaps", size), np.uint8)
    ends = gaps != FAR
    blocks = np.cumsum(gaps + ends.astype(np.int64))[ends] - 1
    if len(blocks) and blocks[-1] >= len(rows):
        raise PatchError("the patch changes numbers beyond the end of its file; get the files whole")
    marks = np.frombuffer(take("marks", len(blocks) * BLOCK // 8), np.uint8)
    at = np.flatnonzero(np.unpackbits(marks, bitorder="little").view(np.bool_))
    steps = np.zeros(len(blocks) * BLOCK, WIDTHS[how])
    steps[at] = _taken(len(at), WIDTHS[how], take)
    rows[blocks] = np.frombuffer(moved(rows[blocks].ravel(), steps, how), np.uint8).reshape(-1, each)
    return bytes(rows.ravel()[: len(old)].tobytes())


def _rest(numbers: Steps) -> dict[str, bytes]:
    planes = numbers.view(np.uint8).reshape(len(numbers), numbers.itemsize).T
    return {"low": planes[0].tobytes(), "high": np.ascontiguousarray(planes[1:]).tobytes()}


def _taken(size: int, kind: np.dtype[np.generic], take: Take) -> Steps:
    """Undo `_rest`."""
    numbers = np.empty(size, kind)
    planes = numbers.view(np.uint8).reshape(size, kind.itemsize)
    planes[:, 0] = np.frombuffer(take("low", size), np.uint8)
    for plane in range(1, kind.itemsize):
        planes[:, plane] = np.frombuffer(take("high", size), np.uint8)
    return numbers


def _spread(bits: int) -> NDArray[np.unsignedinteger]:
    """All values of a byte to the numbers that stand in it, one a byte, seen as one number: shape (256,)."""
    each = 8 // bits
    values = np.arange(256)[:, None] >> (np.arange(each) * bits) & ((1 << bits) - 1)  # (256, numbers)
    return values.astype(np.uint8).view(f"u{each}")[:, 0]


SPREAD = {coding: _spread(int(coding)) for coding in ("2", "4")}
