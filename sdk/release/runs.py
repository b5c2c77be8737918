"""Two versions of a file of weights in, its runs and how to store each of them smallest out.

Every way that suits a run is tried on some of its chunks, packed quickly; the smallest is taken. So no way that is
added makes a patch larger by more than a sample errs.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import zstandard
from numpy.typing import NDArray

from sdk.codings import stored
from sdk.differences import Bytes
from sdk.errors import PatchError
from sdk.low_rank import Factors
from sdk.patch import Part
from sdk.release.factored import coarser, factored

__all__ = ["Twins", "parts_of"]

QUICK_LEVEL = 3  # Chooses between ways to store a run.
SAMPLE_CHUNKS = 8  # Chunks of a run that are tried, evenly spread.
RAW_RUN_BYTES = 4 * 1024 * 1024  # A large file of unknown inside, such as compiled weights, is cut into runs of this.
WIDTHS_OF = {
    "U8": ("4", "8"),
    "I8": ("8",),
    "BOOL": ("8",),
    "F16": ("16",),
    "BF16": ("16",),
    "I16": ("16",),
    "U16": ("16",),
    "F32": ("32",),
    "I32": ("32",),
    "U32": ("32",),
}
"""Widths of the numbers in a tensor of each safetensors type; the smallest wins. U8 may hold two codes a byte."""
UNKNOWN = ("16", "8")  # Compiled weights are mostly float16 or bytes of codes.
CODINGS_OF = {"4": ("", "2", "blocks"), "8": ("", "2", "4", "blocks")}
"""Ways to store the differences of a width; all of them where it is not named."""
EVERY = ("", "2", "4", "blocks")
SHORTER = (0, 4, 6)  # Bits of each factor that may be left out: what they say must only be finer than the rounding.


@dataclass(frozen=True, kw_only=True)
class Twins:
    """Two versions of a file."""

    old: Bytes
    """All bytes of the old one, shape (bytes,)."""
    new: Bytes
    """All bytes of the new one."""
    factors: dict[int, Factors] = field(default_factory=dict)
    """Of each `low-rank` part that was chosen, by where its run begins in the new file."""

    def chunk(self, begin: int, part: Part, place: int, factors: Factors | None) -> dict[str, bytes]:
        """What is stored, by stream, for the chunk at `place` of a part that begins at `begin` in the new file."""
        size = min(part.chunk_bytes, part.bytes - place)
        run = np.ascontiguousarray(self.new[begin + place : begin + place + size])
        if part.how == "whole":
            return {"main": run.tobytes()}
        was = np.ascontiguousarray(self.old[part.at + place : part.at + place + size])
        if factors:
            was = factors.after(was, place // (2 * part.columns))
        return stored(was, run, part.width, part.coding)

    def pieces(self, parts: Iterable[Part]) -> Iterator[dict[str, bytes]]:
        """All that is stored for parts that cover the file, by stream, in order."""
        begin = 0
        for part in parts:
            factors = self.factors.get(begin) if part.rank else None
            if factors:
                yield {"main": factors.to_bytes()}
            if part.how != "same":
                for place in range(0, part.bytes, part.chunk_bytes):
                    yield self.chunk(begin, part, place, factors)
            begin += part.bytes


@dataclass(frozen=True, kw_only=True)
class Run:
    """A stretch of a new file."""

    begin: int
    """Where it begins."""
    bytes: int
    """Its length."""
    at: int | None
    """Where its twin begins in the old file; None without one."""
    widths: tuple[str, ...]
    """Widths of numbers to try."""
    columns: int = 0
    """Of a float16 matrix; 0 for everything else."""


def parts_of(twins: Twins, *, tensors: bool) -> tuple[Part, ...]:
    """How to store the new version; factors are left in `twins`.

    Args:
        twins: The two versions.
        tensors: Whether they are safetensors files, else of unknown inside.

    Raises:
        PatchError: One of them is no safetensors file, or one with gaps.
    """
    runs = _tensor_runs(twins.old, twins.new) if tensors else _raw_runs(twins.old, twins.new)
    return tuple(_joined(_smallest(twins, run) for run in runs))


def _tensor_runs(old: Bytes, new: Bytes) -> Iterator[Run]:
    """The head and each tensor of a safetensors file, in the file's order, beside the old tensor of the same name."""
    old_tensors, old_head = _tensors(old)
    new_tensors, new_head = _tensors(new)
    yield Run(begin=0, bytes=new_head, at=0 if old_head == new_head else None, widths=("8",))
    end = new_head
    for name, (kind, shape, begin, size) in sorted(new_tensors.items(), key=lambda item: item[1][2]):
        if size == 0:
            continue
        if begin != end:
            raise PatchError(f"the new model.safetensors has a gap before {name}; build the bundle again")
        twin = old_tensors.get(name)
        at = twin[2] if twin and twin[:2] == (kind, shape) else None
        columns = shape[1] if kind == "F16" and len(shape) == 2 else 0
        yield Run(begin=begin, bytes=size, at=at, widths=WIDTHS_OF.get(kind, ("8",)), columns=columns)
        end = begin + size
    if end != len(new):
        raise PatchError("the new model.safetensors holds more than its tensors; build the bundle again")


def _tensors(file: Bytes) -> tuple[dict[str, tuple[str, tuple[int, ...], int, int]], int]:
    """Name to (type, shape, begin, bytes) of a safetensors file, and where its tensors begin."""
    try:
        head = 8 + int.from_bytes(file[:8].tobytes(), "little")
        fields = json.loads(file[8:head].tobytes())
        found = {}
        for name, row in fields.items():
            if name != "__metadata__":
                first, last = row["data_offsets"]
                found[name] = (row["dtype"], tuple(row["shape"]), head + first, last - first)
        return found, head
    except (ValueError, KeyError, TypeError) as cause:
        raise PatchError(f"a model.safetensors cannot be read ({cause}); build the bundle again") from cause


def _raw_runs(old: Bytes, new: Bytes) -> Iterator[Run]:
    """A file of unknown inside in runs of RAW_RUN_BYTES, beside the same places of the old file."""
    for begin in range(0, len(new), RAW_RUN_BYTES):
        size = min(RAW_RUN_BYTES, len(new) - begin)
        yield Run(begin=begin, bytes=size, at=begin if begin + size <= len(old) else None, widths=UNKNOWN)


def _smallest(twins: Twins, run: Run) -> Part:
    """The way to store a run that a sample of it says is the smallest."""
    if run.at is None:
        return Part(how="whole", bytes=run.bytes)
    was, now = (side[at : at + run.bytes] for side, at in ((twins.old, run.at), (twins.new, run.begin)))
    if np.array_equal(was, now):
        return Part(how="same", bytes=run.bytes, at=run.at)
    part, factors = min(_ways(run, was, now), key=lambda way: _sampled(twins, run.begin, *way))
    if factors:
        twins.factors[run.begin] = factors
    return part


def _ways(run: Run, was: Bytes, now: Bytes) -> Iterator[tuple[Part, Factors | None]]:
    assert run.at is not None
    yield Part(how="whole", bytes=run.bytes), None
    for how in run.widths:
        if run.bytes % max(1, int(how) // 8) == 0:
            for coding in CODINGS_OF.get(how, EVERY):
                yield Part(how=how, bytes=run.bytes, at=run.at, coding=coding), None
    found = factored(_matrix(was, run.columns), _matrix(now, run.columns)) if run.columns else None
    if found and 2 * Factors.size(len(found.left), run.columns, found.left.shape[1]) < run.bytes:
        for factors in (coarser(found, bits) for bits in SHORTER):
            more = {"rank": factors.left.shape[1], "columns": run.columns, "shift": factors.shift}
            for coding in EVERY:
                yield Part(how="low-rank", bytes=run.bytes, at=run.at, coding=coding, **more), factors


def _matrix(run: Bytes, columns: int) -> NDArray[np.float16]:
    return np.ascontiguousarray(run).view("<f2").reshape(-1, columns)


def _sampled(twins: Twins, begin: int, part: Part, factors: Factors | None) -> float:
    """About how many bytes a part takes: some of its chunks, packed quickly, for all of them; and its factors."""
    places = range(0, part.bytes, part.chunk_bytes)
    tried = [place for number, place in enumerate(places) if number % max(1, len(places) // SAMPLE_CHUNKS) == 0]
    streams: dict[str, list[bytes]] = {}
    for place in tried:
        for name, piece in twins.chunk(begin, part, place, factors).items():
            streams.setdefault(name, []).append(piece)
    share = sum(min(part.chunk_bytes, part.bytes - place) for place in tried) / part.bytes
    return sum(_quick(b"".join(pieces)) for pieces in streams.values()) / share + (
        _quick(factors.to_bytes()) if factors else 0
    )


def _quick(content: bytes) -> int:
    return len(zstandard.ZstdCompressor(level=QUICK_LEVEL).compress(content))


def _joined(parts: Iterable[Part]) -> Iterator[Part]:
    """Neighbours that stayed as they were become one part."""
    last: Part | None = None
    for part in parts:
        if last and last.how == part.how == "same" and last.at + last.bytes == part.at:
            last = Part(how="same", bytes=last.bytes + part.bytes, at=last.at)
            continue
        if last:
            yield last
        last = part
    if last:
        yield last
