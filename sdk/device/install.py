"""A home and a release repository in; the newest release that suits active, tried before, or everything as it was.

Rules:
    1. What is active works until the new one does: a bundle is tried before it is switched to.
    2. `steps.next_step` decides, over what stands on the disk; here it is only looked at and done. A call that was
       interrupted is gone on with by the next.
    3. A release that failed its trial, or that the person rolled back from, is remembered and not tried again.
    4. Nothing about the device leaves it: it asks for files, with the same request as every other device.
"""

import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from personalize.home import Home
from personalize.sensors import Sensors
from sdk.bundle import Bundle, factory_bundle
from sdk.catalogue import Catalogue
from sdk.device.allow import UpdatePolicy, against, metered
from sdk.device.choose import Choice, Device, choose
from sdk.device.disk import Disk
from sdk.device.fetch import Patience
from sdk.device.repository import Repository, Source, now
from sdk.device.run import Progress, Run, digest_of
from sdk.device.slots import SHIPPED, Pair, Place, Slots
from sdk.device.trial import Ask, ask
from sdk.errors import BundleError, SlotError, UpdateError

__all__ = ["Outcome", "Updates"]

MACHINES = {"aarch64": "arm64", "amd64": "x86_64"}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a command came to."""

    did: str
    """`installed`, `went back`, `nothing`, or `can install` from a check."""
    version: str
    """What is active now."""
    words: str
    """The same for a person."""
    why: str
    """As in sdk.device.choose.Choice."""
    offered: str | None = None
    """Version that the choice fell on."""
    fetched_bytes: int = 0
    """What came over the network or from the offline file."""
    bundle_bytes: int = 0
    """What the whole bundle would have been."""
    adapters: dict[str, Any] = field(default_factory=dict)
    """What became of the person's adapters."""


class Updates:
    """The updates of one home."""

    def __init__(
        self,
        home: Home,
        *,
        factory: Callable[[], Bundle | None] = factory_bundle,
        disk: Disk | None = None,
        clock: Callable[[], datetime] = now,
        patience: Patience | None = None,
        policy: UpdatePolicy | None = None,
        sensors: Sensors | None = None,
        on_metered: Callable[[], bool | None] = metered,
        asked: Ask = ask,
    ) -> None:
        """Look at a home; nothing is asked or written yet.

        Args:
            home: Whose updates.
            factory: The base that is there without any update, or None.
            disk: Through which slots are changed.
            clock: Tells the time.
            patience: With the server.
            policy: When an update may be.
            sensors: What the policy is held against.
            on_metered: Whether the network is paid by volume.
            asked: Starts the examination of a bundle; see sdk.device.trial.ask.
        """
        self.home, self.disk = home, disk or Disk()
        self.slots = Slots(home, self.disk, clock)
        self.factory, self.asked, self._clock, self._patience = factory, asked, clock, patience
        self.policy, self._sensors, self._on_metered = policy or UpdatePolicy(), sensors or Sensors(), on_metered
        self._tuf = home.path / "tuf"

    @property
    def source(self) -> Source | None:
        """Where updates come from; None before `follow`."""
        return Source.load(self._tuf)

    def follow(self, source: Source, root: bytes) -> None:
        """Trust a root and take updates from a source, from now on.

        Raises:
            UpdateError: Another source is followed already, or the root is none; nothing changed.
        """
        if (known := self.source) and known != source:
            raise UpdateError(
                f"this home takes {known.name} ({known.channel}) from {known.url}; remove {self._tuf} to change that"
            )
        if known is None:
            with self.slots.alone():
                source.keep(self._tuf, root, self.disk)

    def active(self) -> Bundle | None:
        """The bundle that answers now, whatever LIMBECK_BASE says; None where there is none at all.

        Raises:
            SlotError: The active slot is damaged.
        """
        place = self.slots.current
        if place == SHIPPED:
            return self.factory()
        if bundle := self.slots.bundle(place):
            return bundle
        raise SlotError(f"the bundle in slot {place} is damaged; `limbeck device rollback` goes back to the one before")

    def check(self, *, force: bool = False, carried: Path | None = None) -> Outcome:
        """Ask what there is, and what this device would do about it; installs nothing.

        Args:
            force: Take a release before its rollout reaches this device; a stop still holds.
            carried: An offline file instead of the server.

        Raises:
            UpdateError: Refused or unreachable; what is active stays.
        """
        with self.slots.alone():
            self.slots.settle()
            repository, _, choice = self._look(force=force, carried=carried)
            repository.close()
        did = "can install" if choice.release or choice.why == "leave" else "nothing"
        return self._outcome(did, choice, choice.words)

    def install(
        self,
        *,
        force: bool = False,
        carried: Path | None = None,
        progress: Progress = lambda what, done, total: None,
    ) -> Outcome:
        """Install what `check` would choose; go on with what was interrupted.

        Args:
            force: See check.
            carried: See check.
            progress: Told (what is done now, done, total).

        Raises:
            UpdateError: Refused, not finished or failed; what was active is active, what was fetched is kept.
            HomeBusyError: A night is running; call again later.
        """
        with self.slots.alone():
            self.slots.settle()
            repository, catalogue, choice = self._look(force=force, carried=carried)
            try:
                if choice.release is None:
                    if choice.why == "leave":
                        return self._leave(catalogue, choice)
                    return self._outcome("nothing", choice, choice.words)
                if carried is None and (reasons := self.against()):
                    raise UpdateError(f"{choice.words}, but not now: {'; '.join(reasons)}")
                run = Run(
                    self.slots,
                    repository,
                    choice.release,
                    self.active_or_none(),
                    asked=self.asked,
                    budget_mb=self.policy.disk_megabytes,
                    progress=progress,
                )
                run.to_the_end()
                return self._outcome("installed", choice, run.words(), run)
            finally:
                repository.close()

    def rollback(self) -> Outcome:
        """Make the version before active again, with the adapters that it had; the one left is not installed again.

        Raises:
            SlotError: There is none, or it was revoked; nothing changed.
            HomeBusyError: A night is running; nothing changed.
        """
        with self.slots.alone():
            self.slots.settle()
            place = self._place_before()
            if place is None:
                raise SlotError("there is no version before this one, so there is nothing to roll back to")
            left = self._name_of(self.slots.current)
            self._go_back(place, "rolled back by the person")
            choice = Choice(why="nothing", words="")
            return self._outcome(
                "went back", choice, f"{self._name_of(place)} is active again, {left} is not tried again"
            )

    def status(self) -> dict[str, Any]:
        """How things stand, without asking anybody."""
        source, state, place = self.source, self.slots.state(), self.slots.current
        before = self._place_before()
        staged = self.slots.bundle(self.slots.spare)
        pair = self.slots.pair(self.slots.spare)
        waits = staged.manifest.version if staged and not (pair and pair.answered) else None
        return {
            "active": self._name_of(place),
            "slot": place,
            "before": self._name_of(before) if before else None,
            "staged": waits,
            "source": vars(source) if source else None,
            "seen": state.get("seen"),
            "failed": list(state["failed"].values()),
            "history": state["history"],
            "trial": (self.slots.pair(place) or Pair()).said,
            "megabytes": self.slots.used_bytes() / 1e6,
        }

    def read(self, source: Source, carried: Path | None = None) -> tuple[Repository, Catalogue]:
        """Open a repository and read the catalogue of a product; the time of it is remembered. Hold `slots.alone`.

        Args:
            source: Where, which channel and which product.
            carried: An offline file instead of the server.

        Raises:
            UpdateError: Refused or unreachable; nothing is left open.
        """
        state = self.slots.state()
        seen = datetime.fromisoformat(state["seen"]) if state.get("seen") else None
        repository = Repository(
            self._tuf,
            source,
            seen=seen,
            carried=carried,
            clock=self._clock,
            patience=self._patience,
            disk=self.disk,
        )
        try:
            catalogue = repository.catalogue()
        except UpdateError:
            repository.close()
            raise
        moment = self._clock()
        self.slots.update_state(seen=(max(seen, moment) if seen else moment).isoformat(), device=state["device"])
        return repository, catalogue

    def device(self, **of_what: Any) -> Device:
        """What this device knows of itself.

        Args:
            of_what: `active`, `sequence`, `failed` and, for an extra, `base_digest`, as in Device.
        """
        machine = platform.machine().lower()
        return Device(
            name=str(self.slots.state()["device"]),
            sdk=version("limbeck"),
            memory_mb=int(psutil.virtual_memory().total / 1e6),
            hardware=MACHINES.get(machine, machine),
            **of_what,
        )

    def followed(self) -> Source:
        """Where updates come from.

        Raises:
            UpdateError: Nothing was followed yet.
        """
        if source := self.source:
            return source
        raise UpdateError("this home follows no repository yet; give --repository URL, --root FILE and --product NAME")

    def _look(self, *, force: bool, carried: Path | None) -> tuple[Repository, Catalogue, Choice]:
        repository, catalogue = self.read(self.followed(), carried)
        if catalogue.kind != "base":
            repository.close()
            raise UpdateError(
                f"{catalogue.name} is of kind {catalogue.kind}, and slots hold bases; add --channel adapters"
            )
        self.slots.update_state(revoked=list(catalogue.revoked))
        active, pair = self.active_or_none(), self.slots.pair(self.slots.current)
        device = self.device(
            active=digest_of(active) if active else "",
            sequence=pair.sequence if pair else 0,
            failed=frozenset(self.slots.state()["failed"]),
        )
        return repository, catalogue, choose(catalogue, device, force=force)

    def active_or_none(self) -> Bundle | None:
        """The active bundle; None where it is damaged, so that an update can still repair it."""
        try:
            return self.active()
        except (SlotError, BundleError):
            return None

    def against(self) -> list[str]:
        """What the policy holds against an update now, one clause each."""
        return against(self.policy, self._sensors.read(self.home.path), on_metered=self._on_metered())

    def _leave(self, catalogue: Catalogue, choice: Choice) -> Outcome:
        """Leave a revoked bundle for the one before."""
        place = self._place_before()
        if place is None:
            return self._outcome("nothing", choice, f"{choice.words}; there is no version before it, so it stays")
        self._go_back(place, "revoked")
        return self._outcome("went back", choice, f"{choice.words}; {self._name_of(place)} is active again")

    def _place_before(self) -> Place | None:
        """The slot that was active before, else the shipped base; never one that is damaged or revoked."""
        revoked = self.slots.state().get("revoked", [])
        if self.slots.current == SHIPPED:
            return None
        spare, pair = self.slots.spare, self.slots.pair(self.slots.spare)
        if pair and pair.answered and pair.manifest not in revoked and self.slots.bundle(spare):
            return spare
        shipped = self.factory()
        return SHIPPED if shipped and digest_of(shipped) not in revoked else None

    def _go_back(self, place: Place, why: str) -> None:
        pair = self.slots.pair(self.slots.current)
        with self.home.lock():
            if pair and pair.manifest:
                self.slots.remember_failure(pair.manifest, pair.version, why)
            self.slots.switch(place)
        self.slots.note(f"went back to {self._name_of(place)}: {why}")

    def _name_of(self, place: Place) -> str:
        pair = self.slots.pair(place)
        if place != SHIPPED and pair and pair.version:
            return f"version {pair.version}"
        return "the shipped base" if self.factory() else "no base"

    def _outcome(self, did: str, choice: Choice, words: str, run: Run | None = None) -> Outcome:
        return Outcome(
            did=did,
            version=self._name_of(self.slots.current),
            words=words,
            why=choice.why,
            offered=choice.release.version if choice.release else None,
            fetched_bytes=run.fetched_bytes if run else 0,
            bundle_bytes=choice.release.bytes if choice.release else 0,
            adapters=dict((self.slots.pair(self.slots.current) or Pair()).said.get("adapters", {})) if run else {},
        )
