"""An old and a new bundle in, a weights-aware patch out that rebuilds the new one from the old one, proved before use.

Rules: the patch is applied and every file compared before it stands under its name; the same two bundles give the same
bytes. What the parts of a patch mean is said in sdk/patch.py, which devices read patches with.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import zstandard

from sdk.bundle import Bundle
from sdk.codings import STREAMS
from sdk.errors import PatchError
from sdk.patch import (
    CHUNK_BYTES,
    MAX_PATCHED_BYTES,
    Entry,
    packed_index,
    rebuild,
    stream_window,
    window_log,
)
from sdk.release.runs import Twins, parts_of

__all__ = ["LEVEL", "DeltaReport", "make_delta"]

LEVEL = 19  # Made once, read by every device; 22 costs twice the time for under 1 % (docs/benchmarks.md).

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
    """Append the frames of one changed file to `body`, stored in the way that suits it."""
    old_record, new_record = before.manifest.files.get(path), after.manifest.files[path]
    if old_record is None or not old_record.bytes or not new_record.bytes:
        packed = _packed(({"main": piece} for piece in _read(after.folder / path)), body, level)
        return Entry(path=path, how="whole", packed=packed[:1])
    if not path.endswith(".safetensors") and max(old_record.bytes, new_record.bytes) <= MAX_PATCHED_BYTES:
        return Entry(
            path=path,
            how="patch",
            old=path,
            packed=(body.write(_against(before.folder / path, after.folder / path, level)),),
        )
    one, other = (np.memmap(bundle.folder / path, np.uint8, "r") for bundle in (before, after))
    twins = Twins(old=one, new=other)
    parts = parts_of(twins, tensors=path.endswith(".safetensors"))
    return Entry(path=path, how="parts", old=path, packed=_packed(twins.pieces(parts), body, level), parts=parts)


def _read(file: Path) -> Iterator[bytes]:
    with file.open("rb") as content:
        yield from iter(lambda: content.read(CHUNK_BYTES), b"")


def _packed(pieces: Iterable[dict[str, bytes]], body: BinaryIO, level: int) -> tuple[int, ...]:
    """Append a zstd frame for each stream that has any content; their sizes."""
    with ExitStack() as opened:
        files = {name: opened.enter_context(tempfile.TemporaryFile()) for name in STREAMS}
        with ExitStack() as written:
            frames: dict[str, Any] = {}
            for piece in pieces:
                for name in (name for name, content in piece.items() if content):
                    if name not in frames:
                        packer = _packer(name, level)
                        frames[name] = written.enter_context(packer.stream_writer(files[name], closefd=False))
                    frames[name].write(piece[name])
        sizes = []
        for file in files.values():
            sizes.append(file.tell())
            file.seek(0)
            shutil.copyfileobj(file, body)
    return tuple(sizes)


def _packer(name: str, level: int) -> zstandard.ZstdCompressor:
    """With a window that devices accept; the streams beside `main` with the small tables that suit theirs."""
    window = stream_window(name)
    size = 0 if name == "main" else 1 << window
    settings = zstandard.ZstdCompressionParameters.from_level(level, source_size=size, window_log=window)
    return zstandard.ZstdCompressor(compression_params=settings)


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
