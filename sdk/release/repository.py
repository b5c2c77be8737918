"""The publisher's folder in, what devices see and what waits for signatures out. One process at a time changes it.

public/             what any static file server serves, and nothing else: metadata/ and targets/
waiting.json        a change that waits for signatures (sdk.release.request); it is the file that travels
incoming/           files of that change, not served yet
repository.json     the format of this folder

Rules: files under public/ are only added, whole, and never changed, except timestamp.json, which is replaced in one
step and last. So a reader sees the old state or the new one, and a copy that stops halfway shows the old one.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tuf.api.metadata import Metadata
from tuf.api.serialization import DeserializationError

from privacy.whole_file import replace_whole
from sdk.catalogue import file_path
from sdk.errors import ReleaseError, RepositoryError
from sdk.release.request import Request, check_published, read_request, write_request
from sdk.release.roles import OFFLINE, View

__all__ = ["Repository", "first_root", "now_utc", "served_folder"]

FORMAT = "release_repository/1"
WAITING = "waiting.json"
MADE = "x-limbeck-made"  # Signed in every timestamp: when it was made, so that a clock that runs back is noticed.
CLOCK_SLACK = timedelta(hours=1)  # Machines that publish need not agree better.


def now_utc() -> datetime:
    """The time, or SOURCE_DATE_EPOCH where a build is to be repeated byte for byte."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH")
    if fixed is None:
        return datetime.now(UTC)
    if not fixed.isdecimal():
        raise ReleaseError(f"SOURCE_DATE_EPOCH must be seconds since 1970, got {fixed!r:.40}; unset or correct it")
    return datetime.fromtimestamp(int(fixed), UTC)


class Repository:
    """A publisher's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metadata = folder / "public" / "metadata"
        self.targets = folder / "public" / "targets"
        self.incoming = folder / "incoming"
        self.waiting_file = folder / WAITING

    @classmethod
    def open(cls, folder: Path) -> "Repository":
        """Open the repository in `folder`.

        Raises:
            RepositoryError: There is none, or it is of another format.
        """
        try:
            fields = json.loads((folder / "repository.json").read_bytes())
        except (OSError, ValueError) as cause:
            raise RepositoryError(
                f"{folder} is no release repository; begin one with `limbeck release init`"
            ) from cause
        if not isinstance(fields, dict) or fields.get("format") != FORMAT:
            raise RepositoryError(f"{folder} is of another format than {FORMAT}; use the limbeck that made it")
        return cls(folder)

    @classmethod
    def create(cls, folder: Path) -> "Repository":
        """Make an empty repository in `folder`, which must be missing or empty.

        Raises:
            RepositoryError: It holds something, or cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise RepositoryError(f"{folder} is not empty; a repository begins in an empty folder")
            repository = cls(folder)
            for place in (repository.metadata, repository.targets, repository.incoming):
                place.mkdir(parents=True)
            replace_whole(folder / "repository.json", (json.dumps({"format": FORMAT}) + "\n").encode())
        except OSError as cause:
            raise RepositoryError(f"cannot write {folder}: {cause.strerror}; choose another folder") from cause
        return repository

    @contextmanager
    def locked(self) -> Iterator["Repository"]:
        """Hold the repository for one change.

        Raises:
            RepositoryError: Another process holds it.
        """
        try:
            with FileLock(self.folder / ".lock", timeout=0):
                yield self
        except Timeout as cause:
            raise RepositoryError(f"another command is changing {self.folder}; try again when it is done") from cause

    # --- what is published ---------------------------------------------------------------------------------------

    def roots(self) -> tuple[Metadata[Any], ...]:
        """Every published root, oldest first."""
        found: list[Metadata[Any]] = []
        while (file := self.metadata / f"{len(found) + 1}.root.json").exists():
            found.append(self._load(file))
        return tuple(found)

    def timestamp(self) -> Metadata[Any] | None:
        """The published timestamp; None before the first publication."""
        file = self.metadata / "timestamp.json"
        return self._load(file) if file.exists() else None

    def snapshot(self) -> Metadata[Any] | None:
        """The snapshot that the timestamp names."""
        timestamp = self.timestamp()
        if timestamp is None:
            return None
        return self._load(self.metadata / f"{timestamp.signed.snapshot_meta.version}.snapshot.json")

    def published(self) -> dict[str, Metadata[Any]]:
        """The offline roles that devices see now; empty before the first publication.

        Raises:
            RepositoryError: A file is missing or damaged: the folder is half copied.
        """
        snapshot = self.snapshot()
        if snapshot is None:
            return {}
        view: dict[str, Metadata[Any]] = {"root": self.roots()[-1]}
        for role in OFFLINE[1:]:
            meta = snapshot.signed.meta.get(f"{role}.json")
            if meta is None:
                raise RepositoryError(f"the snapshot does not name {role}; restore {self.folder} from its copy")
            view[role] = self._load(self.metadata / f"{meta.version}.{role}.json")
        return view

    def check_clock(self, now: datetime) -> None:
        """Refuse to sign at a time before the last publication.

        Raises:
            RepositoryError: This machine's clock is behind it.
        """
        timestamp = self.timestamp()
        made = timestamp.signed.unrecognized_fields.get(MADE) if timestamp else None
        if isinstance(made, str) and now + CLOCK_SLACK < datetime.fromisoformat(made):
            raise RepositoryError(
                f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC, but the repository was published at {made}; "
                "set the clock"
            )

    def target(self, channel: str, sha256: str) -> Path:
        """Where a file of a channel stands or waits."""
        directory, _, name = file_path(channel, sha256).rpartition("/")
        served = self.targets / directory / f"{sha256}.{name}"
        return served if served.exists() else self.incoming / channel / sha256

    def read_target(self, channel: str, sha256: str) -> bytes:
        """Content of a small file of a channel, compared with its digest.

        Raises:
            RepositoryError: It is missing or damaged.
        """
        try:
            content = self.target(channel, sha256).read_bytes()
        except OSError as cause:
            raise RepositoryError(f"{channel} lacks the file {sha256[:12]}…; restore it or add it again") from cause
        if hashlib.sha256(content).hexdigest() != sha256:
            raise RepositoryError(f"the file {sha256[:12]}… of {channel} is damaged; restore it or add it again")
        return content

    # --- what waits -----------------------------------------------------------------------------------------------

    def waiting(self) -> Request | None:
        """The change that waits for signatures, checked; None where there is none, or where it was published already.

        Raises:
            ReleaseError: The file was changed by something else.
        """
        if not self.waiting_file.exists():
            return None
        request, published = read_request(self.waiting_file), self.published()
        if not published:
            return request
        # A publication that was interrupted may have put some of it in place already, or all of it.
        changed = {role: data for role, data in request.changed.items() if published[role].signed != data.signed}
        for role, data in changed.items():
            if data.signed.version != published[role].signed.version + 1:
                raise ReleaseError(
                    f"what waits was made for another version of {role}; delete {self.waiting_file} and change it again"
                )
        return Request(before=published, changed=changed, roots=self.roots()) if changed else None

    def change(self, changed: View, *, dry: bool) -> Request:
        """Let `changed` wait for signatures, on top of what waits already.

        Args:
            changed: Metadata without signatures, one version above what is published.
            dry: Only say what would be; nothing is written.

        Raises:
            ReleaseError: It holds what cannot be said in words.
        """
        before = self.published()
        roots = self.roots() if before else ()
        check_published(before, roots, str(self.folder))
        waiting = self.waiting()
        together = {**(waiting.changed if waiting else {}), **changed}
        request = Request(
            before=before, changed={role: together[role] for role in OFFLINE if role in together}, roots=roots
        )
        request.words()
        if not dry:
            write_request(self.waiting_file, request)
        return request

    def current(self) -> View:
        """The offline roles with what waits on top: what the next change starts from."""
        waiting = self.waiting()
        return waiting.after if waiting else self.published()

    def keep(self, channel: str, source: Path | bytes, sha256: str) -> None:
        """Take a file into incoming/, unless the channel has it already."""
        if self.target(channel, sha256).exists():
            return
        place = self.incoming / channel / sha256
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(source, bytes):
                replace_whole(place, source)
                return
            beside = place.with_suffix(".part")
            shutil.copyfile(source, beside)
            beside.replace(place)
        except OSError as cause:
            raise ReleaseError(f"cannot copy into {place.parent}: {cause.strerror}; nothing changed") from cause

    def _load(self, file: Path) -> Metadata[Any]:
        try:
            return Metadata.from_bytes(file.read_bytes())
        except (OSError, DeserializationError) as cause:
            raise RepositoryError(
                f"{file.name} is missing or damaged in {self.metadata}: the repository is half copied; "
                "copy it again, timestamp.json last"
            ) from cause


def served_folder(source: str) -> Path | str:
    """What `verify` reads: the public folder of a repository, or `source` itself."""
    folder = Path(source)
    return folder / "public" if (folder / "repository.json").exists() else source


def first_root(source: str, root: Path | None) -> bytes:
    """The root that devices have from the start: the given file, else the first of the folder.

    Raises:
        RepositoryError: There is none here; an address or an offline file needs one from elsewhere.
    """
    served = served_folder(source)
    file = root or Path(served) / "metadata" / "1.root.json"
    try:
        return file.read_bytes()
    except OSError as cause:
        raise RepositoryError(f"no root to begin with ({file}: {cause.strerror}); give --root 1.root.json") from cause
