"""Power cuts, killed processes, full and broken disks at every step of an install and of a rollback.

What holds after each: the active bundle is whole, it is the old one or the new one, the adapters belong to it, and the
next call ends at the new one. And the same checks see an installer that leaves out any of its syncs.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from personalize.errors import PersonalizeError
from personalize.home import Home
from sdk.bundle import Bundle
from sdk.device.disk import Disk
from sdk.device.install import Updates
from sdk.device.slots import Slots
from sdk.errors import SdkError
from tests.forked import KILLED, kill_myself, needs_fork, run_forked
from tests.power import BROKEN, FULL, FailingDisk, RecordingDisk, Tree, cuts, photographed, played, written_out
from tests.served import Served, device, numbers_bundle, served

STRIDE = 1 if os.environ.get("LIMBECK_EVERY_STEP") else 6  # Of the failure sweeps; every step takes minutes.
ASIDE = (
    "tuf/",
    "downloads/",
    "slots/update.lock",
    "slots/readers/",
)  # Caches and locks: truth is never read from them.


class World:
    """A home on version 1 in slot a, a server that offers version 2, and the factory's version 0."""

    def __init__(self, folder: Path, repository: Served) -> None:
        self.folder, self.repository = folder, repository
        bundles = [numbers_bundle(folder / name, version=name, size=500, moved=int(name)) for name in "012"]
        self.factory = bundles[0]
        self.home = folder / "home"
        repository.add(bundles[1])
        repository.publish()
        self.updates().install()
        adapter = self.home / "adapters" / "mine-1"
        adapter.mkdir()
        (adapter / "adapter.json").write_text("{}")
        Home.open(self.home).update_state(lines={"default": ["mine-1"]}, slot="a")
        repository.add(bundles[2])
        repository.publish()
        self.updates().check()
        self.before = photographed(self.home, without=ASIDE)

    def updates(self, disk: Disk | None = None) -> Updates:
        self.disk = disk or Disk()
        return device(self.home, self.repository, self.factory, disk=self.disk, asked=self.examined)

    def examined(self, task: str, old: Bundle | None, new: Bundle, **limits: object) -> dict[str, object]:
        """A healthy model; the adapter is carried over as another one, whose copy stands in the slot."""
        if task == "examine":
            return {"loss_ratio_ppm": 1_000_000, "agreement_per10k": 10_000, "items": 1, "places": 1}
        slot = limits["slot"]
        assert isinstance(slot, Path)
        if not (slot / "adapters" / "mine-2").exists():
            self.disk.folder(slot / "adapters" / "mine-2")
            self.disk.write(slot / "adapters" / "mine-2" / "adapter.json", [b"{}"])
            self.disk.sync_all(slot / "adapters")
        return {"before": {"default": ["mine-1"]}, "lines": {"default": ["mine-1", "mine-2"]}, "adapters": {}}

    def restore(self, tree: Tree) -> None:
        """Put the home back to a tree; what is aside stays."""
        kept = photographed(self.home)
        written_out({**{name: what for name, what in kept.items() if name.startswith(ASIDE)}, **tree}, self.home)

    def version(self, home: Path | None = None) -> str:
        """Version of the active bundle, every byte of it read; the adapter that answers belongs to it."""
        slots = Slots(Home.open(home or self.home))
        with slots.alone():
            slots.settle()
        bundle = slots.bundle(slots.current, verify="digests") if slots.current != "shipped" else self.factory
        assert bundle is not None, "the active slot holds no whole bundle"
        version = bundle.manifest.version
        answers = slots.lines()["default"][-1]
        assert answers == f"mine-{version}", f"{answers} answers on version {version}"
        assert (slots.home.adapters / f"mine-{version}").is_dir()
        return version


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with served(Served(tmp_path / "repository")) as repository:
        yield World(tmp_path, repository)


def record(world: World, work: Callable[[Updates], object], kind: type[RecordingDisk] = RecordingDisk) -> RecordingDisk:
    """Let the work run to its end, and check that the record misses nothing of what it did."""
    world.restore(world.before)
    disk = kind(world.home)
    work(world.updates(disk))
    after = {name: what for name, what in photographed(world.home, without=ASIDE).items() if what is not None}
    told = {name: what for name, what in played(world.before, disk.steps).items() if what is not None}
    assert told.keys() == after.keys()
    return disk


def broken(world: World, disk: RecordingDisk, allowed: set[str], *, enough: int | None = None) -> tuple[int, list[str]]:
    """Number of different disks that a power cut can leave, and those on which something else is active."""
    seen, wrong = set[str](), []
    for moment, lost in reversed(list(cuts(disk.steps))):  # What goes wrong, goes wrong near the end.
        tree = played(world.before, disk.steps[:moment], lost)
        mark = repr(sorted(tree.items()))
        if mark in seen:
            continue
        seen.add(mark)
        written_out(tree, world.folder / "after")
        try:
            version = world.version(world.folder / "after")
            assert version in allowed, f"version {version} is active"
        except (AssertionError, SdkError, PersonalizeError, OSError, ValueError, KeyError) as cause:
            wrong.append(f"after {disk.steps[moment - 1]} without {[disk.steps[at] for at in lost]}: {cause}"[:300])
            if enough and len(wrong) >= enough:
                break
    return len(seen), wrong


def test_no_power_cut_during_an_install_leaves_neither_bundle(world: World) -> None:
    disk = record(world, lambda updates: updates.install())
    states, wrong = broken(world, disk, {"1", "2"})
    assert wrong == []
    assert states > 40, "too few disks to say anything"


def test_no_power_cut_during_a_rollback_leaves_neither_bundle(world: World) -> None:
    world.restore(world.before)
    world.updates().install()
    world.before = photographed(world.home, without=ASIDE)
    disk = record(world, lambda updates: updates.rollback())
    states, wrong = broken(world, disk, {"1", "2"})
    assert wrong == []
    assert states > 10


class NoFileSync(RecordingDisk):
    """A mutant: files are renamed to their names unsynced."""

    def _fsync(self, handle: int) -> None:
        pass


class NoFolderSync(RecordingDisk):
    """A mutant: names are not synced."""

    def _fsync_folder(self, handle: int, folder: Path) -> None:
        pass


class InPlace(RecordingDisk):
    """A mutant: files are written under their names, not beside them."""

    def put(self, path: Path, content: bytes) -> None:
        if path.exists():
            self._unlink(path)
        self.write(path, [content])
        self.sync(path.parent)

    def point(self, link: Path, target: str) -> None:
        if link.is_symlink():
            self.drop(link)
        self._symlink(target, link)
        self.sync(link.parent)


@pytest.mark.parametrize("mutant", [NoFileSync, NoFolderSync, InPlace])
def test_an_installer_that_leaves_out_a_sync_is_caught(world: World, mutant: type[RecordingDisk]) -> None:
    disk = record(world, lambda updates: updates.install(), mutant)
    _, wrong = broken(world, disk, {"1", "2"}, enough=1)
    assert wrong, f"{mutant.__name__} went through: the check proves nothing"


def steps_of_an_install(world: World) -> int:
    world.restore(world.before)
    disk = FailingDisk(0, lambda: None)
    world.updates(disk).install()
    return disk.count


@pytest.mark.parametrize(("name", "end", "offset"), [("full", FULL, 1), ("broken", BROKEN, 3)])
def test_a_disk_that_fails_at_any_step_leaves_the_old_or_the_new_bundle_and_a_retry_succeeds(
    world: World, name: str, end: Callable[[], None], offset: int
) -> None:
    """Every sixth step here, steps between with the other failures; LIMBECK_EVERY_STEP takes all."""
    for at in range(offset, steps_of_an_install(world) + 1, STRIDE):
        world.restore(world.before)
        with suppress(SdkError, PersonalizeError):
            world.updates(FailingDisk(at, end)).install()
        assert world.version() in {"1", "2"}, f"after failure at step {at}"
        world.updates().install()
        assert world.version() == "2", f"after failure at step {at}"


@needs_fork
def test_a_kill_at_any_step_leaves_the_old_or_the_new_bundle_and_a_retry_succeeds(world: World) -> None:
    for at in range(5, steps_of_an_install(world) + 1, STRIDE):
        world.restore(world.before)
        assert run_forked(world.updates(FailingDisk(at, kill_myself)).install) == KILLED
        assert world.version() in {"1", "2"}, f"after a kill at step {at}"
        world.updates().install()
        assert world.version() == "2", f"after a kill at step {at}"


def test_a_really_full_disk_keeps_the_old_bundle(world: World, tmp_path: Path) -> None:
    """On a file system of its own that is too small for a second bundle; skipped where none can be mounted."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(small)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system of its own can be mounted here: {mounted.stderr.strip()}")
    try:
        world.restore(world.before)
        world.home.rename(tmp_path / "large")
        world.home = small / "home"
        written_out(photographed(tmp_path / "large"), world.home)
        room = os.statvfs(small)
        (small / "filler").write_bytes(bytes(max(0, (room.f_bavail - 4) * room.f_frsize)))
        with pytest.raises((SdkError, PersonalizeError, OSError)):
            world.updates().install()
        (small / "filler").unlink()
        assert world.version() == "1"
        world.updates().install()
        assert world.version() == "2"
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_metadata_cut_short_by_a_power_cut_are_fetched_again(world: World) -> None:
    world.restore(world.before)
    for file in (world.home / "tuf" / "metadata").rglob("*.json"):
        if not file.is_symlink():
            file.write_bytes(file.read_bytes()[:10])
    world.updates().install()
    assert world.version() == "2"


def test_a_home_that_cannot_be_written_is_one_line(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def read_only(path: Path) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    world.restore(world.before)
    disk = Disk()
    monkeypatch.setattr(disk, "_create", read_only)
    with pytest.raises(SdkError) as refused:
        world.updates(disk).install()
    assert "\n" not in str(refused.value)
    assert world.version() == "1"
    assert json.loads((world.home / "state.json").read_text())["slot"] == "a"
