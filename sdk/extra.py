"""What goes with a base and is released apart from it, as a manifest: an adapter, a pack, probes or a router.

    adapter   corrections of the base for one kind of answers: what personalize.adapter.Adapter.save writes
    pack      what public people taught of one kind of text: what personalize.pack.DomainPack.save writes
    probes    more public items for the retention gate
    router    when to hand a question to a larger model

An extra fits one base, whose digest its manifest names. It holds exactly the files of its kind, by these names and no
others, so nothing that a manifest says can leave a folder or be code.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from sdk.bundle import FileRecord
from sdk.catalogue import BASE_DIGEST, DIGEST, ExtraKind
from sdk.errors import BundleError

__all__ = ["FILES", "MAX_MANIFEST_BYTES", "ExtraManifest", "check_folder"]

FORMAT = "extra/1"
EARLIER_FORMAT = "adapter_bundle/1"  # Of adapters only; it had no kind.
MAX_MANIFEST_BYTES = 64 * 1024  # Refused before it is fetched: a manifest of five files has about 1 KB.
_ADAPTER = ("adapter.json", "adapter_config.json", "adapter_model.safetensors")
FILES: Mapping[ExtraKind, tuple[str, ...]] = {
    "adapter": _ADAPTER,
    "pack": ("basis.json", "basis.safetensors", *(f"start/{name}" for name in _ADAPTER)),
    "probes": ("probes.jsonl",),
    "router": ("router.json",),
}
"""The files of each kind, sorted."""
SHORT_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")  # An adapter's product names a line of adapters.


@dataclass(frozen=True, kw_only=True)
class ExtraManifest:
    """What an extra is, where it comes from, and what it holds."""

    name: str
    """The product: 1 to 32 small letters, digits and hyphens, as adapters and packs are called on a device."""
    version: str
    """Version of it; another content has another version."""
    kind: ExtraKind
    """What it is."""
    licence: str
    """SPDX identifier."""
    origin: str
    """What it was learned or made from."""
    base_digest: str
    """The base that it fits, `sha256:…`."""
    files: Mapping[str, FileRecord]
    """Exactly the files of its kind."""

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, 64 hex digits: what a release calls it by."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def to_json(self) -> bytes:
        """The manifest as it stands on disk and as it is signed."""
        fields = {
            "format": FORMAT,
            **{key: getattr(self, key) for key in ("name", "version", "kind", "licence", "origin", "base_digest")},
            "files": {path: {"sha256": each.sha256, "bytes": each.bytes} for path, each in sorted(self.files.items())},
        }
        return (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode()

    @classmethod
    def parse(cls, content: bytes) -> "ExtraManifest":
        """Read a manifest, or refuse it.

        Raises:
            BundleError: Not JSON, another format, a field that is missing, or other files than those of its kind.
        """
        try:
            fields = json.loads(content)
            form = fields["format"]
            if form not in (FORMAT, EARLIER_FORMAT):
                raise BundleError(
                    f"extra format {form!r:.40} is unknown here (this version reads {FORMAT!r}); update limbeck"
                )
            kind = "adapter" if form == EARLIER_FORMAT else fields["kind"]
            files = {path: _record(each) for path, each in fields["files"].items()}
            texts = {key: _text(fields[key], key) for key in ("name", "version", "licence", "origin")}
            base_digest = fields["base_digest"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as cause:
            raise BundleError(f"the manifest of an extra is malformed ({cause!r:.80})") from cause
        if kind not in FILES or tuple(sorted(files)) != FILES[cast(ExtraKind, kind)]:
            raise BundleError(f"a {kind!s:.20} does not hold {', '.join(sorted(files))!r:.200}; nothing was loaded")
        if not isinstance(base_digest, str) or not BASE_DIGEST.fullmatch(base_digest):
            raise BundleError("the manifest of an extra does not say which base it fits")
        return cls(**texts, kind=cast(ExtraKind, kind), base_digest=base_digest, files=MappingProxyType(files))


def check_folder(folder: Path, manifest: ExtraManifest) -> None:
    """Compare every byte of an extra's folder with its manifest.

    Raises:
        BundleError: A file is missing, is a link, or has another size or content.
    """
    for path, record in manifest.files.items():
        file = folder / path
        try:
            if file.is_symlink() or not file.is_file() or file.stat().st_size != record.bytes:
                raise BundleError(f"{path} in {folder.name} is missing, a link or of another size; install it again")
            with file.open("rb") as content:
                if hashlib.file_digest(content, "sha256").hexdigest() != record.sha256:
                    raise BundleError(f"{path} in {folder.name} does not match its digest; install it again")
        except OSError as cause:
            raise BundleError(f"{path} in {folder.name} cannot be read ({cause.strerror}); install it again") from cause


def _record(each: Any) -> FileRecord:
    match each:
        case {"sha256": str(sha256), "bytes": int(size)} if (
            type(size) is int and size >= 0 and DIGEST.fullmatch(sha256)
        ):
            return FileRecord(sha256=sha256, bytes=size)
    raise ValueError("an entry of files")


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value or len(value) > 1_000 or not value.isprintable():
        raise ValueError(key)
    if key == "name" and not SHORT_NAME.fullmatch(value):
        raise ValueError(f"{value[:40]} is no name for an extra: 1 to 32 small letters, digits and hyphens")
    return value
