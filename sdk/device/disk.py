"""Names and bytes in, changes that survive a power cut out: the one door through which slots are changed.

A file is whole and synced before it is renamed to its name, and the folder is synced after. Tests put a disk here that
forgets what was not synced, or that fails at the n-th step.
"""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sdk.errors import SlotError

__all__ = ["Disk", "stated"]


def stated(path: Path, form: str, *, else_do: str) -> dict[str, Any] | None:
    """What a small file that `Disk.put` wrote says; None where there is none, or not even its folder.

    Args:
        path: The file, one JSON object with a `format`.
        form: The format that is read.
        else_do: What to do about a damaged one, for a person.

    Raises:
        SlotError: It is damaged or of another format; it was left as it is.
    """
    try:
        fields = dict(json.loads(path.read_bytes()))
        found = fields["format"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as cause:
        raise SlotError(f"{path} is damaged; {else_do}") from cause
    if found != form:
        raise SlotError(f"{path} has format {found!r:.40}; use the version that wrote it")
    return fields


class Disk:
    """The file system, with the few steps that an installer takes on it."""

    def folder(self, path: Path) -> None:
        """Make a folder and those above it; each new name is synced."""
        missing = [place for place in (path, *path.parents) if not place.exists()]
        for place in reversed(missing):
            self._mkdir(place)
            self.sync(place.parent)

    def write(self, path: Path, pieces: Iterable[bytes]) -> None:
        """Write a new file and sync its content; the caller syncs the folder."""
        handle = self._create(path)
        try:
            for piece in pieces:
                self._write(handle, piece)
            self._fsync(handle)
        finally:
            self._close(handle)

    def put(self, path: Path, content: bytes) -> None:
        """Replace a small file in one step that a crash cannot halve."""
        beside = path.with_name(f".{path.name}.new")
        if beside.exists():  # Left by a crash.
            self._unlink(beside)
        self.write(beside, [content])
        self.move(beside, path)

    def move(self, source: Path, target: Path) -> None:
        """Give a synced file or folder its name, in place of what has it; synced."""
        self._rename(source, target)
        self.sync(target.parent)
        if source.parent != target.parent:
            self.sync(source.parent)

    def point(self, link: Path, target: str) -> None:
        """Let a symbolic link point elsewhere, in one step."""
        beside = link.with_name(f".{link.name}.new")
        if beside.is_symlink():
            self._unlink(beside)
        self._symlink(target, beside)
        self.move(beside, link)

    def drop(self, path: Path) -> None:
        """Remove a name: a file or a link; synced."""
        self._unlink(path)
        self.sync(path.parent)

    def clear(self, path: Path) -> None:
        """Remove a folder and all in it, its name first, so that half of it is never taken for the whole."""
        self.sweep(path)
        if path.exists():
            self.move(path, _gone(path))
            self.sweep(path)

    def sweep(self, path: Path) -> None:
        """Remove what an interrupted `clear` of this folder left."""
        if _gone(path).exists():
            self._clear(_gone(path))

    def sync(self, folder: Path) -> None:
        """Make the names in a folder survive a power cut."""
        handle = os.open(folder, os.O_RDONLY)
        try:
            self._fsync_folder(handle, folder)
        finally:
            os.close(handle)

    def entrust(self, change: Callable[[], None], path: Path) -> None:
        """Let another module replace the file `path` in one synced step of its own."""
        change()

    def sync_file(self, handle: int) -> None:
        """Make the content of an open file survive a power cut, whoever wrote it."""
        self._fsync(handle)

    def sync_all(self, folder: Path) -> None:
        """Sync every folder below and including `folder`; files are synced when they are written."""
        for place, folders, _ in os.walk(folder, topdown=False):
            for name in folders:
                self.sync(Path(place) / name)
        self.sync(folder)

    def _clear(self, folder: Path) -> None:
        for place, folders, files in os.walk(folder, topdown=False):
            for name in files:
                self._unlink(Path(place) / name)
            for name in folders:
                self._remove_folder(Path(place) / name)
        self._remove_folder(folder)

    def _remove_folder(self, path: Path) -> None:
        if path.is_symlink():  # os.walk lists links to folders among the folders.
            self._unlink(path)
        else:
            self._rmdir(path)

    # What follows is what a test replaces.

    def _create(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def _write(self, handle: int, piece: bytes) -> None:
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(handle, rest) :]

    def _fsync(self, handle: int) -> None:
        os.fsync(handle)

    def _fsync_folder(self, handle: int, folder: Path) -> None:
        os.fsync(handle)

    def _close(self, handle: int) -> None:
        os.close(handle)

    def _mkdir(self, path: Path) -> None:
        path.mkdir(mode=0o700)

    def _rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def _symlink(self, target: str, link: Path) -> None:
        link.symlink_to(target)

    def _unlink(self, path: Path) -> None:
        path.unlink()

    def _rmdir(self, path: Path) -> None:
        path.rmdir()


def _gone(path: Path) -> Path:
    return path.with_name(f"{path.name}.gone")
