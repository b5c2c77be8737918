"""An old and a new bundle in, a weights-aware patch out that rebuilds the new one from the old one, proved before use.

Rules: the patch is applied and every file compared before it stands under its name; the same two bundles give the same
bytes. What the parts of a patch mean is said in sdk/patch.py, which devices read patches with.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import zstandard
from numpy.typing import NDArray

from sdk.bundle import Bundle
from sdk.errors import PatchError
from sdk.low_rank import Factors
from sdk.patch import (
    CHUNK_BYTES,
    MAX_PATCHED_BYTES,
    WINDOW_LOG,
    Entry,
    Part,
    changes,
    packed_index,
    rebuild,
    window_log,
)
from sdk.release.factored import factored

__all__ = ["LEVEL", "DeltaReport", "make_delta"]

LEVEL = 19  # Made once, read by every device; 22 costs twice the time for under 1 % (docs/benchmarks.md).
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
"""Ways to store the change of a tensor of each safetensors type; the smallest wins. U8 may hold two codes a byte."""
UNKNOWN = ("16", "8")  # Compiled weights are mostly float16 or bytes of codes.

Bytes = NDArray[np.uint8]
Progress = Callable[[str, int, int], None]
"""Told (what is done now, done, total), both in bytes of the new bundle."""


@dataclass(frozen=True, kw_only=True)
class DeltaReport:
    """What a patch is for and what it saves."""

    from_digest: str
    """Digest of the old bundle's manifest, `sha256:…`."""
    to_digest: str
    """Digest of the new bundle's manifest."""
    bytes: int
    """Size of the patch file."""
    changed_bytes: int
    """Size of the new bundle's files that the old one has not: what a device without the patch downloads."""
    bundle_bytes: int
    """Size of all files of the new bundle."""


def make_delta(
    old: Bundle,
    new: Bundle,
    file: Path,
    *,
    level: int = LEVEL,
    progress: Progress = lambda what, done, total: None,
) -> DeltaReport:
    """Write the patch from one bundle to another, applied and compared.

    Args:
        old: A bundle that devices have.
        new: The bundle that they shall have.
        file: The patch; replaced in one step, after the proof.
        level: Of zstd, 1 to 22.
        progress: Told how far it is.

    Raises:
        BundleError: One of the bundles is damaged; nothing was written.
        PatchError: The disk, or the patch did not rebuild the new bundle; `file` is as it was.
    """
    before, after = (Bundle.open(bundle.folder, verify="digests") for bundle in (old, new))
    known = {record.sha256: path for path, record in before.manifest.files.items()}
    total, done = sum(record.bytes for record in after.manifest.files.values()), 0
    with _beside(file) as temporary, tempfile.TemporaryFile(dir=file.parent) as body:
        entries = []
        for path, record in sorted(after.manifest.files.items()):
            progress("compare", done, total)
            same = known.get(record.sha256)
            entries.append(
                Entry(path=path, how="same", old=same) if same else _entry(before, after, path, body, level=level)
            )
            done += record.bytes
        body.seek(0)
        with temporary.open("wb") as whole:
            whole.write(packed_index(entries, old=before.manifest, new=after.manifest))
            for piece in iter(lambda: body.read(CHUNK_BYTES), b""):
                whole.write(piece)
        _prove(temporary, before, after, progress, total)
        report = DeltaReport(
            from_digest=before.manifest.digest,
            to_digest=after.manifest.digest,
            bytes=temporary.stat().st_size,
            changed_bytes=sum(record.bytes for record in after.manifest.files.values() if record.sha256 not in known),
            bundle_bytes=total,
        )
    return report


def _entry(before: Bundle, after: Bundle, path: str, body: BinaryIO, *, level: int) -> Entry:
    """Append the frame of one changed file to `body`, stored in the way that suits it."""
    old_record, new_record = before.manifest.files.get(path), after.manifest.files[path]
    start = body.tell()
    if old_record is None or not old_record.bytes or not new_record.bytes:
        _pack(body, _read(after.folder / path), level)
        return Entry(path=path, how="whole", packed=body.tell() - start)
    if not path.endswith(".safetensors") and max(old_record.bytes, new_record.bytes) <= MAX_PATCHED_BYTES:
        body.write(_against(before.folder / path, after.folder / path, level))
        return Entry(path=path, how="patch", old=path, packed=body.tell() - start)
    one, other = (np.memmap(bundle.folder / path, np.uint8, "r") for bundle in (before, after))
    runs = _tensor_runs(one, other) if path.endswith(".safetensors") else _raw_runs(one, other)
    known: dict[int, Factors] = {}
    parts = tuple(_joined(_part(one, other, run, known) for run in runs))
    _pack(body, _stored(one, other, parts, known), level)
    return Entry(path=path, how="parts", old=path, packed=body.tell() - start, parts=parts)


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


def _part(old: Bytes, new: Bytes, run: Run, known: dict[int, Factors]) -> Part:
    """How to store one run: as it was, as a difference of some width or from a low rank, or whole; the smallest of a
    sample decides. Factors are left in `known` under the place where their run begins."""
    at, size = run.at, run.bytes
    if at is None:
        return Part(how="whole", bytes=size)
    was, now = old[at : at + size], new[run.begin : run.begin + size]
    if np.array_equal(was, now):
        return Part(how="same", bytes=size, at=at)
    tried = [Part(how="whole", bytes=size)]
    tried += [Part(how=how, bytes=size, at=at) for how in run.widths if size % max(1, int(how) // 8) == 0]
    if run.columns and (found := factored(_matrix(was, run.columns), _matrix(now, run.columns))):
        more = {"rank": found.left.shape[1], "columns": run.columns, "shift": found.shift}
        low = Part(how="low-rank", bytes=size, at=at, **more)
        if low.stored_bytes < size // 2:
            known[run.begin] = found
            tried.append(low)
    return min(tried, key=lambda part: _sampled(old, new, run.begin, part, known))


def _matrix(run: Bytes, columns: int) -> NDArray[np.float16]:
    return np.ascontiguousarray(run).view("<f2").reshape(-1, columns)


def _sampled(old: Bytes, new: Bytes, begin: int, part: Part, known: Mapping[int, Factors]) -> float:
    """About how many bytes a part takes: some of its chunks, packed quickly, for all of them; and its factors."""
    places = range(0, part.bytes, part.chunk_bytes)
    tried = [place for number, place in enumerate(places) if number % max(1, len(places) // SAMPLE_CHUNKS) == 0]
    sample = b"".join(_chunk(old, new, begin, part, place, known) for place in tried)
    packed = len(zstandard.ZstdCompressor(level=QUICK_LEVEL).compress(sample))
    return packed * part.bytes / len(sample) + part.stored_bytes


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


def _chunk(old: Bytes, new: Bytes, begin: int, part: Part, place: int, known: Mapping[int, Factors]) -> bytes:
    """What is stored for the chunk at `place` of a part that begins at `begin` in the new file."""
    size = min(part.chunk_bytes, part.bytes - place)
    run = np.ascontiguousarray(new[begin + place : begin + place + size])
    if part.how == "whole":
        return run.tobytes()
    was = np.ascontiguousarray(old[part.at + place : part.at + place + size])
    if part.how == "low-rank":
        return changes(known[begin].after(was, place // (2 * part.columns)), run, "16")
    return changes(was, run, part.how)


def _stored(old: Bytes, new: Bytes, parts: Iterable[Part], known: Mapping[int, Factors]) -> Iterator[bytes]:
    begin = 0
    for part in parts:
        if part.how == "low-rank":
            yield known[begin].to_bytes()
        if part.how != "same":
            for place in range(0, part.bytes, part.chunk_bytes):
                yield _chunk(old, new, begin, part, place, known)
        begin += part.bytes


def _read(file: Path) -> Iterator[bytes]:
    with file.open("rb") as content:
        yield from iter(lambda: content.read(CHUNK_BYTES), b"")


def _pack(body: BinaryIO, pieces: Iterable[bytes], level: int) -> None:
    """One zstd frame with a window that devices accept."""
    settings = zstandard.ZstdCompressionParameters.from_level(level, window_log=WINDOW_LOG)
    with zstandard.ZstdCompressor(compression_params=settings).stream_writer(body, closefd=False) as frame:
        for piece in pieces:
            frame.write(piece)


def _against(old: Path, new: Path, level: int) -> bytes:
    """One zstd frame of the new file with the old one as its dictionary."""
    words, content = old.read_bytes(), new.read_bytes()
    settings = zstandard.ZstdCompressionParameters.from_level(
        level, window_log=window_log(len(words) + len(content)), enable_ldm=True
    )
    dictionary = zstandard.ZstdCompressionDict(words, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return zstandard.ZstdCompressor(dict_data=dictionary, compression_params=settings).compress(content)


def _prove(patch: Path, before: Bundle, after: Bundle, progress: Progress, total: int) -> None:
    """Apply the patch and compare every byte with the new bundle itself, not with its digests."""
    done = 0
    for path, pieces in rebuild(patch, before, after.manifest):
        with (after.folder / path).open("rb") as wanted:
            for piece in pieces:
                if wanted.read(len(piece)) != piece:
                    raise PatchError(
                        f"the patch makes another {path}; nothing was written, report this with both bundles"
                    )
                done += len(piece)
                progress("prove", done, total)
            if wanted.read(1):
                raise PatchError(
                    f"the patch makes a shorter {path}; nothing was written, report this with both bundles"
                )


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A temporary file that takes the place of `out` when the block ends well."""
    try:
        handle, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(out)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as cause:
        raise PatchError(f"{out} cannot be written ({cause.strerror or cause}); nothing was left there") from cause
