"""A product of the channel `adapters` in; installed for the active base, tried before, or everything as it was.

Rules:
    1. An extra is installed for one base, the active one; a release for another base is refused in one line.
    2. What is in use stays in use until the new release is whole on the disk and its trial is over.
    3. `steps.next_step` decides over what stands on the disk, as for a base: what was interrupted is gone on with.
    4. An adapter answers on the line of adapters that has its product's name. Where the person has taught that line
       since, a new release is not put over it. A revoked one is taken out all the same, with what was learned on it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from personalize.shelf import Shelf
from sdk.bundle import Bundle
from sdk.catalogue import Catalogue
from sdk.device.choose import Choice, choose
from sdk.device.downloads import Progress
from sdk.device.extra_run import ExtraRun
from sdk.device.extras import Extras
from sdk.device.install import Updates
from sdk.device.on_line import first_of, untaught
from sdk.device.repository import Repository
from sdk.errors import SlotError, UpdateError

__all__ = ["CHANNEL", "Additions", "Extended"]

CHANNEL = "adapters"


@dataclass(frozen=True, kw_only=True)
class Extended:
    """What a command came to for one product."""

    product: str
    """Its name."""
    did: str
    """`installed`, `went back`, `removed`, `nothing`, `refused`, or `can install` from a check."""
    version: str | None
    """What is in use of it for the active base; None: nothing."""
    words: str
    """The same for a person."""
    why: str = ""
    """As in sdk.device.choose.Choice."""
    offered: str | None = None
    """Version that the choice fell on."""
    fetched_bytes: int = 0
    """What came over the network or from the offline file."""


class Additions:
    """What goes with the base of one home."""

    def __init__(self, updates: Updates) -> None:
        """Look at a home; nothing is asked or written yet.

        Args:
            updates: Of the same home: its source, its base, its policy.
        """
        self.updates = updates
        self.home, self.slots = updates.home, updates.slots
        self.extras = Extras(updates.home.path, updates.disk)

    def check(self, name: str, *, force: bool = False, carried: Path | None = None) -> Extended:
        """Say what there is of a product for the active base; installs nothing.

        Raises:
            UpdateError: Refused or unreachable; what is in use stays.
        """
        with self.slots.alone():
            self.slots.settle()
            repository, _, choice = self._look(name, self._base(), force=force, carried=carried)
            repository.close()
        did = "can install" if choice.release or choice.why == "leave" else "nothing"
        return self._said(name, did, choice.words, choice)

    def install(
        self,
        name: str,
        *,
        force: bool = False,
        carried: Path | None = None,
        progress: Progress = lambda what, done, total: None,
    ) -> Extended:
        """Install what `check` would choose; go on with what was interrupted. Arguments as Updates.install.

        Raises:
            UpdateError: Refused, not finished or failed; what was in use is in use, what was fetched is kept.
            HomeBusyError: A night is running; call again later.
        """
        with self.slots.alone():
            self.slots.settle()
            base = self._base()
            repository, catalogue, choice = self._look(name, base, force=force, carried=carried)
            try:
                self._purge(name, base, set(catalogue.revoked))
                if choice.why == "leave" and choice.release is None:
                    return self._leave(name, base, catalogue, choice)
                if choice.release is None:
                    if choice.why == "unsuited" and self.extras.kind(name) is None:
                        raise UpdateError(f"{name}: {choice.words}; nothing was installed")
                    return self._said(name, "nothing", choice.words, choice)
                if carried is None and (reasons := self.updates.against()):
                    raise UpdateError(f"{choice.words}, but not now: {'; '.join(reasons)}")
                run = ExtraRun(
                    self.slots, self.extras, repository, catalogue, choice.release, base, self.updates.asked, progress
                )
                run.to_the_end()
                self._sweep()
                return self._said(name, "installed", run.words(), choice, run.fetched_bytes)
            finally:
                repository.close()

    def install_all(self, *, progress: Progress = lambda what, done, total: None) -> list[Extended]:
        """Bring every product of this home up to date for the active base; one that is refused stops no other."""
        made = []
        for name in self.extras.products():
            try:
                made.append(self.install(name, progress=progress))
            except UpdateError as refused:
                made.append(self._said(name, "refused", str(refused)))
        if made:
            with self.slots.alone():
                self._sweep()
        return made

    def roll_back(self, name: str) -> Extended:
        """Put the release before in use, or nothing where there is none; the one left is not installed again.

        Raises:
            SlotError: Nothing of it is in use, or the person has taught it since; nothing changed.
        """
        with self.slots.alone():
            self.slots.settle()
            base = self._base()
            line = self.extras.line(name, base.base_digest)
            if not line:
                raise SlotError(f"nothing of {name} is in use on this base, so there is nothing to roll back")
            self._requireuntaught(name)
            self._take_out(name, base, {line[-1].manifest}, "rolled back by the person")
            now = self._version(name, base) or "nothing of it"
            return self._said(name, "went back", f"{now} is in use again, {line[-1].version} is not tried again")

    def remove(self, name: str) -> Extended:
        """Take a product out of use for every base and look for it no more.

        Raises:
            SlotError: It is not known here, or the person has taught it since; nothing changed.
        """
        with self.slots.alone():
            self.slots.settle()
            if self.extras.kind(name) is None:
                known = ", ".join(self.extras.products()) or "nothing"
                raise SlotError(f"{name} is not installed; installed is {known}")
            self._requireuntaught(name)
            gone = {each.manifest for base in self.extras.bases(name) for each in self.extras.line(name, base)}
            self._undo(name, gone)
            self.extras.forget(name)
            self._sweep()
            self.slots.note(f"removed {name}")
            return Extended(product=name, did="removed", version=None, words=f"{name} is removed, and not looked for")

    def status(self) -> list[dict[str, Any]]:
        """Every product, without asking anybody: what is in use, what was before, and on which base."""
        active, found = self.updates.active_or_none(), []
        for name in self.extras.products():
            line = self.extras.line(name, active.base_digest) if active else []
            found.append(
                {
                    "product": name,
                    "kind": self.extras.kind(name),
                    "version": line[-1].version if line else None,
                    "before": line[-2].version if len(line) > 1 else None,
                    "other_bases": len({*self.extras.bases(name)} - ({active.base_digest} if active else set())),
                }
            )
        return found

    def failed(self) -> list[dict[str, Any]]:
        """Releases that are not tried again: product, version, time and reason."""
        return list(self.extras.index()["failed"].values())

    # --- below: hold `slots.alone` --------------------------------------------------------------------------------

    def _base(self) -> Bundle:
        if base := self.updates.active():
            return base
        raise UpdateError("there is no base here yet that anything could go with; `limbeck device install` gets one")

    def _look(
        self, name: str, base: Bundle, *, force: bool, carried: Path | None
    ) -> tuple[Repository, Catalogue, Choice]:
        source = replace(self.updates.followed(), channel=CHANNEL, name=name)
        repository, catalogue = self.updates.read(source, carried)
        if catalogue.kind == "base":
            repository.close()
            raise UpdateError(f"{name} is a base, which goes into a slot; leave --channel out")
        line = self.extras.line(name, base.base_digest)
        device = self.updates.device(
            active=line[-1].manifest if line else "",
            sequence=line[-1].sequence if line else 0,
            failed=frozenset(self.extras.index()["failed"]),
            base_digest=base.base_digest,
        )
        return repository, catalogue, choose(catalogue, device, force=force)

    def _leave(self, name: str, base: Bundle, catalogue: Catalogue, choice: Choice) -> Extended:
        """Leave a revoked release for one before that was not revoked, else for nothing."""
        self._take_out(name, base, set(catalogue.revoked), "revoked")
        now = self._version(name, base)
        return self._said(
            name, "went back", f"{choice.words}; {f'version {now}' if now else 'nothing of it'} is in use now", choice
        )

    def _take_out(self, name: str, base: Bundle, digests: set[str], why: str) -> None:
        gone = [each for each in self.extras.line(name, base.base_digest) if each.manifest in digests]
        self._undo(name, {each.manifest for each in gone})
        for each in gone:
            self.extras.fail(name, each.manifest, each.version, why, self.slots.now())
        self.extras.drop(name, base.base_digest, digests)
        self._sweep()
        self.slots.note(f"took {name} {gone[-1].version if gone else ''} out of use: {why}")

    def _purge(self, name: str, base: Bundle, revoked: set[str]) -> None:
        """Take revoked releases out where a rollback of the base would bring them back, or has brought them back."""
        for other in self.extras.bases(name):
            if other != base.base_digest and revoked & {each.manifest for each in self.extras.line(name, other)}:
                self.extras.drop(name, other, revoked)
        if not revoked & {each.manifest for each in self.extras.line(name, base.base_digest)}:
            self._undo(name, revoked)

    def _undo(self, name: str, digests: set[str]) -> None:
        """Take released adapters, and what was learned on them, off the line of their product."""
        if self.extras.kind(name) != "adapter":
            return
        with self.home.lock():
            shelf = Shelf(self.home, name)
            if first := first_of(shelf, digests):
                shelf.undo(first)

    def _requireuntaught(self, name: str) -> None:
        """Refuse to touch a line of adapters that the person has taught since a release was put there."""
        if self.extras.kind(name) in ("adapter", None) and not untaught(Shelf(self.home, name)):
            raise SlotError(
                f"adapter {name} has learned from you; `limbeck adapter rollback --adapter {name}` goes back to before "
                "that, then call this again"
            )

    def _sweep(self) -> None:
        """Keep what a base that is still here can need; past the budget only what is in use."""
        bases = {bundle.base_digest for bundle in self._bases()}
        self.extras.sweep(bases)
        if self.slots.used_bytes() > self.updates.policy.disk_megabytes * 1e6:
            self.extras.sweep(bases, older=False)

    def _bases(self) -> Iterator[Bundle]:
        for bundle in (self.updates.factory(), *(self.slots.bundle(place) for place in ("a", "b"))):
            if bundle:
                yield bundle

    def _version(self, name: str, base: Bundle | None) -> str | None:
        line = self.extras.line(name, base.base_digest) if base else []
        return line[-1].version if line else None

    def _said(self, name: str, did: str, words: str, choice: Choice | None = None, fetched_bytes: int = 0) -> Extended:
        return Extended(
            product=name,
            did=did,
            version=self._version(name, self.updates.active_or_none()),
            words=f"{name}: {words.removeprefix(f'{name}: ')}",
            why=choice.why if choice else "",
            offered=choice.release.version if choice and choice.release else None,
            fetched_bytes=fetched_bytes,
        )
