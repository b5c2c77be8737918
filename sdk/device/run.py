"""A release that was chosen in, that release active out; step by step over what stands on the disk.

`sdk.device.steps` says which step is next, here it is done. Hold `Slots.alone` around it.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sdk.bundle import Bundle, Manifest
from sdk.catalogue import Release
from sdk.device.downloads import Downloads, Progress, pieces_of, sha256_of
from sdk.device.repository import Repository
from sdk.device.slots import Pair, Slots
from sdk.device.steps import MAX_TRIES, Seen, Step, next_step
from sdk.device.trial import CARRY_SECONDS, Ask, Limits, judge
from sdk.errors import BundleError, PatchError, SlotError, UnhealthyError, UpdateError
from sdk.patch import rebuild

__all__ = ["Progress", "Run", "digest_of"]


class Run:
    """One update on its way; all that it knows it can find out again from the disk."""

    def __init__(
        self,
        slots: Slots,
        repository: Repository,
        release: Release,
        active: Bundle | None,
        *,
        asked: Ask,
        budget_mb: float,
        progress: Progress,
    ) -> None:
        """Nothing is done yet.

        Args:
            slots: Of the home, held alone.
            repository: Where files come from.
            release: What shall become active.
            active: What is active; None where there is none, or a damaged one.
            asked: Starts the examination of a bundle.
            budget_mb: Room that slots and downloads may take together, in 10⁶ bytes.
            progress: Told (what is done now, done, total).
        """
        self.slots, self.release, self.progress = slots, release, progress
        self._old, self._asked, self._budget_mb = active, asked, budget_mb
        self._downloads = Downloads(slots.home.path / "downloads", repository, slots.disk, progress)
        self._delta = release.deltas.get(digest_of(active)) if active else None
        self._why_whole = ""
        self._verified: str | None = None
        self._committed = False

    @property
    def fetched_bytes(self) -> int:
        """What came from the repository."""
        return self._downloads.fetched_bytes

    def to_the_end(self) -> None:
        """Take step after step until the wanted bundle is active.

        Raises:
            UpdateError: See Updates.install.
        """
        self._sweep_downloads()
        self._content, self._manifest = self._read_manifest()
        self._require_room()
        steps = {
            Step.FETCH_DELTA: lambda: self._downloads.get_all([self._delta] if self._delta else []),
            Step.REBUILD: self._rebuild,
            Step.FETCH_FILES: lambda: self._downloads.get_all(self._lacking()),
            Step.ASSEMBLE: lambda: self._stage(self._assembled()),
            Step.TRY: self._try,
            Step.COMMIT: self._commit,
            Step.GIVE_UP: self._give_up,
        }
        while (step := next_step(self._seen())) is not Step.DONE:
            self.progress(step.value, 0, 1)
            steps[step]()
            self.progress(step.value, 1, 1)
        self._sweep()

    def words(self) -> str:
        """What was done, for a person."""
        saved = 1 - self.fetched_bytes / self.release.bytes if self.release.bytes else 0.0
        how = "from a delta" if self._delta else f"from whole files{self._why_whole}"
        return (
            f"version {self.release.version} is active, {how}: {self.fetched_bytes / 1e6:.2f} MB fetched of "
            f"{self.release.bytes / 1e6:.2f} MB ({saved:.0%} saved)"
        )

    def _seen(self) -> Seen:
        state = self.slots.state()
        staged, trial = self._staged(), state.get("trial") or {}
        wanted, pair = self.release.manifest, self.slots.pair(self.slots.spare)
        passed = None
        if wanted in state["failed"]:
            passed = False
        elif pair and pair.manifest == wanted and pair.before == self.slots.lines():
            passed = True
        return Seen(
            wanted=wanted,
            active=self._active(),
            staged=staged,
            delta=self._delta is not None,
            delta_here=self._delta is not None and self._downloads.has(self._delta),
            files_here=all(map(self._downloads.has, self._lacking())),
            passed=passed,
            tries=int(trial["tries"]) if trial.get("manifest") == wanted else 0,
        )

    def _active(self) -> str:
        if self._committed:
            return self.release.manifest
        return digest_of(self._old) if self._old else ""

    def _staged(self) -> str | None:
        """Digest of what stands whole in the spare slot; every byte is read once a run."""
        spare = self.slots.spare
        bundle = self.slots.bundle(spare, verify="sizes" if self._verified else "digests")
        found = digest_of(bundle) if bundle else None
        self._verified = found
        return found

    def _read_manifest(self) -> tuple[bytes, Manifest]:
        """The new manifest: signed, and in the one form that `digest` is made from."""
        content = self._downloads.get(self.release.manifest).read_bytes()
        try:
            manifest = Manifest.parse(content)
        except BundleError as cause:
            raise UpdateError(f"the release's manifest is none ({cause}); nothing was installed") from cause
        if manifest.to_json() != content or manifest.base_digest != self.release.base_digest:
            raise UpdateError(
                f"the manifest of version {self.release.version} differs from its release; nothing was installed"
            )
        return content, manifest

    def _lacking(self) -> list[str]:
        """Digests of the new files that the active bundle cannot give, intact."""
        if not hasattr(self, "_lacks"):
            have = self._reusable()
            self._lacks = sorted({record.sha256 for record in self._manifest.files.values()} - have.keys())
        return self._lacks

    def _reusable(self) -> dict[str, Path]:
        """Digest to file of what the active bundle shares with the new one, read and found intact."""
        if self._old is None:
            return {}
        wanted = {record.sha256 for record in self._manifest.files.values()}
        files = {record.sha256: self._old.folder / path for path, record in self._old.manifest.files.items()}
        return {sha256: file for sha256, file in files.items() if sha256 in wanted and sha256_of(file) == sha256}

    def _require_room(self) -> None:
        """Refuse to start what would not fit; what the spare slot holds will be given back first."""
        fetched = [self._delta] if self._delta else self._lacking()
        need = self.release.bytes + self._downloads.missing_bytes(fetched)
        if self._staged() == self.release.manifest:
            return
        spare = self.slots.folder / self.slots.spare
        back = sum(file.stat().st_size for file in spare.rglob("*") if file.is_file())
        if (free := shutil.disk_usage(self.slots.home.path).free + back) < need:
            raise SlotError(
                f"version {self.release.version} needs {need / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free for "
                f"{self.slots.home.path}; free some, the active bundle stays"
            )

    def _rebuild(self) -> None:
        assert self._delta is not None
        assert self._old is not None
        try:
            self._stage(rebuild(self._downloads.folder / self._delta, self._old, self._manifest))
        except PatchError as refused:  # As an operating system does: a delta that fails is a reason to fetch it whole.
            (self._downloads.folder / self._delta).unlink(missing_ok=True)
            self._delta, self._why_whole = None, f" (the delta did not fit: {refused})"
            self._require_room()

    def _stage(self, files: Iterator[tuple[str, Iterator[bytes]]]) -> None:
        self.slots.stage(self._content, files)
        self._verified = self.release.manifest  # Every byte was just read back; it is read again before the switch.

    def _assembled(self) -> Iterator[tuple[str, Iterator[bytes]]]:
        have = self._reusable()
        for path, record in sorted(self._manifest.files.items()):
            yield path, pieces_of(have.get(record.sha256) or self._downloads.folder / record.sha256)

    def _try(self) -> None:
        """Begin a trial, which is counted before it starts; what fails it is remembered."""
        state, wanted = self.slots.state(), self.release.manifest
        trial = state.get("trial") or {}
        tries = int(trial["tries"]) if trial.get("manifest") == wanted else 0
        self.slots.update_state(trial={"manifest": wanted, "tries": tries + 1})
        spare, health = self.slots.spare, self.release.health
        new = self.slots.bundle(spare)
        assert new is not None
        try:
            limits = Limits(seconds=health.seconds, memory_mb=health.memory_mb)
            found = self._asked("examine", self._old, new, limits=limits, progress=self.progress)
            judge(found, health)
            carried = self._carried(new)
        except UnhealthyError as failed:
            self.slots.remember_failure(wanted, self.release.version, str(failed))
            return
        pair = Pair(
            manifest=wanted,
            version=self.release.version,
            sequence=self.release.sequence,
            before=carried["before"],
            lines=carried["lines"],
            said={**found, "adapters": carried["adapters"]},
        )
        self.slots.put_pair(spare, pair)
        self.slots.update_state(trial=None)

    def _carried(self, new: Bundle) -> dict[str, Any]:
        """The person's adapters on the new base; where there is nothing to carry, no process is started for it."""
        lines = self.slots.lines()
        learned = any(line and line[-1] for line in lines.values())
        if not learned or self._old is None or self._old.base_digest == new.base_digest:
            return {"before": lines, "lines": lines, "adapters": {}}
        return self._asked(
            "adapters",
            self._old,
            new,
            limits=Limits(seconds=CARRY_SECONDS, memory_mb=self.release.health.memory_mb),
            home=self.slots.home.path,
            slot=self.slots.folder / self.slots.spare,
            progress=self.progress,
        )

    def _commit(self) -> None:
        with self.slots.home.lock():
            pair = self.slots.pair(self.slots.spare)
            if pair is None or pair.before != self.slots.lines():
                return  # A night came between: what it admitted must be carried over too.
            self.slots.switch(self.slots.spare)
        self._committed = True
        self.slots.note(f"installed version {self.release.version}")

    def _give_up(self) -> None:
        failed, wanted = self.slots.state()["failed"], self.release.manifest
        if wanted not in failed:
            why = f"{MAX_TRIES} trials were begun and none came to an end"
            self.slots.remember_failure(wanted, self.release.version, why)
        self.slots.discard(self.slots.spare)
        self._downloads.sweep()
        why = self.slots.state()["failed"][wanted]["why"]
        self.slots.note(f"version {self.release.version} failed its trial: {why}")
        raise UnhealthyError(f"version {self.release.version} failed its trial: {why}; the active bundle stays")

    def _sweep(self) -> None:
        """Give back what is no longer needed, and the version before where all together is past the budget."""
        self._downloads.sweep()
        if self.slots.used_bytes() > self._budget_mb * 1e6:
            self.slots.discard(self.slots.spare)

    def _sweep_downloads(self) -> None:
        wanted = {self.release.manifest, *self.release.deltas.values()}
        if self._downloads.has(self.release.manifest):
            manifest = Manifest.parse((self._downloads.folder / self.release.manifest).read_bytes())
            wanted |= {record.sha256 for record in manifest.files.values()}
        self._downloads.sweep(wanted)


def digest_of(bundle: Bundle) -> str:
    """SHA-256 of a bundle's manifest, 64 hex digits: what releases call it by."""
    return bundle.manifest.digest.removeprefix("sha256:")
