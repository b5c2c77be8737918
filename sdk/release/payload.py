"""A bundle or an adapter folder in; its manifest and files, each with size and digest, out. What a release ships.

A base is a bundle with its own manifest. An adapter is the three files of personalize.adapter.Adapter.save; its
manifest is made here and says which base it fits. Any other file beside them is refused: a person's own adapter carries
a privacy label and a history, and is not to be published by mistake.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.bundle import MANIFEST, Bundle, FileRecord, Manifest
from sdk.catalogue import BASE_DIGEST, Kind
from sdk.errors import BundleError, ReleaseError

__all__ = ["Payload", "files_of", "open_payload"]

ADAPTER_FORMAT = "adapter_bundle/1"
ADAPTER_FILES = ("adapter.json", "adapter_config.json", "adapter_model.safetensors")
MAX_JSON_BYTES = 256 * 1024  # An adapter's card and configuration have about 1 KB each.


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
    """A base or an adapter."""
    base_digest: str
    """Of the base that it is, or that the adapter fits."""
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
    folder: Path, *, name: str | None = None, version: str | None = None, licence: str = "", origin: str = ""
) -> Payload:
    """Open a bundle, reading every byte; or an adapter folder, which has no name and version of its own.

    Args:
        folder: A bundle, or what Adapter.save wrote.
        name: Product name of an adapter.
        version: Version of an adapter.
        licence: SPDX identifier of an adapter's licence.
        origin: Where an adapter was learned.

    Raises:
        BundleError: The bundle is damaged, or has a file too many or too few.
        ReleaseError: The adapter folder is not complete, holds more than an adapter, or is not named.
    """
    if (folder / MANIFEST).exists() or not (folder / "adapter.json").exists():
        bundle = Bundle.open(folder, verify="digests")
        if bundle.manifest.to_json() != (folder / MANIFEST).read_bytes():
            raise ReleaseError(f"{folder / MANIFEST} is not as limbeck writes it; build the bundle again")
        return Payload(
            folder=folder,
            name=bundle.manifest.name,
            version=bundle.manifest.version,
            kind="base",
            base_digest=bundle.base_digest,
            manifest=(folder / MANIFEST).read_bytes(),
            files=bundle.manifest.files,
        )
    if not (name and version and licence and origin):
        raise ReleaseError("an adapter needs --name, --version, --licence and --origin; its folder does not say them")
    return _adapter(folder, {"name": name, "version": version, "licence": licence, "origin": origin})


def files_of(manifest: bytes) -> Mapping[str, FileRecord]:
    """The files that a published manifest names, of either kind.

    Raises:
        BundleError: It is malformed or of another format.
    """
    try:
        fields = json.loads(manifest)
        if fields.get("format") != ADAPTER_FORMAT:
            return Manifest.parse(manifest).files
        return {path: FileRecord(sha256=each["sha256"], bytes=each["bytes"]) for path, each in fields["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as cause:
        raise BundleError(f"a published manifest is malformed ({cause})") from cause


def _adapter(folder: Path, said: dict[str, str]) -> Payload:
    try:
        found = sorted(path.name for path in folder.iterdir())
        if found != list(ADAPTER_FILES) or any((folder / name).is_symlink() for name in found):
            more = sorted(set(found) ^ set(ADAPTER_FILES))
            raise ReleaseError(
                f"{folder} is not exactly the three files of an adapter (look at {', '.join(more) or 'its links'}); "
                "a person's own adapter is never published"
            )
        records = {}
        for name in ADAPTER_FILES:
            with (folder / name).open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
            records[name] = FileRecord(sha256=digest, bytes=(folder / name).stat().st_size)
        fits = _card(folder / "adapter.json").get("fits_base")
    except OSError as cause:
        raise ReleaseError(f"adapter {folder} cannot be read: {cause.strerror}; check its permissions") from cause
    if not isinstance(fits, str) or not BASE_DIGEST.fullmatch(fits):
        raise ReleaseError(f"{folder}/adapter.json does not say which base it fits; save the adapter again")
    manifest = {
        "format": ADAPTER_FORMAT,
        **said,
        "base_digest": fits,
        "files": {name: {"sha256": record.sha256, "bytes": record.bytes} for name, record in records.items()},
    }
    return Payload(
        folder=folder,
        name=said["name"],
        version=said["version"],
        kind="adapter",
        base_digest=fits,
        manifest=(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode(),
        files=records,
    )


def _card(file: Path) -> dict[str, Any]:
    if file.stat().st_size > MAX_JSON_BYTES:
        raise ReleaseError(f"{file} is over {MAX_JSON_BYTES} bytes; it is no adapter's card")
    try:
        card = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as cause:
        raise ReleaseError(f"{file} is not JSON ({cause}); save the adapter again") from cause
    return card if isinstance(card, dict) else {}
