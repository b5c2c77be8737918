"""A folder path in; the places of all that stays on this device out, and a lock: one process learns at a time.

Rules: only the owner can read a home that we create; `state.json` is replaced whole or not at all; a newer format is
refused. The lock belongs to the system, not to a file's presence: it ends with its process, even when that is killed.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import platformdirs

from personalize.errors import HomeBusyError, HomeError

__all__ = ["Home"]

FORMAT = "home/1"
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Home:
    """Where one person's experiences, adapters, reports and privacy ledger live."""

    path: Path
    """The home folder, absolute; exists."""

    @classmethod
    def open(cls, path: Path | None = None) -> Self:
        """Open the home at `path`, else at LIMBECK_HOME, else in the user's data folder; create it if it is missing.

        Raises:
            HomeError: It cannot be created or written, or is of a newer format; nothing in it was changed.
        """
        chosen = path or os.environ.get("LIMBECK_HOME") or platformdirs.user_data_path("limbeck", appauthor=False)
        home = cls(Path(chosen).expanduser().absolute())
        with _in_plain_words(home.path):
            home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=home.path):  # To ask for the right to write is not enough on every system.
                pass
            if not home._state_file.exists():
                with _synced_file(home.path, _as_text({"format": FORMAT})) as temporary:
                    _put_if_missing(temporary, home._state_file)
            home.state()
            home.adapters.mkdir(mode=0o700, exist_ok=True)
            home.reports.mkdir(mode=0o700, exist_ok=True)
        return home

    @property
    def experience_db(self) -> Path:
        """The encrypted experiences."""
        return self.path / "experience.db"

    @property
    def ledger_db(self) -> Path:
        """What was spent, for ever."""
        return self.path / "ledger.db"

    @property
    def adapters(self) -> Path:
        """Folder of the admitted adapters."""
        return self.path / "adapters"

    @property
    def reports(self) -> Path:
        """Folder of the written reports."""
        return self.path / "reports"

    @property
    def _state_file(self) -> Path:
        return self.path / "state.json"

    def state(self) -> dict[str, Any]:
        """Return what `state.json` says; it has at least its `format`.

        Raises:
            HomeError: It is damaged or of a newer format; it was left as it is.
        """
        with _in_plain_words(self.path):
            written = self._state_file.read_bytes()
        try:
            state = json.loads(written)
            found = state["format"]
        except (ValueError, KeyError, TypeError, RecursionError) as cause:
            advice = "bring back a copy of it, or move it away to begin it anew"
            raise HomeError(f"{self._state_file} is damaged; {advice}") from cause
        if found != FORMAT:
            advice = f"this version reads {FORMAT!r}; use the version that wrote it"
            raise HomeError(f"{self._state_file} has format {found!r} and {advice}")
        return dict(state)

    def update_state(self, **changes: Any) -> None:
        """Write `changes` over the state, in one step that a crash cannot halve; hold the `lock` while doing so.

        Raises:
            HomeError: No room or no right to write; the old state is still there.
        """
        state = self.state() | changes | {"format": FORMAT}
        with _in_plain_words(self.path), _synced_file(self.path, _as_text(state)) as temporary:
            temporary.replace(self._state_file)

    def put(self, name: str, content: bytes) -> None:
        """Write a file of the home in one step that a crash cannot halve; hold the `lock` while doing so.

        Raises:
            HomeError: No room or no right to write; the old file is still there.
        """
        with _in_plain_words(self.path), _synced_file(self.path, content) as temporary:
            temporary.replace(self.path / name)

    def get(self, name: str) -> bytes | None:
        """What `put` wrote, or None.

        Raises:
            HomeError: It cannot be read.
        """
        with _in_plain_words(self.path), suppress(FileNotFoundError):
            return (self.path / name).read_bytes()
        return None

    def remove(self, name: str) -> None:
        """Delete what `put` wrote; nothing happens where there is nothing."""
        with _in_plain_words(self.path):
            (self.path / name).unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the one process that learns in this home, until the block ends or the process does.

        Raises:
            HomeBusyError: Another process holds the lock; the line names its process id, and nothing was started.
        """
        with _in_plain_words(self.path):
            descriptor = os.open(self.path / "learn.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not _locked(descriptor):
                holder = os.read(descriptor, 20).decode("ascii", "replace").strip()
                who = f"process {holder}" if holder.isdigit() else "another process"
                raise HomeBusyError(f"{who} is learning in {self.path}; wait until it has finished, or stop it")
            with suppress(OSError):  # The number is a courtesy to who is refused; a full disk must not stop the holder.
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()}\n".encode())
            yield
        finally:
            os.close(descriptor)  # Ends the lock. The file stays: were it removed, two processes could hold two files.

    def free_disk_check(self, need_bytes: int) -> None:
        """Refuse to start what would not fit.

        Raises:
            HomeError: Fewer than `need_bytes` are free; nothing was started.
        """
        with _in_plain_words(self.path):
            free = shutil.disk_usage(self.path).free
        if free < need_bytes:
            have, need = f"{free / MEGABYTE:,.1f} MB", f"{need_bytes / MEGABYTE:,.1f} MB"
            raise HomeError(f"{have} are free for {self.path} and {need} are needed; free some, or use another home")


@contextmanager
def _synced_file(folder: Path, content: bytes) -> Iterator[Path]:
    """Write to a new synced file in `folder`; after the block, sync the folder and remove the file if left."""
    descriptor, name = tempfile.mkstemp(dir=folder, prefix="state-", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        yield Path(name)
        if sys.platform != "win32":  # Windows cannot open a folder, and needs no sync of it.
            folder_descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(folder_descriptor)
            finally:
                os.close(folder_descriptor)
    finally:
        Path(name).unlink(missing_ok=True)


def _as_text(state: dict[str, Any]) -> bytes:
    return json.dumps(state, indent=1).encode()


def _put_if_missing(temporary: Path, place: Path) -> None:
    try:
        os.link(temporary, place)  # Unlike replace, this keeps what another process has put there meanwhile.
    except FileExistsError:
        pass
    except OSError:  # A file system without hard links.
        temporary.replace(place)


if sys.platform == "win32":
    import msvcrt

    def _locked(descriptor: int) -> bool:
        os.lseek(descriptor, 1024, os.SEEK_SET)  # Past the process id: a locked byte cannot be read by others.
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def _locked(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def _in_plain_words(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as cause:
        advice = "check its path, your rights and the free room, or choose another home"
        raise HomeError(f"cannot use the home {path}: {cause.strerror or cause}; {advice}") from cause
