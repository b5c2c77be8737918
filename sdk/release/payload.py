"""A bundle, or the folder or file of an extra, in; its manifest and files, each with size and digest, out.

A base is a bundle with its own manifest. An extra is exactly the files of its kind (sdk.extra), by which it is known;
its manifest is made here and says which base it fits. Any other file beside them is refused: a person's own adapter
carries a privacy label and a history, and is not to be published by mistake.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.bundle import MANIFEST, Bundle, FileRecord, Manifest
from sdk.catalogue import BASE_DIGEST, ExtraKind, Kind
from sdk.errors import BundleError, ReleaseError
from sdk.extra import EARLIER_FORMAT, FILES, FORMAT, ExtraManifest

__all__ = ["Payload", "files_of", "open_payload"]

MAX_JSON_BYTES = 256 * 1024  # An adapter's card has about 1 KB.
CARDS: Mapping[ExtraKind, tuple[str, str]] = {
    "adapter": ("adapter.json", "fits_base"),
    "pack": ("start/adapter.json", "fits_base"),
    "router": ("router.json", "base_digest"),
}
"""Where an extra says itself which base it fits: file and key."""


@dataclass(frozen=True, kw_only=True)
class Payload:
    """Everything of one version that devices get."""

    folder: Path
    """Where its files stand."""
    name: str
    """Product."""
    version: str
    """Version, as people say it."""
    kind: Kind
    """A base, or the kind of an extra."""
    base_digest: str
    """Of the base that it is, or that the extra fits."""
    manifest: bytes
    """Content of manifest.json."""
    files: Mapping[str, FileRecord]
    """All files but the manifest, by their path in the folder."""

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, 64 hex digits: what tells this version from every other."""
        return hashlib.sha256(self.manifest).hexdigest()

    @property
    def bytes(self) -> int:
        """Size of everything together."""
        return len(self.manifest) + sum(record.bytes for record in self.files.values())


def open_payload(
    place: Path,
    *,
    name: str | None = None,
    version: str | None = None,
    licence: str = "",
    origin: str = "",
    for_base: Bundle | None = None,
) -> Payload:
    """Open a bundle, or an extra, which has no name and version of its own; every byte is read.

    Args:
        place: Folder of a bundle, an adapter or a pack; or a file, probes.jsonl or router.json.
        name: Product name of an extra.
        version: Version of an extra.
        licence: SPDX identifier of an extra's licence.
        origin: What an extra was learned or made from.
        for_base: The base that an extra fits, where its files do not say it; else compared with what they say.

    Raises:
        BundleError: The bundle is damaged, or has a file too many or too few.
        ReleaseError: The extra is not complete, holds more than its kind, is not named, or fits another base.
    """
    kind = _kind(place)
    if kind is None:
        bundle = Bundle.open(place, verify="digests")
        if bundle.manifest.to_json() != (place / MANIFEST).read_bytes():
            raise ReleaseError(f"{place / MANIFEST} is not as limbeck writes it; build the bundle again")
        return Payload(
            folder=place,
            name=bundle.manifest.name,
            version=bundle.manifest.version,
            kind="base",
            base_digest=bundle.base_digest,
            manifest=(place / MANIFEST).read_bytes(),
            files=bundle.manifest.files,
        )
    if not (name and version and licence and origin):
        raise ReleaseError(f"the {kind} needs --name, --version, --licence and --origin; its files do not say them")
    said = {"name": name, "version": version, "licence": licence, "origin": origin}
    return _extra(place, kind, said, for_base)


def files_of(manifest: bytes) -> Mapping[str, FileRecord]:
    """The files that a published manifest names, of a base or an extra.

    Raises:
        BundleError: It is malformed or of another format.
    """
    try:
        form = json.loads(manifest).get("format")
    except (ValueError, AttributeError, RecursionError) as cause:
        raise BundleError(f"a published manifest is malformed ({cause})") from cause
    if form in (FORMAT, EARLIER_FORMAT):
        return ExtraManifest.parse(manifest).files
    return Manifest.parse(manifest).files


def _kind(place: Path) -> ExtraKind | None:
    """What a folder or a file looks like; None: a bundle, or nothing that is known."""
    if (place / MANIFEST).exists():
        return None
    for kind, names in FILES.items():
        if place.name == names[0] and place.is_file() and len(names) == 1:
            return kind
        if place.is_dir() and (place / names[0]).is_file():
            return kind
    return None


def _extra(place: Path, kind: ExtraKind, said: Mapping[str, str], for_base: Bundle | None) -> Payload:
    folder = place if place.is_dir() else place.parent
    try:
        found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
        wanted = list(FILES[kind])
        if (place.is_dir() and found != wanted) or any((folder / name).is_symlink() for name in wanted):
            more = sorted(set(found) ^ set(wanted))
            raise ReleaseError(
                f"{folder} is not exactly the {len(wanted)} files of one {kind} (look at "
                f"{', '.join(more[:5]) or 'its links'}); a person's own adapter is never published"
            )
        records = {}
        for name in wanted:
            with (folder / name).open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
            records[name] = FileRecord(sha256=digest, bytes=(folder / name).stat().st_size)
        manifest = ExtraManifest(**said, kind=kind, base_digest=_fits(folder, kind, for_base), files=records)
        ExtraManifest.parse(manifest.to_json())  # As devices will read it.
    except OSError as cause:
        raise ReleaseError(f"{kind} {folder} cannot be read: {cause.strerror}; check its permissions") from cause
    except BundleError as cause:
        raise ReleaseError(f"no device would read this {kind}: {cause}") from cause
    return Payload(
        folder=folder,
        name=manifest.name,
        version=manifest.version,
        kind=kind,
        base_digest=manifest.base_digest,
        manifest=manifest.to_json(),
        files=records,
    )


def _fits(folder: Path, kind: ExtraKind, for_base: Bundle | None) -> str:
    """Digest of the base that an extra fits: what its own files say, or the given base."""
    given = for_base.base_digest if for_base else None
    file, key = CARDS.get(kind, ("", ""))
    own = _card(folder / file).get(key) if file else None
    if own is not None and (not isinstance(own, str) or not BASE_DIGEST.fullmatch(own)):
        raise ReleaseError(f"{folder / file} does not say which base it fits; make the {kind} again")
    if own and given and own != given:
        raise ReleaseError(
            f"the {kind} was made for base {own[7:19]}…, --for-base is {given[7:19]}…; no device would take it"
        )
    if fits := own or given:
        return str(fits)
    if kind in ("adapter", "pack"):
        raise ReleaseError(f"{folder / file} does not say which base it fits; save the {kind} again")
    raise ReleaseError(f"the {kind} does not say which base it fits; give --for-base BUNDLE")


def _card(file: Path) -> dict[str, Any]:
    if file.stat().st_size > MAX_JSON_BYTES:
        raise ReleaseError(f"{file} is over {MAX_JSON_BYTES} bytes; it is no card")
    try:
        card = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as cause:
        raise ReleaseError(f"{file} is not JSON ({cause}); make it again") from cause
    return card if isinstance(card, dict) else {}
