"""An old bundle and a patch in, the files of the new bundle out, piece by piece: how a device rebuilds an update.

Rules:
    1. A patch names the manifest that it starts from and the one that it leads to; it is used for no other pair.
    2. Nothing is written here. A file's last piece comes only after its size and SHA-256 agreed with the new manifest.
    3. Memory is bounded whatever the patch says: the windows of zstd and a few chunks, never a whole tensor.
    4. No file grows past the size in the new manifest: what would be more is refused before it is unpacked.

Format `patch/3`: MAGIC, the length of the index (4 bytes, little-endian), the index (JSON in one zstd frame), then the
zstd frames of each entry. An entry says how one file of the new bundle comes about: `same`, as a file of the old one;
`whole`; `patch`, against a file of the old one as a zstd dictionary; `parts`, as a row of parts, each `same`, `whole`
or the arithmetic difference from old bytes, read as numbers of 4, 8, 16 or 32 bits (sdk.differences). How differences
are stored, chunk by chunk, is said for each part (sdk.codings); its streams are the frames of the entry.

A part `low-rank` is a float16 matrix that changed by a product of low rank (sdk.low_rank): the factors come first, then
the differences from what they lead to.

Formats `patch/2`, which has planes alone, in one frame an entry, and `patch/1`, which has no `low-rank` part either,
are read for ever. A patch that needs neither is written as `patch/1`, so that older devices read it too.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import zstandard

from sdk.bundle import Bundle, Manifest
from sdk.codings import CODINGS, STREAMS, Take, restored
from sdk.differences import WIDTHS
from sdk.errors import PatchError
from sdk.frames import CHUNK_BYTES, Frame, unpacked_whole
from sdk.low_rank import MAX_RANK, MAX_SHIFT, Factors

__all__ = [
    "CHUNK_BYTES",
    "FORMAT",
    "MAX_PATCHED_BYTES",
    "Entry",
    "Part",
    "packed_index",
    "rebuild",
    "stream_window",
    "window_log",
]

FORMAT, EARLIER, EARLIEST = "patch/3", "patch/2", "patch/1"
MAGICS = {name: f"limbeck-{name}\n".encode() for name in (EARLIEST, EARLIER, FORMAT)}
MAGIC = MAGICS[EARLIEST]

MAX_INDEX_BYTES = 8 * 1024 * 1024  # A few hundred tensors take some 50 KB; refused before it is unpacked.
WINDOW_LOG = 23  # 8 MiB: what zstd's strongest levels use by themselves. A frame that wants more is refused.
SIDE_WINDOW_LOG = 20  # 1 MiB, of a stream beside `main`: five of them are open at once, and little in them repeats.
MAX_PATCHED_BYTES = 16 * 1024 * 1024  # The largest file that `patch` may read or make: both are held in memory.
MAX_MATRIX_BYTES = 1 << 30  # A `low-rank` part; what is held of it are its factors, a fraction, and some rows.


@dataclass(frozen=True, kw_only=True)
class Part:
    """A run of bytes of a new file."""

    how: str
    """`same`, `whole`, `low-rank`, or the width of the numbers in bits: `4`, `8`, `16`, `32`."""
    bytes: int
    """Length in the new file, and for all but `whole` in the old one, > 0."""
    at: int = 0
    """Where the run begins in the old file; 0 for `whole`."""
    rank: int = 0
    """Of `low-rank`: columns of the left factor, 1 to 64."""
    columns: int = 0
    """Of `low-rank`: columns of the matrix."""
    shift: int = 0
    """Of `low-rank`: the product counts times 2^-shift."""
    coding: str = ""
    """How its differences are stored: a key of sdk.codings.CODINGS."""

    @property
    def width(self) -> str:
        """Width of its numbers, a key of sdk.differences.WIDTHS; of no meaning for `same` and `whole`."""
        return "16" if self.rank else self.how

    @property
    def chunk_bytes(self) -> int:
        """How much of the part is stored at a time: for `low-rank` whole rows."""
        row = 2 * self.columns
        return CHUNK_BYTES if not row else row * max(1, CHUNK_BYTES // row)

    @property
    def stored_bytes(self) -> int:
        """What stands before its differences."""
        return Factors.size(self.bytes // (2 * self.columns), self.columns, self.rank) if self.rank else 0


@dataclass(frozen=True, kw_only=True)
class Entry:
    """How one file of the new bundle comes about."""

    path: str
    """Its path in the new bundle."""
    how: str
    """`same`, `whole`, `patch` or `parts`."""
    old: str | None = None
    """Path in the old bundle of the file that it is made from; None for `whole`."""
    packed: tuple[int, ...] = ()
    """Bytes of its zstd frames, one after the other: none for `same`, one of each stream for `parts`, else one."""
    parts: tuple[Part, ...] = ()
    """For `parts`: runs that cover the new file in order."""


def rebuild(patch: Path, old: Bundle, manifest: Manifest) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Every file of the new bundle but the manifest, as (path, its pieces); take all pieces before the next file.

    Args:
        patch: The patch file.
        old: The bundle to start from.
        manifest: Of the new bundle, from a source that is trusted.

    Raises:
        PatchError: Not a patch, not for this pair, or damaged; also while pieces are taken, at the latest before the
            last one of a file. What was written of that file is worthless then.
    """
    try:
        with patch.open("rb") as file:
            entries = _read_index(file, old, manifest)
            at = file.tell()
            for entry in entries:
                yield entry.path, _checked(_pieces(file, at, entry, old, manifest), entry.path, manifest)
                at += sum(entry.packed)
    except OSError as cause:
        raise PatchError(
            f"{cause.filename or patch.name} cannot be read ({cause.strerror}); get the files whole"
        ) from cause


def packed_index(entries: list[Entry], *, old: Manifest, new: Manifest) -> bytes:
    """The head of a patch file: magic, length and index; deterministic."""
    newer = any(part.coding or part.rank for entry in entries for part in entry.parts)
    form = FORMAT if newer else EARLIEST
    files = []
    for entry in entries:
        packed = list(entry.packed) if form == FORMAT else sum(entry.packed)
        row: dict[str, Any] = {"path": entry.path, "how": entry.how, "old": entry.old, "packed": packed}
        if entry.parts:
            row["parts"] = [_row(part) for part in entry.parts]
        files.append(row)
    fields = {"format": form, "from": old.digest, "to": new.digest, "files": files}
    content = json.dumps(fields, separators=(",", ":")).encode()
    packed_content = zstandard.ZstdCompressor(level=19).compress(content)
    return MAGICS[form] + len(packed_content).to_bytes(4, "little") + packed_content


def _row(part: Part) -> list[Any]:
    row: list[Any] = [part.how, part.bytes, part.at]
    if part.coding or part.rank:
        row.append(part.coding)
    return row + ([part.rank, part.columns, part.shift] if part.rank else [])


def stream_window(name: str) -> int:
    """Base-2 logarithm of the largest window that a stream's frame may want."""
    return WINDOW_LOG if name == "main" else SIDE_WINDOW_LOG


def window_log(size: int) -> int:
    """Base-2 logarithm of a zstd window that spans `size` bytes."""
    return max(10, (max(1, size) - 1).bit_length())


def _read_index(file: BinaryIO, old: Bundle, manifest: Manifest) -> list[Entry]:
    begins = file.read(len(MAGIC))
    form = next((name for name, magic in MAGICS.items() if magic == begins), None)
    if form is None:
        raise PatchError(f"the patch is not of format {FORMAT}; update limbeck, or get the files whole")
    packed = int.from_bytes(file.read(4), "little")
    try:
        content = unpacked_whole(file.read(min(packed, MAX_INDEX_BYTES)), MAX_INDEX_BYTES, 1 << WINDOW_LOG)
        fields = json.loads(content)
        pair, wanted = (fields["from"], fields["to"]), (old.manifest.digest, manifest.digest)
        if fields["format"] != form or pair != wanted:
            raise PatchError(
                f"the patch leads from {pair[0]:.19}… to {pair[1]:.19}…, wanted is {wanted[0]:.19}… to "
                f"{wanted[1]:.19}…; get the files whole"
            )
        entries = [_entry(row, form) for row in fields["files"]]
    except (ValueError, KeyError, TypeError, RecursionError, zstandard.ZstdError) as cause:
        raise PatchError(f"the patch's index is damaged ({cause}); get the files whole") from cause
    if [entry.path for entry in entries] != sorted(manifest.files):
        raise PatchError("the patch does not make exactly the files of the new bundle; get the files whole")
    for entry in entries:
        _check_entry(entry, old.manifest, manifest)
    return entries


def _entry(row: Mapping[str, Any], form: str) -> Entry:
    packed = row["packed"] if form == FORMAT else [row["packed"]]
    parts = [each if form == FORMAT else [*each[:3], "", *each[3:]] for each in row.get("parts", ())]
    return Entry(
        path=str(row["path"]),
        how=str(row["how"]),
        old=None if row["old"] is None else str(row["old"]),
        packed=tuple(_whole(each) for each in packed),
        parts=tuple(_part(*each) for each in parts),
    )


def _part(how: Any, size: Any, at: Any, coding: Any = "", rank: Any = 0, columns: Any = 0, shift: Any = 0) -> Part:
    if type(shift) is not int:
        raise ValueError(f"{shift!r:.20} is no power")
    more = {"rank": _whole(rank), "columns": _whole(columns), "shift": shift}
    return Part(how=str(how), bytes=_whole(size), at=_whole(at), coding=str(coding), **more)


def _whole(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise ValueError(f"{number!r:.20} is no size")
    return number


def _check_entry(entry: Entry, old: Manifest, new: Manifest) -> None:
    """Refuse an entry that would read or make anything but what the two manifests have."""
    size = new.files[entry.path].bytes
    before = old.files[entry.old].bytes if entry.old is not None and entry.old in old.files else None
    fits = {
        "same": before == size,
        "whole": entry.old is None,
        "patch": before is not None and before <= MAX_PATCHED_BYTES and size <= MAX_PATCHED_BYTES,
        "parts": before is not None and sum(part.bytes for part in entry.parts) == size,
    }
    if not fits.get(entry.how) or any(not _part_fits(part, before or 0) for part in entry.parts):
        raise PatchError(f"the patch's entry of {entry.path} does not fit the two bundles; get the files whole")


def _part_fits(part: Part, before: int) -> bool:
    if part.how == "whole":
        return part.bytes > 0 and not part.rank and not part.coding
    inside = part.bytes > 0 and part.at + part.bytes <= before
    if part.how == "low-rank":
        return inside and part.coding in CODINGS and _is_matrix(part)
    if part.rank or part.columns:
        return False
    if part.how == "same":
        return inside and not part.coding
    whole_numbers = part.how in WIDTHS and part.bytes % WIDTHS[part.how].itemsize == 0
    return inside and whole_numbers and part.coding in CODINGS


def _is_matrix(part: Part) -> bool:
    """Whether a `low-rank` part is one of whole rows whose factors are smaller than itself: they are held in memory."""
    sane = 1 <= part.rank <= MAX_RANK and abs(part.shift) <= MAX_SHIFT and part.columns > 0
    return sane and part.bytes % (2 * part.columns) == 0 and part.stored_bytes < part.bytes <= MAX_MATRIX_BYTES


def _pieces(file: BinaryIO, at: int, entry: Entry, old: Bundle, manifest: Manifest) -> Iterator[bytes]:
    size, source = manifest.files[entry.path].bytes, old.folder / (entry.old or "")
    try:
        if entry.how == "same":
            with source.open("rb") as before:
                yield from _copied(before, 0, size)
        elif entry.how == "parts":
            with source.open("rb") as before:
                yield from _from_parts(_streams(file, at, entry), entry.parts, before)
        else:
            words, window = None, 1 << WINDOW_LOG
            if entry.how == "patch":
                words = zstandard.ZstdCompressionDict(source.read_bytes(), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
                window = 2 * MAX_PATCHED_BYTES
            frame = Frame(file, at, sum(entry.packed), window=window, words=words)
            yield from frame.take(size)
            frame.finish()
    except zstandard.ZstdError as cause:
        raise PatchError(f"the patch of {entry.path} cannot be unpacked ({cause}); get the files whole") from cause


def _streams(file: BinaryIO, at: int, entry: Entry) -> dict[str, Frame]:
    """Every stream of an entry; before patch/3 there is only the first one, and the others have no content."""
    streams = {}
    for name, packed in zip_longest(STREAMS, entry.packed[: len(STREAMS)], fillvalue=0):
        streams[str(name)] = Frame(file, at, packed, window=1 << stream_window(str(name)))
        at += packed
    return streams


def _from_parts(streams: Mapping[str, Frame], parts: tuple[Part, ...], before: BinaryIO) -> Iterator[bytes]:
    def take(name: str, size: int) -> bytes:
        return streams[name].read(size)

    for part in parts:
        if part.how == "same":
            yield from _copied(before, part.at, part.bytes)
        elif part.how == "whole":
            yield from streams["main"].take(part.bytes)
        else:
            factors = _factors(part, take) if part.rank else None
            for at in range(0, part.bytes, part.chunk_bytes):
                length = min(part.chunk_bytes, part.bytes - at)
                run = np.frombuffer(b"".join(_copied(before, part.at + at, length)), np.uint8)
                if factors:
                    run = factors.after(run, at // (2 * part.columns))
                yield restored(run, part.width, part.coding, take)
    for stream in streams.values():
        stream.finish()


def _factors(part: Part, take: Take) -> Factors:
    rows = part.bytes // (2 * part.columns)
    return Factors.from_bytes(take("main", part.stored_bytes), rows, part.columns, part.rank, part.shift)


def _copied(before: BinaryIO, at: int, size: int) -> Iterator[bytes]:
    before.seek(at)
    while size:
        piece = before.read(min(size, CHUNK_BYTES))
        if not piece:
            raise PatchError("a file of the active bundle is shorter than its manifest says; get the files whole")
        size -= len(piece)
        yield piece


def _checked(pieces: Iterator[bytes], path: str, manifest: Manifest) -> Iterator[bytes]:
    """The pieces, the last one held back until size and digest of all agreed with the manifest."""
    record, digest, size, held = manifest.files[path], hashlib.sha256(), 0, b""
    for piece in pieces:
        if held:
            yield held
        digest.update(piece)
        size += len(piece)
        held = piece
    if (size, digest.hexdigest()) != (record.bytes, record.sha256):
        raise PatchError(f"{path} came out of the patch with another content than was signed; get the files whole")
    if held:
        yield held
