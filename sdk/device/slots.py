"""Two slots of a home in; the bundle that is active, the one that is staged, and a switch between them out.

    current → slots/a             a symbolic link; without it the shipped or the cached base is active
    slots/a/base/                 a bundle
    slots/a/pair.json             what the person's adapters are on this base (format pair/1), and how the trial went
    slots/a/adapters/             a copy of those that answer
    slots/shipped/                the same without a bundle: the adapters on the base that came with the program
    slots/state.json              what no slot can tell: failures, trials begun, the random name, the latest time seen
    slots/readers/                a lock for each process that answers from a slot

Rules:
    1. A slot is written beside its place, synced, verified from the disk, and appears by one rename. It never changes.
    2. `current` is switched by one rename. What is active is read from it and from nothing else.
    3. A slot is the pair (base, adapters). The home's state names the slot that its adapters are for; where that is not
       the current one, a crash came between, and `settle` puts the pair of the current slot in its place.
    4. Nobody overwrites a slot that somebody still answers from.
"""

import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

from filelock import FileLock, Timeout

from personalize.home import Home
from personalize.shelf import lines_of
from sdk.bundle import MANIFEST, Bundle
from sdk.device.disk import Disk, stated
from sdk.errors import BundleError, SlotError, UpdateBusyError

__all__ = ["SHIPPED", "Lease", "Pair", "Place", "Slots", "lease"]

Place = Literal["a", "b", "shipped"]
SHIPPED: Place = "shipped"
KEPT_HISTORY = 20
FORMAT, PAIR_FORMAT = "slots/1", "pair/1"
Lines = dict[str, list[str | None]]
"""Line of adapters to the names of its adapters, oldest first; None is the bare base."""


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A base and the adapters that go with it."""

    manifest: str = ""
    """SHA-256 of the manifest of the slot's bundle; empty for the shipped one."""
    version: str = ""
    """Its version, as people say it."""
    sequence: int = 0
    """Its place in the order of versions."""
    before: Lines = field(default_factory=dict)
    """The home's lines when the trial began: where they have moved since, the trial is held again."""
    lines: Lines = field(default_factory=dict)
    """The lines on this base."""
    said: Mapping[str, Any] = field(default_factory=dict)
    """What the trial measured."""
    answered: bool = False
    """Whether the slot was ever active: only then one can go back to it."""


class Slots:
    """The slots of one home; hold `alone` for all that changes them."""

    def __init__(self, home: Home, disk: Disk | None = None, clock: Callable[[], datetime] = _now) -> None:
        """Look at a home that may have no slots yet; nothing is written."""
        self.home, self.disk, self._clock = home, disk or Disk(), clock
        self.folder = home.path / "slots"
        self._link = home.path / "current"

    def now(self) -> datetime:
        """This home's clock."""
        return self._clock()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be the one process that updates this home.

        Raises:
            UpdateBusyError: Another one is; nothing was started.
            SlotError: Whatever the disk refuses inside the block.
        """
        try:
            self.disk.folder(self.folder / "readers")
            lock = FileLock(self.folder / "update.lock")
            lock.acquire(timeout=0)
            try:
                yield
            finally:
                lock.release()
        except Timeout as cause:
            raise UpdateBusyError(f"another process updates {self.home.path}; wait until it has finished") from cause
        except OSError as cause:
            raise _refused(self.folder, cause) from cause

    @property
    def current(self) -> Place:
        """The active place."""
        try:
            name = str(self._link.readlink())
        except OSError:
            return SHIPPED
        if name not in ("slots/a", "slots/b"):
            raise SlotError(f"{self._link} points to {name!r:.60}, which is no slot; remove it to use the shipped base")
        return cast(Place, name[-1])

    @property
    def spare(self) -> Place:
        """The slot that the next update goes to."""
        return "b" if self.current == "a" else "a"

    def bundle(self, place: Place, *, verify: Literal["sizes", "digests"] = "sizes") -> Bundle | None:
        """The bundle of a slot, or None where there is no whole one."""
        with suppress(BundleError):
            return Bundle.open(self.folder / place / "base", verify=verify)
        return None

    def stage(self, content: bytes, files: Iterable[tuple[str, Iterable[bytes]]]) -> None:
        """Fill the spare slot: written beside, synced, read back and compared, then renamed to its place.

        Args:
            content: The manifest.
            files: Every other file with its pieces.

        Raises:
            UpdateBusyError: Somebody still answers from that slot.
            SlotError: The disk; or what was written reads back otherwise. The active slot is as it was.
            PatchError: Of the pieces.
        """
        place = self.spare
        if self.in_use(place):
            raise UpdateBusyError(f"an assistant still answers from slot {place}, which the update needs; end it first")
        slot, fresh = self.folder / place, self.folder / f"{place}.new"
        try:
            for left in (fresh, slot):
                self.disk.clear(left)
            base = fresh / "base"
            self.disk.folder(base)
            for path, pieces in files:
                self.disk.folder((base / path).parent)
                self.disk.write(base / path, pieces)
            self.disk.write(base / MANIFEST, [content])
            self.disk.sync_all(fresh)
            Bundle.open(base, verify="digests")
            self.disk.move(fresh, slot)
        except BundleError as cause:
            raise SlotError(f"what was written to slot {place} reads back otherwise ({cause})") from cause

    def discard(self, place: Place) -> None:
        """Empty a slot that is not current."""
        if place == self.current:
            raise SlotError(f"slot {place} is active; it cannot be emptied")
        self.disk.clear(self.folder / place)

    def pair(self, place: Place) -> Pair | None:
        """What `put_pair` wrote; None without one, or where it is damaged."""
        with suppress(OSError, ValueError, TypeError):
            fields = json.loads((self.folder / place / "pair.json").read_bytes())
            if fields.pop("format", None) == PAIR_FORMAT:
                return Pair(**fields)
        return None

    def put_pair(self, place: Place, pair: Pair) -> None:
        """Say which adapters go with a slot; their copies must stand in its `adapters/`."""
        self.disk.folder(self.folder / place)
        content = json.dumps({"format": PAIR_FORMAT, **asdict(pair)}, indent=1)
        self.disk.put(self.folder / place / "pair.json", content.encode())

    def lines(self) -> Lines:
        """The home's lines of adapters, as they stand now."""
        return {name: list(line) for name, line in lines_of(self.home).items()}

    def switch(self, place: Place) -> None:
        """Make another place active, with its adapters. Hold the home's lock and `alone`.

        Raises:
            SlotError: It holds no whole bundle, or the disk; then the place before or this one is active.
        """
        if place != SHIPPED and self.bundle(place, verify="digests") is None:
            raise SlotError(f"slot {place} holds no whole bundle; nothing was switched")
        self._remember_pair()
        if place == SHIPPED:
            self.disk.drop(self._link)
        else:
            self.disk.point(self._link, f"slots/{place}")
        self._apply(place)

    def settle(self) -> None:
        """Finish what a crash left between a switch and its adapters, and sweep what was half written."""
        for place in ("a", "b"):
            self.disk.sweep(self.folder / place)
            self.disk.clear(self.folder / f"{place}.new")
        if self.lines_of_place() != self.current:
            with self.home.lock():
                self._apply(self.current)

    def lines_of_place(self) -> Place:
        """The place that the home's adapters are for."""
        return cast(Place, self.home.state().get("slot", SHIPPED))

    def in_use(self, place: Place) -> bool:
        """Whether a process still answers from a slot; leases of dead processes are swept."""
        for file in sorted((self.folder / "readers").glob(f"{place}-*.lock")):
            lock = FileLock(file)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return True
            lock.release()
            file.unlink(missing_ok=True)
        return False

    def state(self) -> dict[str, Any]:
        """What no slot can tell: `device`, `seen`, `failed`, `trial`, `revoked`, `history`.

        Raises:
            SlotError: It is damaged or of a newer format.
        """
        path = self.folder / "state.json"
        if (fields := stated(path, FORMAT, else_do="remove it, what is installed stays")) is not None:
            return fields
        return {"format": FORMAT, "device": secrets.token_hex(16), "failed": {}, "history": []}

    def update_state(self, **changes: Any) -> None:
        """Write changes over the state in one step."""
        self.disk.put(self.folder / "state.json", json.dumps(self.state() | changes, indent=1).encode())

    def remember_failure(self, manifest: str, version: str, why: str) -> None:
        """Remember that a release is not to be tried again."""
        entry = {"version": version, "why": why, "at": self._clock().isoformat(timespec="seconds")}
        self.update_state(failed=self.state()["failed"] | {manifest: entry}, trial=None)

    def note(self, what: str) -> None:
        """Add a line to the history."""
        line = {"at": self._clock().isoformat(timespec="seconds"), "what": what}
        self.update_state(history=[*self.state()["history"], line][-KEPT_HISTORY:])

    def copy_adapter(self, source: Path, target: Path) -> None:
        """Copy an adapter's folder, whole or not at all; nothing happens where it is already."""
        if target.exists():
            return
        fresh = target.with_name(f"{target.name}.new")
        self.disk.clear(fresh)
        self.disk.folder(fresh)
        for file in sorted(source.iterdir()):
            self.disk.write(fresh / file.name, [file.read_bytes()])
        self.disk.sync_all(fresh)
        self.disk.move(fresh, target)

    def used_bytes(self) -> int:
        """What all of this takes on the disk."""
        places = (self.folder, self.home.path / "downloads", self.home.path / "extras")
        return sum(file.lstat().st_size for place in places for file in place.rglob("*") if file.is_file())

    def _remember_pair(self) -> None:
        """Keep what answers now with the slot that it answers on, so that a rollback finds it."""
        here, lines = self.current, self.lines()
        for name in _answering(lines):
            self.copy_adapter(self.home.adapters / name, self._adapter(here, name))
        known = self.pair(here) or Pair()
        self.put_pair(here, replace(known, lines=lines, answered=True))

    def _apply(self, place: Place) -> None:
        pair = self.pair(place) or Pair()
        for name in _answering(pair.lines):
            if self._adapter(place, name).exists():
                self.copy_adapter(self._adapter(place, name), self.home.adapters / name)
        state = self.home.path / "state.json"
        self.disk.entrust(lambda: self.home.update_state(lines=pair.lines, slot=place), state)

    def _adapter(self, place: Place, name: str) -> Path:
        return self.folder / place / "adapters" / name


def _answering(lines: Lines) -> list[str]:
    return sorted({line[-1] for line in lines.values() if line and line[-1]})


class Lease:
    """While it is held, nobody overwrites the slot that a bundle stands in; it ends with its process at the latest."""

    def __init__(self, lock: FileLock | None) -> None:
        self._lock = lock

    def end(self) -> None:
        """Give the slot back."""
        if self._lock is not None:
            self._lock.release()
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock = None


def lease(bundle: Bundle) -> Lease:
    """Say that this process answers from a bundle; nothing happens if it stands in no slot."""
    slot = bundle.folder.parent
    if slot.parent.name != "slots" or slot.name not in ("a", "b") or not (slot.parent / "readers").is_dir():
        return Lease(None)
    lock = FileLock(slot.parent / "readers" / f"{slot.name}-{os.getpid()}-{secrets.token_hex(4)}.lock")
    lock.acquire(timeout=0)
    return Lease(lock)


def _refused(folder: Path, cause: OSError) -> SlotError:
    return SlotError(f"cannot write {folder} ({cause.strerror or cause}); free some room, the active bundle stays")
