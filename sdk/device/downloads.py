"""Signed digests in, files on the disk out: what a release needs is fetched once, gone on with, and swept later."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from sdk.device.disk import Disk
from sdk.device.repository import Repository
from sdk.patch import CHUNK_BYTES

__all__ = ["Downloads", "Progress", "pieces_of", "sha256_of"]

Progress = Callable[[str, int, int], None]
"""Told (what is done now, done, total)."""


class Downloads:
    """A folder of files by their SHA-256, with `.part` files that the next call goes on with."""

    def __init__(self, folder: Path, repository: Repository, disk: Disk, progress: Progress) -> None:
        """Make the folder; nothing is fetched yet."""
        self.folder, self._repository, self._progress = folder, repository, progress
        self.fetched_bytes = 0
        disk.folder(folder)

    def get(self, sha256: str) -> Path:
        """A file, fetched unless it is here.

        Raises:
            UpdateError: See Repository.file.
        """
        here, size = self.folder / sha256, self._repository.size(sha256)
        if not here.exists():
            part = self.folder / f"{sha256}.part"
            had = part.stat().st_size if part.exists() else 0
            here = self._repository.file(
                sha256, self.folder, progress=lambda done, total: self._progress(f"fetch {sha256[:8]}", done, total)
            )
            self.fetched_bytes += size - min(had, size)
        return here

    def get_all(self, wanted: Iterable[str]) -> None:
        """Fetch what is not here; errors as `get`."""
        for sha256 in wanted:
            self.get(sha256)

    def has(self, sha256: str) -> bool:
        """Whether a file is here, whole."""
        return (self.folder / sha256).exists()

    def missing_bytes(self, wanted: Iterable[str]) -> int:
        """Signed size of what is not here yet."""
        return sum(self._repository.size(sha256) for sha256 in wanted if not self.has(sha256))

    def sweep(self, wanted: Collection[str] = ()) -> None:
        """Remove all but the files that are wanted and what is begun of them."""
        for file in self.folder.iterdir():
            if file.name.removesuffix(".part") not in wanted:
                file.unlink()


def sha256_of(file: Path) -> str:
    """Digest of a file, 64 hex digits; empty where it cannot be read."""
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError:
        return ""


def pieces_of(file: Path) -> Iterator[bytes]:
    """The content of a file, piece by piece."""
    with file.open("rb") as content:
        yield from iter(lambda: content.read(CHUNK_BYTES), b"")
