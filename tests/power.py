"""An installer's steps on the disk in; every disk that a power cut could have left out. And a disk that fails.

A power cut loses what was not synced: any bytes written to a file since its last sync, any name made, changed or
removed in a folder since that folder's last sync, in any order. A killed process loses nothing of that, so killing
says nothing about missing syncs; this does. After the crash simulators of SQLite's tests and ALICE (OSDI 2014).
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdk.device.disk import Disk

__all__ = ["FailingDisk", "RecordingDisk", "Step", "cuts", "photographed", "played", "written_out"]

Tree = dict[str, bytes | str | None]
"""Path to what stands there: a file's bytes, None for a folder, `-> target` for a link."""


@dataclass(frozen=True)
class Step:
    """One change, or one sync that makes changes last."""

    what: str
    path: str
    more: Any = None


@dataclass
class RecordingDisk(Disk):
    """A disk that does everything and writes it down."""

    root: Path
    steps: list[Step] = field(default_factory=list)
    handles: dict[int, str] = field(default_factory=dict)

    def name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def entrust(self, change: Callable[[], None], path: Path) -> None:
        change()
        self.steps.append(Step("replace", self.name(path), path.read_bytes()))

    def _create(self, path: Path) -> int:
        handle = super()._create(path)
        self.handles[handle] = self.name(path)
        self.steps.append(Step("create", self.name(path)))
        return handle

    def _write(self, handle: int, piece: bytes) -> None:
        super()._write(handle, piece)
        self.steps.append(Step("write", self.handles[handle], piece))

    def _fsync(self, handle: int) -> None:
        super()._fsync(handle)
        if handle in self.handles:
            self.steps.append(Step("sync file", self.handles[handle]))

    def _close(self, handle: int) -> None:
        super()._close(handle)
        del self.handles[handle]

    def _fsync_folder(self, handle: int, folder: Path) -> None:
        super()._fsync_folder(handle, folder)
        if folder.is_relative_to(self.root):
            self.steps.append(Step("sync folder", self.name(folder)))

    def _mkdir(self, path: Path) -> None:
        super()._mkdir(path)
        self.steps.append(Step("mkdir", self.name(path)))

    def _rename(self, source: Path, target: Path) -> None:
        super()._rename(source, target)
        self.steps.append(Step("rename", self.name(source), self.name(target)))

    def _symlink(self, target: str, link: Path) -> None:
        super()._symlink(target, link)
        self.steps.append(Step("symlink", self.name(link), target))

    def _unlink(self, path: Path) -> None:
        super()._unlink(path)
        self.steps.append(Step("unlink", self.name(path)))

    def _rmdir(self, path: Path) -> None:
        super()._rmdir(path)
        self.steps.append(Step("rmdir", self.name(path)))


class FailingDisk(Disk):
    """A disk on which the n-th change ends badly: with an error, or with the end of the process."""

    def __init__(self, at: int, end: Callable[[], None]) -> None:
        self.at, self.end, self.count = at, end, 0

    def _step(self) -> None:
        self.count += 1
        if self.count == self.at:
            self.end()

    def _create(self, path: Path) -> int:
        self._step()
        return super()._create(path)

    def _write(self, handle: int, piece: bytes) -> None:
        self._step()
        super()._write(handle, piece)

    def _fsync(self, handle: int) -> None:
        self._step()
        super()._fsync(handle)

    def _fsync_folder(self, handle: int, folder: Path) -> None:
        self._step()
        super()._fsync_folder(handle, folder)

    def _mkdir(self, path: Path) -> None:
        self._step()
        super()._mkdir(path)

    def _rename(self, source: Path, target: Path) -> None:
        self._step()
        super()._rename(source, target)

    def _symlink(self, target: str, link: Path) -> None:
        self._step()
        super()._symlink(target, link)

    def _unlink(self, path: Path) -> None:
        self._step()
        super()._unlink(path)

    def _rmdir(self, path: Path) -> None:
        self._step()
        super()._rmdir(path)


def raising(code: int) -> Callable[[], None]:
    """What a step does that ends with this error of the system."""

    def end() -> None:
        raise OSError(code, os.strerror(code))

    return end


FULL, BROKEN = raising(errno.ENOSPC), raising(errno.EIO)


def photographed(root: Path, *, without: tuple[str, ...] = ()) -> Tree:
    """All that stands below a folder."""
    tree: Tree = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if not name.startswith(without):
            tree[name] = f"-> {path.readlink()}" if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return tree


def written_out(tree: Tree, root: Path) -> None:
    """Put a tree on the disk in place of what is below a folder."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for name, content in sorted(tree.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir(exist_ok=True)
        elif isinstance(content, str):
            path.symlink_to(content.removeprefix("-> "))
        else:
            path.write_bytes(content)


def cuts(steps: list[Step]) -> Iterator[tuple[int, frozenset[int]]]:
    """Every moment of a power cut, and what it takes: nothing, any one change, or all that was not yet synced."""
    for moment in range(len(steps) + 1):
        loose = [at for at in range(moment) if _loose(steps, at, moment)]
        yield from dict.fromkeys([(moment, frozenset()), *((moment, frozenset([at])) for at in loose)])
        yield moment, frozenset(loose)


def _loose(steps: list[Step], at: int, moment: int) -> bool:
    """Whether the change at `at` is not yet sure to last at `moment`."""
    step, later = steps[at], steps[at + 1 : moment]
    if step.what == "write":
        return not any(one.what == "sync file" and one.path == step.path for one in later)
    if step.what in ("create", "mkdir", "unlink", "rmdir", "symlink", "rename"):
        folder = str(Path(step.more if step.what == "rename" else step.path).parent)
        if step.what == "create" and any(one.what == "sync file" and one.path == step.path for one in later):
            return False  # As ext4 does: to sync a new file makes its name last.
        return not any(one.what == "sync folder" and one.path == folder for one in later)
    return False


def played(before: Tree, steps: list[Step], lost: frozenset[int] = frozenset()) -> Tree:
    """The tree after some steps without the lost ones; a step that then has nothing to work on does nothing."""
    tree = dict(before)
    for at, step in enumerate(steps):
        if step.what == "write" and isinstance(tree.get(step.path), bytes):
            # The size lasts before the content: what was lost reads as zeros.
            tree[step.path] = tree[step.path] + (bytes(len(step.more)) if at in lost else step.more)  # type: ignore[operator]
        elif at in lost:
            continue
        elif step.what == "create":
            tree[step.path] = b""
        elif step.what == "replace":
            tree[step.path] = step.more
        elif step.what == "mkdir":
            tree[step.path] = None
        elif step.what == "symlink":
            tree[step.path] = f"-> {step.more}"
        elif step.what in ("unlink", "rmdir"):
            tree.pop(step.path, None)
        elif step.what == "rename" and step.path in tree:
            moved = {name: tree.pop(name) for name in [*tree] if (name + "/").startswith(step.path + "/")}
            for name in [name for name in tree if (name + "/").startswith(step.more + "/")]:
                del tree[name]
            tree |= {step.more + name.removeprefix(step.path): content for name, content in moved.items()}
    return tree
