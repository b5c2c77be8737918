"""An old bundle and a patch in, the files of the new bundle out, piece by piece: how a device rebuilds an update.

Rules:
    1. A patch names the manifest that it starts from and the one that it leads to; it is used for no other pair.
    2. Nothing is written here. A file's last piece comes only after its size and SHA-256 agreed with the new manifest.
    3. Memory is bounded whatever the patch says: one window of zstd and a few chunks, never a whole tensor.
    4. No file grows past the size in the new manifest: what would be more is refused before it is unpacked.

Format `patch/2`: MAGIC, the length of the index (4 bytes, little-endian), the index (JSON in one zstd frame), then one
zstd frame for each entry that has any. An entry says how one file of the new bundle comes about: `same`, as a file of
the old one; `whole`; `patch`, against a file of the old one as a zstd dictionary; `parts`, as a row of parts, each
`same`, `whole` or the arithmetic difference from old bytes, read as numbers of 4, 8, 16 or 32 bits.

A difference of two floats is that of their places in the order of all floats of that width, which is a bijection on
the bit patterns: every NaN and both zeros survive. Small changes are then small numbers, whose bytes are stored plane
by plane, low bytes first, chunk by chunk.

A part `low-rank` is a float16 matrix that changed by a product of low rank (sdk.low_rank): the factors come first, then
the differences from what they lead to. Format `patch/1` is the same without such parts; both are read, and a patch that
has none is written as `patch/1`, so that older devices read it too.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import zstandard
from numpy.typing import NDArray

from sdk.bundle import Bundle, Manifest
from sdk.errors import PatchError
from sdk.low_rank import MAX_RANK, MAX_SHIFT, Factors

__all__ = [
    "CHUNK_BYTES",
    "FORMAT",
    "MAX_PATCHED_BYTES",
    "Entry",
    "Part",
    "changed_back",
    "changes",
    "packed_index",
    "rebuild",
    "window_log",
]

FORMAT, EARLIER = "patch/2", "patch/1"
MAGICS = {name: f"limbeck-{name}\n".encode() for name in (EARLIER, FORMAT)}
MAGIC = MAGICS[EARLIER]

MAX_INDEX_BYTES = 8 * 1024 * 1024  # A few hundred tensors take some 50 KB; refused before it is unpacked.
CHUNK_BYTES = 256 * 1024  # Of the new file; two or three of them are in memory at once.
WINDOW_LOG = 23  # 8 MiB: what zstd's strongest levels use by themselves. A frame that wants more is refused.
MAX_PATCHED_BYTES = 16 * 1024 * 1024  # The largest file that `patch` may read or make: both are held in memory.
MAX_MATRIX_BYTES = 1 << 30  # A `low-rank` part; what is held of it are its factors, a fraction, and some rows.
WIDTHS: dict[str, np.dtype[Any]] = {
    "4": np.dtype("u1"),
    "8": np.dtype("u1"),
    "16": np.dtype("<u2"),
    "32": np.dtype("<u4"),
}
"""Number types of a difference, by bits."""

Bytes = NDArray[np.uint8]


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
    packed: int = 0
    """Bytes of its zstd frame; 0 for `same`."""
    parts: tuple[Part, ...] = ()
    """For `parts`: runs that cover the new file in order."""


def changes(old: Bytes, new: Bytes, how: str) -> bytes:
    """What to store of a chunk: the difference of two runs of numbers, as planes of bytes.

    Args:
        old: Bytes of the old run, shape (bytes,).
        new: Bytes of the new run, the same shape, a multiple of the width.
        how: Width in bits, a key of WIDTHS.
    """
    if how == "4":
        return (((new - old) & 0x0F) | (((new & 0xF0) - (old & 0xF0)) & 0xF0)).tobytes()
    if how == "8":
        return (new - old).tobytes()
    kind = WIDTHS[how]
    step = _ordered(new.view(kind)) - _ordered(old.view(kind))
    bits = step.dtype.itemsize * 8
    folded = (step << 1) ^ (0 - (step >> (bits - 1)))  # 0, −1, 1, −2 … become 0, 1, 2, 3 …
    return np.ascontiguousarray(folded.astype(kind).view(np.uint8).reshape(-1, bits // 8).T).tobytes()


def changed_back(old: Bytes, stored: bytes, how: str) -> bytes:
    """The new run: undo `changes`."""
    if how in ("4", "8"):
        step8 = np.frombuffer(stored, np.uint8)
        if how == "8":
            return (old + step8).tobytes()
        return (((old + step8) & 0x0F) | (((old & 0xF0) + (step8 & 0xF0)) & 0xF0)).tobytes()
    kind = WIDTHS[how]
    planes = np.frombuffer(stored, np.uint8).reshape(kind.itemsize, -1)
    folded = np.ascontiguousarray(planes.T).view(kind)[:, 0]
    step = (folded >> 1) ^ (0 - (folded & 1))
    return _unordered(_ordered(old.view(kind)) + step).astype(kind).tobytes()


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
            for entry in _read_index(file, old, manifest):
                yield entry.path, _checked(_pieces(file, entry, old, manifest), entry.path, manifest)
    except OSError as cause:
        raise PatchError(
            f"{cause.filename or patch.name} cannot be read ({cause.strerror}); get the files whole"
        ) from cause


def packed_index(entries: list[Entry], *, old: Manifest, new: Manifest) -> bytes:
    """The head of a patch file: magic, length and index; deterministic."""
    files = []
    for entry in entries:
        row: dict[str, Any] = {"path": entry.path, "how": entry.how, "old": entry.old, "packed": entry.packed}
        if entry.parts:
            row["parts"] = [
                [part.how, part.bytes, part.at, *((part.rank, part.columns, part.shift) if part.rank else ())]
                for part in entry.parts
            ]
        files.append(row)
    form = FORMAT if any(part.rank for entry in entries for part in entry.parts) else EARLIER
    fields = {"format": form, "from": old.digest, "to": new.digest, "files": files}
    content = json.dumps(fields, separators=(",", ":")).encode()
    packed = zstandard.ZstdCompressor(level=19).compress(content)
    return MAGICS[form] + len(packed).to_bytes(4, "little") + packed


def window_log(size: int) -> int:
    """Base-2 logarithm of a zstd window that spans `size` bytes."""
    return max(10, (max(1, size) - 1).bit_length())


def _ordered(bits: NDArray[Any]) -> NDArray[Any]:
    """Patterns of floats as their place in the order of all floats, the negative ones first."""
    top = bits.dtype.type(1 << (bits.dtype.itemsize * 8 - 1))
    return np.where(bits & top, ~bits, bits | top)


def _unordered(places: NDArray[Any]) -> NDArray[Any]:
    top = places.dtype.type(1 << (places.dtype.itemsize * 8 - 1))
    return np.where(places & top, places ^ top, ~places)


def _read_index(file: BinaryIO, old: Bundle, manifest: Manifest) -> list[Entry]:
    begins = file.read(len(MAGIC))
    form = next((name for name, magic in MAGICS.items() if magic == begins), None)
    if form is None:
        raise PatchError(f"the patch is not of format {FORMAT}; update limbeck, or get the files whole")
    packed = int.from_bytes(file.read(4), "little")
    try:
        content = _unpacked_whole(file.read(min(packed, MAX_INDEX_BYTES)), MAX_INDEX_BYTES)
        fields = json.loads(content)
        pair, wanted = (fields["from"], fields["to"]), (old.manifest.digest, manifest.digest)
        if fields["format"] != form or pair != wanted:
            raise PatchError(
                f"the patch leads from {pair[0]:.19}… to {pair[1]:.19}…, wanted is {wanted[0]:.19}… to "
                f"{wanted[1]:.19}…; get the files whole"
            )
        entries = [_entry(row) for row in fields["files"]]
    except (ValueError, KeyError, TypeError, RecursionError, zstandard.ZstdError) as cause:
        raise PatchError(f"the patch's index is damaged ({cause}); get the files whole") from cause
    if [entry.path for entry in entries] != sorted(manifest.files):
        raise PatchError("the patch does not make exactly the files of the new bundle; get the files whole")
    for entry in entries:
        _check_entry(entry, old.manifest, manifest)
    return entries


def _entry(row: Mapping[str, Any]) -> Entry:
    parts = tuple(_part(*each) for each in row.get("parts", ()))
    old = None if row["old"] is None else str(row["old"])
    return Entry(path=str(row["path"]), how=str(row["how"]), old=old, packed=_whole(row["packed"]), parts=parts)


def _part(how: Any, size: Any, at: Any, rank: Any = 0, columns: Any = 0, shift: Any = 0) -> Part:
    if type(shift) is not int:
        raise ValueError(f"{shift!r:.20} is no power")
    more = {"rank": _whole(rank), "columns": _whole(columns), "shift": shift}
    return Part(how=str(how), bytes=_whole(size), at=_whole(at), **more)


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
        return part.bytes > 0 and not part.rank
    inside = part.bytes > 0 and part.at + part.bytes <= before
    if part.how == "low-rank":
        return inside and _is_matrix(part)
    if part.rank or part.columns:
        return False
    return inside and (part.how == "same" or (part.how in WIDTHS and part.bytes % WIDTHS[part.how].itemsize == 0))


def _is_matrix(part: Part) -> bool:
    """Whether a `low-rank` part is one of whole rows whose factors are smaller than itself: they are held in memory."""
    sane = 1 <= part.rank <= MAX_RANK and abs(part.shift) <= MAX_SHIFT and part.columns > 0
    return sane and part.bytes % (2 * part.columns) == 0 and part.stored_bytes < part.bytes <= MAX_MATRIX_BYTES


def _pieces(file: BinaryIO, entry: Entry, old: Bundle, manifest: Manifest) -> Iterator[bytes]:
    size, source = manifest.files[entry.path].bytes, old.folder / (entry.old or "")
    try:
        if entry.how == "same":
            with source.open("rb") as before:
                yield from _copied(before, 0, size)
        elif entry.how == "patch":
            words = zstandard.ZstdCompressionDict(source.read_bytes(), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
            yield from _unpacked(file, entry.packed, size, 2 * MAX_PATCHED_BYTES, words).take(size)
        elif entry.how == "whole":
            yield from _unpacked(file, entry.packed, size, 1 << WINDOW_LOG).take(size)
        else:
            with source.open("rb") as before:
                made = size + sum(part.stored_bytes for part in entry.parts)
                yield from _from_parts(_unpacked(file, entry.packed, made, 1 << WINDOW_LOG), entry.parts, before)
    except zstandard.ZstdError as cause:
        raise PatchError(f"the patch of {entry.path} cannot be unpacked ({cause}); get the files whole") from cause


def _from_parts(stored: "_unpacked", parts: tuple[Part, ...], before: BinaryIO) -> Iterator[bytes]:
    for part in parts:
        if part.how == "same":
            yield from _copied(before, part.at, part.bytes)
        elif part.how == "whole":
            yield from stored.take(part.bytes, end=False)
        elif part.how == "low-rank":
            rows = part.bytes // (2 * part.columns)
            factors = Factors.from_bytes(stored.read(part.stored_bytes), rows, part.columns, part.rank, part.shift)
            for at in range(0, part.bytes, part.chunk_bytes):
                length = min(part.chunk_bytes, part.bytes - at)
                run = np.frombuffer(b"".join(_copied(before, part.at + at, length)), np.uint8)
                led = factors.after(run, at // (2 * part.columns))
                yield changed_back(led, stored.read(length), "16")
        else:
            for at in range(0, part.bytes, CHUNK_BYTES):
                length = min(CHUNK_BYTES, part.bytes - at)
                run = np.frombuffer(b"".join(_copied(before, part.at + at, length)), np.uint8)
                yield changed_back(run, stored.read(length), part.how)
    stored.finish()


def _copied(before: BinaryIO, at: int, size: int) -> Iterator[bytes]:
    before.seek(at)
    while size:
        piece = before.read(min(size, CHUNK_BYTES))
        if not piece:
            raise PatchError("a file of the active bundle is shorter than its manifest says; get the files whole")
        size -= len(piece)
        yield piece


class _unpacked:
    """The content of one zstd frame of the patch file, in the sizes that are asked for and no more."""

    def __init__(
        self,
        file: BinaryIO,
        packed: int,
        size: int,
        window: int,
        words: zstandard.ZstdCompressionDict | None = None,
    ) -> None:
        """Begin to read a frame of `packed` bytes where `file` stands; it makes at most `size` bytes."""
        self._frame = _Frame(file, packed)
        opened = zstandard.ZstdDecompressor(dict_data=words, max_window_size=window)
        self._stream = opened.stream_reader(cast(BinaryIO, self._frame), read_size=min(CHUNK_BYTES, max(1, packed)))
        self._left = size

    def read(self, size: int) -> bytes:
        """The next `size` bytes."""
        pieces: list[bytes] = []
        missing = size
        while missing:
            piece = self._stream.read(missing)
            if not piece:
                raise PatchError("the patch ends before its file does; get the files whole")
            pieces.append(piece)
            missing -= len(piece)
        self._left -= size
        return b"".join(pieces)

    def take(self, size: int, *, end: bool = True) -> Iterator[bytes]:
        """The next `size` bytes in pieces; with `end` the frame must end there."""
        for at in range(0, size, CHUNK_BYTES):
            yield self.read(min(CHUNK_BYTES, size - at))
        if end:
            self.finish()

    def finish(self) -> None:
        """Refuse a frame that holds more than the file needs: the start of a bomb, and never unpacked further."""
        if self._stream.read(1) or self._frame.left:
            raise PatchError("the patch holds more than its file needs; get the files whole")


class _Frame:
    """The next `left` bytes of a file, as a file."""

    def __init__(self, file: BinaryIO, left: int) -> None:
        self._file, self.left = file, left

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes."""
        piece = self._file.read(self.left if size < 0 else min(size, self.left))
        self.left -= len(piece)
        return piece


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


def _unpacked_whole(packed: bytes, limit: int) -> bytes:
    """A small frame at once, refused if it says or proves to be larger than `limit`."""
    if zstandard.frame_content_size(packed) not in range(limit + 1):
        raise PatchError(f"the patch's index is larger than {limit} bytes; get the files whole")
    return zstandard.ZstdDecompressor(max_window_size=1 << WINDOW_LOG).decompress(packed, max_output_size=limit)
