"""A release of the channel `adapters` that was chosen in, that release in use out; over what stands on the disk.

`sdk.device.steps` says which step is next, here it is done. Hold `Slots.alone` around it.
"""

import shutil
from pathlib import Path

from personalize.shelf import KEPT, Shelf, lines_of
from sdk.bundle import Bundle
from sdk.catalogue import Catalogue, Release
from sdk.device.downloads import Downloads, Progress, pieces_of
from sdk.device.extras import Extras, Installed
from sdk.device.on_line import first_of, untaught
from sdk.device.repository import Repository
from sdk.device.slots import Slots
from sdk.device.steps import MAX_TRIES, Seen, Step, next_step
from sdk.device.trial import Ask, Limits, judge
from sdk.errors import BundleError, SlotError, UnhealthyError, UpdateError
from sdk.extra import MAX_MANIFEST_BYTES, ExtraManifest

__all__ = ["ExtraRun"]


class ExtraRun:
    """One release on its way; all that it knows it can find out again from the disk."""

    def __init__(
        self,
        slots: Slots,
        extras: Extras,
        repository: Repository,
        catalogue: Catalogue,
        release: Release,
        base: Bundle,
        asked: Ask,
        progress: Progress,
    ) -> None:
        """Nothing is done yet.

        Args:
            slots: Of the home, held alone.
            extras: Of the same home.
            repository: Where files come from.
            catalogue: Of the product.
            release: What shall be in use.
            base: The active base.
            asked: Starts the trial; see sdk.device.trial.ask.
            progress: Told (what is done now, done, total).
        """
        self._slots, self._home, self._extras, self._asked = slots, slots.home, extras, asked
        self._release, self._base = release, base
        self._name, self._kind, self._revoked = catalogue.name, catalogue.kind, set(catalogue.revoked)
        self._repository, self._progress = repository, progress
        self._downloads = Downloads(self._extras.downloads, repository, self._extras.disk, progress)

    @property
    def fetched_bytes(self) -> int:
        """What came from the repository."""
        return self._downloads.fetched_bytes

    def words(self) -> str:
        """What was done, for a person."""
        return f"version {self._release.version} is in use, {self.fetched_bytes / 1e6:.2f} MB fetched"

    def to_the_end(self) -> None:
        """Take step after step until the release is in use.

        Raises:
            UpdateError: See Additions.install.
        """
        self._content, self._manifest = self._read_manifest()
        self._require_welcome()
        self._require_room()
        wanted = {record.sha256 for record in self._manifest.files.values()}
        self._downloads.sweep({self._release.manifest, *wanted})
        steps = {
            Step.FETCH_FILES: lambda: self._downloads.get_all(sorted(wanted)),
            Step.ASSEMBLE: self._assemble,
            Step.TRY: self._try,
            Step.COMMIT: self._commit,
            Step.GIVE_UP: self._give_up,
        }
        while (step := next_step(self._seen(wanted))) is not Step.DONE:
            self._progress(step.value, 0, 1)
            steps[step]()
            self._progress(step.value, 1, 1)
        self._downloads.sweep()
        self._slots.note(f"installed {self._name} {self._release.version}")

    def _seen(self, wanted: set[str]) -> Seen:
        digest, index = self._release.manifest, self._extras.index()
        line, trial = self._extras.line(self._name, self._base.base_digest), index.get("trial") or {}
        mine = trial if trial.get("manifest") == digest else {}
        return Seen(
            wanted=digest,
            active=line[-1].manifest if line else "",
            staged=digest if self._extras.whole(digest) else None,
            files_here=all(map(self._downloads.has, wanted)),
            passed=False if digest in index["failed"] else (True if mine.get("passed") else None),
            tries=int(mine.get("tries", 0)),
        )

    def _read_manifest(self) -> tuple[bytes, ExtraManifest]:
        """The manifest: signed, small, and saying what its release and its catalogue say."""
        if (size := self._repository.size(self._release.manifest)) > MAX_MANIFEST_BYTES:
            raise UpdateError(f"the manifest of {self._name} has {size} bytes, at most {MAX_MANIFEST_BYTES} are read")
        content = self._downloads.get(self._release.manifest).read_bytes()
        try:
            manifest = ExtraManifest.parse(content)
        except BundleError as cause:
            raise UpdateError(f"the release's manifest is none ({cause}); nothing was installed") from cause
        said = (manifest.name, manifest.kind, manifest.version, manifest.base_digest, manifest.to_json())
        if said != (self._name, self._kind, self._release.version, self._release.base_digest, content):
            raise UpdateError(
                f"the manifest of {self._name} {self._release.version} differs from its release; nothing was installed"
            )
        return content, manifest

    def _require_welcome(self) -> None:
        """Refuse what would stand in another's place."""
        here = self._extras.kind(self._name)
        if here not in (None, self._manifest.kind):
            raise UpdateError(f"{self._name} is a {here} here, not a {self._manifest.kind}; remove it first")
        if self._manifest.kind == "router":
            base = self._base.base_digest
            routers = [name for name in self._extras.products() if self._extras.kind(name) == "router"]
            if other := [name for name in routers if name != self._name and self._extras.line(name, base)]:
                raise UpdateError(f"{other[0]} is the router here and there is one at most; remove it first")
        if self._manifest.kind == "adapter":
            shelf = Shelf(self._home, self._name)
            if not untaught(shelf) and not first_of(shelf, self._revoked):
                raise UpdateError(
                    f"{self._name}: your own adapter of that name has learned from you and stays in use; "
                    f"`limbeck adapter rollback --adapter {self._name}` makes room for version {self._release.version}"
                )

    def _require_room(self) -> None:
        need = 2 * self._release.bytes + self._downloads.missing_bytes(
            record.sha256 for record in self._manifest.files.values()
        )
        if (free := shutil.disk_usage(self._home.path).free) < need:
            raise SlotError(
                f"{self._name} needs {need / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free for "
                f"{self._home.path}; free some, what is in use stays"
            )

    def _assemble(self) -> None:
        files = sorted(self._manifest.files.items())
        self._extras.stage(
            self._content, ((path, pieces_of(self._downloads.folder / record.sha256)) for path, record in files)
        )

    def _try(self) -> None:
        """Begin a trial, which is counted before it starts; what fails it is remembered."""
        digest, health = self._release.manifest, self._release.health
        trial = self._extras.index().get("trial") or {}
        tries = int(trial["tries"]) if trial.get("manifest") == digest else 0
        self._extras.update(trial={"manifest": digest, "tries": tries + 1})
        self._extras.disk.clear(self._extras.fitted(digest))
        try:
            found = self._asked(
                "fit",
                None,
                self._base,
                limits=Limits(seconds=health.seconds, memory_mb=health.memory_mb),
                home=self._home.path,
                extra=self._extras.place(digest),
                progress=self._progress,
            )
            judge(found, health)
        except UnhealthyError as failed:
            self._fail(str(failed))
            return
        self._extras.update(trial={"manifest": digest, "tries": tries + 1, "passed": True, "said": found})

    def _commit(self) -> None:
        """Put it in use; of an adapter first its line, so that a crash between the two is gone on with here."""
        digest = self._release.manifest
        if self._manifest.kind == "adapter":
            with self._home.lock():
                self._require_welcome()
                self._put_on_line(self._extras.fitted(digest))
        installed = Installed(manifest=digest, version=self._release.version, sequence=self._release.sequence)
        self._extras.put(self._name, self._manifest.kind, self._base.base_digest, installed)
        self._extras.update(trial=None)

    def _put_on_line(self, fitted: Path) -> None:
        shelf, home, disk = Shelf(self._home, self._name), self._home, self._extras.disk
        answers = f"released-{self._release.manifest[:16]}"
        if shelf.in_use == answers:
            return
        if revoked := first_of(shelf, self._revoked):
            shelf.undo(revoked)
        self._slots.copy_adapter(fitted, home.adapters / answers)
        lines = lines_of(home) | {self._name: (*shelf.history, answers)[-KEPT:]}
        disk.entrust(lambda: home.update_state(lines=lines, adapter=None, adapters=None), home.path / "state.json")

    def _give_up(self) -> None:
        digest, version = self._release.manifest, self._release.version
        if digest not in self._extras.index()["failed"]:
            why = f"{MAX_TRIES} trials were begun and none came to an end"
            self._fail(why)
        why = self._extras.index()["failed"][digest]["why"]
        self._downloads.sweep()
        self._extras.disk.clear(self._extras.place(digest))
        self._extras.disk.clear(self._extras.fitted(digest))
        self._slots.note(f"{self._name} {version} failed its trial: {why}")
        raise UnhealthyError(f"{self._name} {version} failed its trial: {why}; what is in use stays")

    def _fail(self, why: str) -> None:
        self._extras.fail(self._name, self._release.manifest, self._release.version, why, self._slots.now())
