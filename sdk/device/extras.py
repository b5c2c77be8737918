"""A home and a base in, the extras that are installed for it out; and the single steps by which that changes.

    extras/index.json       what is installed of each product for each base, what failed (format extras/1)
    extras/SHA256/          an extra: manifest.json and its files, under the SHA-256 of its manifest
    extras/SHA256.fitted/   what this person's gate admitted of an adapter, until it is in use
    extras/downloads/       files by SHA-256, and `.part` files

Rules:
    1. An extra is written beside its place, synced, read back, and appears by one rename. It never changes.
    2. `index.json` is replaced in one step. What it does not name counts for nothing and is swept.
    3. An extra counts only for the base that it fits: after an update of the base another one is looked for, and a
       rollback of the base brings back what went with it.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sdk.catalogue import ExtraKind
from sdk.device.disk import Disk, stated
from sdk.errors import BundleError, SlotError
from sdk.extra import ExtraManifest, check_folder

__all__ = ["Extra", "Extras", "Installed"]

FORMAT = "extras/1"
MANIFEST = "manifest.json"
KEPT = 2  # Of a product for one base: what is in use, and what was before.


@dataclass(frozen=True, kw_only=True)
class Installed:
    """A release of a product that stands in the home."""

    manifest: str
    """SHA-256 of its manifest."""
    version: str
    """Its version, as people say it."""
    sequence: int
    """Its place in the order of versions."""


@dataclass(frozen=True, kw_only=True)
class Extra:
    """An extra in use, every byte of it compared with its manifest."""

    manifest: ExtraManifest
    """What it is."""
    folder: Path
    """Where its files stand."""


class Extras:
    """The extras of one home; hold `Slots.alone` for all that changes them."""

    def __init__(self, home: Path, disk: Disk | None = None) -> None:
        """Look at a home that may have none yet; nothing is written.

        Args:
            home: Its folder.
            disk: Through which they are changed.
        """
        self.folder, self.disk = home / "extras", disk or Disk()
        self.downloads = self.folder / "downloads"

    # --- what is in use -------------------------------------------------------------------------------------------

    def in_use(self, kind: ExtraKind, base_digest: str) -> Iterator[Extra]:
        """Extras of a kind that fit a base, by their names.

        Raises:
            SlotError: One is damaged: it would decide where a person begins or what is admitted.
        """
        for name in self.products():
            line = self.line(name, base_digest)
            if line and self.kind(name) == kind:
                yield self._opened(name, line[-1])

    def packs(self, base_digest: str) -> dict[str, Path]:
        """Installed packs that fit a base: name to folder, as Bundle.packs; errors as `in_use`."""
        return {extra.manifest.name: extra.folder for extra in self.in_use("pack", base_digest)}

    def probes(self, base_digest: str) -> list[dict[str, Any]]:
        """Probe items that are asked beside those of the base; errors as `in_use`."""
        files = [extra.folder / "probes.jsonl" for extra in self.in_use("probes", base_digest)]
        return [json.loads(line) for file in files for line in file.read_bytes().splitlines() if line.strip()]

    def router(self, base_digest: str) -> Path | None:
        """The installed router.json for a base, which goes before that of its bundle; errors as `in_use`."""
        return next((extra.folder / "router.json" for extra in self.in_use("router", base_digest)), None)

    def products(self) -> list[str]:
        """Names of all that were installed and not forgotten, also those that wait for a release for this base."""
        return sorted(self.index()["products"])

    def kind(self, name: str) -> ExtraKind | None:
        """Kind of a product; None where it is not known here."""
        product = self.index()["products"].get(name)
        return product["kind"] if product else None

    def line(self, name: str, base_digest: str) -> list[Installed]:
        """What stands here of a product for a base, oldest first; the last is in use."""
        product = self.index()["products"].get(name) or {"for": {}}
        return [Installed(**each) for each in product["for"].get(base_digest, ())]

    def bases(self, name: str) -> list[str]:
        """Digests of the bases for which a product stands here."""
        return sorted((self.index()["products"].get(name) or {"for": {}})["for"])

    def index(self) -> dict[str, Any]:
        """What `index.json` says: `products`, `failed`, `trial`.

        Raises:
            SlotError: It is damaged or of a newer format.
        """
        path = self.folder / "index.json"
        if (fields := stated(path, FORMAT, else_do=f"remove {self.folder}, the base stays as it is")) is not None:
            return fields
        return {"format": FORMAT, "products": {}, "failed": {}}

    # --- how it changes -------------------------------------------------------------------------------------------

    def stage(self, content: bytes, files: Iterable[tuple[str, Iterable[bytes]]]) -> None:
        """Write an extra to its place: beside it, synced, read back, renamed.

        Args:
            content: Its manifest, checked.
            files: Every file with its pieces.

        Raises:
            SlotError: What was written reads back otherwise; nothing has that name.
        """
        manifest = ExtraManifest.parse(content)
        place = self.place(manifest.digest)
        fresh = place.with_name(f"{place.name}.new")
        for left in (fresh, place):
            self.disk.clear(left)
        self.disk.folder(fresh)
        for path, pieces in files:
            self.disk.folder((fresh / path).parent)
            self.disk.write(fresh / path, pieces)
        self.disk.write(fresh / MANIFEST, [content])
        self.disk.sync_all(fresh)
        try:
            check_folder(fresh, manifest)
        except BundleError as cause:
            raise SlotError(f"what was written of {manifest.name} reads back otherwise ({cause})") from cause
        self.disk.move(fresh, place)

    def whole(self, digest: str) -> bool:
        """Whether an extra stands here whole; every byte is read."""
        with suppress(BundleError, OSError):
            manifest = ExtraManifest.parse((self.place(digest) / MANIFEST).read_bytes())
            check_folder(self.place(digest), manifest)
            return manifest.digest == digest
        return False

    def put(self, name: str, kind: ExtraKind, base_digest: str, installed: Installed) -> None:
        """Put a release in use for a base, in one step; the one before is kept."""
        line = [each for each in self.line(name, base_digest) if each.manifest != installed.manifest]
        self._write_line(name, kind, base_digest, [*line, installed][-KEPT:])

    def drop(self, name: str, base_digest: str, digests: Collection[str]) -> None:
        """Take releases of a product out of use for a base; what was before is in use again."""
        kind = self.kind(name)
        if kind:
            left = [each for each in self.line(name, base_digest) if each.manifest not in digests]
            self._write_line(name, kind, base_digest, left)

    def fail(self, name: str, digest: str, version: str, why: str, at: datetime) -> None:
        """Remember that a release is not to be tried again."""
        entry = {"product": name, "version": version, "why": why, "at": at.isoformat(timespec="seconds")}
        self.update(failed=self.index()["failed"] | {digest: entry}, trial=None)

    def forget(self, name: str) -> None:
        """Take a product out of use for every base, and look for it no more."""
        self.update(products={key: each for key, each in self.index()["products"].items() if key != name})

    def update(self, **changes: Any) -> None:
        """Write changes over the index in one step."""
        self.disk.folder(self.folder)
        self.disk.put(self.folder / "index.json", json.dumps(self.index() | changes, indent=1).encode())

    def sweep(self, bases: Collection[str], *, staged: Collection[str] = (), older: bool = True) -> None:
        """Remove what no base needs any more, and what the index does not name.

        Args:
            bases: Digests of the bases that a person can come back to.
            staged: Manifests of what is on its way.
            older: Whether the release before the one in use is kept.
        """
        if not self.folder.exists():
            return
        products = {}
        for name, product in self.index()["products"].items():
            lines = {base: line if older else line[-1:] for base, line in product["for"].items() if base in bases}
            products[name] = product | {"for": lines}
        if products != self.index()["products"]:
            self.update(products=products)
        named = {each["manifest"] for product in products.values() for line in product["for"].values() for each in line}
        for place in sorted(self.folder.iterdir()):
            digest = place.name.partition(".")[0]
            if place.is_dir() and place != self.downloads and digest not in {*named, *staged}:
                self.disk.clear(place)

    def place(self, digest: str) -> Path:
        """Where the extra with this manifest stands."""
        return self.folder / digest

    def fitted(self, digest: str) -> Path:
        """Where what the gate admitted of an adapter waits."""
        return self.folder / f"{digest}.fitted"

    def _write_line(self, name: str, kind: ExtraKind, base_digest: str, line: list[Installed]) -> None:
        products: Mapping[str, Any] = self.index()["products"]
        lines = dict((products.get(name) or {"for": {}})["for"]) | {base_digest: [asdict(each) for each in line]}
        lines = {base: each for base, each in lines.items() if each}
        others = {key: each for key, each in products.items() if key != name}
        self.update(products=others | {name: {"kind": kind, "for": lines}})

    def _opened(self, name: str, installed: Installed) -> Extra:
        place = self.place(installed.manifest)
        try:
            manifest = ExtraManifest.parse((place / MANIFEST).read_bytes())
            check_folder(place, manifest)
        except (BundleError, OSError) as cause:
            raise SlotError(
                f"{name} {installed.version} is damaged ({cause}); `limbeck device remove {name}`, then install it"
            ) from cause
        return Extra(manifest=manifest, folder=place)
