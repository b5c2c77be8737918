"""A model folder in, a manifest with digests out; a manifest in, a checked bundle out.

Rules: a bundle is a folder whose manifest.json names every file with its size and digest. It is written once, manifest
last, and never changed. Opening refuses, before anything is parsed by a model library:

(1) a manifest that is missing, over MAX_MANIFEST_BYTES, not JSON, or of another format;
(2) a file name that leaves the folder or has a suffix outside SAFE_SUFFIXES (so no pickle, ever);
(3) a symlink or any other special file in the folder;
(4) a file that is missing or that the manifest does not name;
(5) a file whose size, or with verify="digests" whose SHA-256, differs;
(6) a base digest that does not follow from the digests of the files it covers.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Literal

import platformdirs

from sdk.errors import BundleError, NoBaseError

__all__ = [
    "BASE_FILES",
    "FORMAT",
    "Bundle",
    "FileRecord",
    "Manifest",
    "cache_folder",
    "checkpoint_digest",
    "default_bundle",
    "write_manifest",
]

FORMAT = "bundle/1"
MANIFEST = "manifest.json"
CHECKPOINT = "checkpoint"
BASIS = "basis"  # Holds a folder for each kind of text that public people taught something of.
PROBES = "probes.jsonl"
REHEARSAL = "rehearsal.jsonl"

SHIPPED = Path(__file__).parent / "base"  # The student that an installation may carry.

INSTALLED = "current/base"  # In a home: `current` points to the active slot.

MAX_MANIFEST_BYTES = 256 * 1024  # Refused before parsing: a manifest is a few KB even with a compiled model inside.
MAX_LINES_FILE_BYTES = 64 * 1024 * 1024  # Probes and rehearsal are read whole; ours are under 1 MB.
HASH_CHUNK_BYTES = 1024 * 1024  # Bounds the memory of a digest; weights are hundreds of MB.

BASE_FILES = (f"{CHECKPOINT}/config.json", f"{CHECKPOINT}/model.safetensors", f"{CHECKPOINT}/tokenizer.json")
"""What an adapter depends on: shapes, weights, and how text becomes numbers."""

SAFE_SUFFIXES = frozenset({".json", ".jsonl", ".safetensors", ".jinja", ".md", ".txt"})
COMPILED_SUFFIXES = frozenset({".bin", ".mlmodel"})  # Raw arrays and protobuf; only inside a *.mlpackage folder.


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """One file of a bundle as the manifest states it."""

    sha256: str
    """SHA-256 of the content, 64 hex digits."""
    bytes: int
    """Size in bytes."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle is, where its weights come from, and what it holds."""

    name: str
    """Name of the bundle, such as smollm2-135m-instruct."""
    version: str
    """Version of this bundle under that name; another content has another version."""
    base_id: str
    """Public name of the base model."""
    licence: str
    """SPDX identifier of the licence of the weights."""
    origin: str
    """Where the weights were taken from: package and version, or address."""
    files: Mapping[str, FileRecord]
    """Every file but the manifest, by its path inside the folder (POSIX, relative)."""

    @property
    def base_digest(self) -> str:
        """Digest over BASE_FILES, "sha256:…": an adapter fits a base exactly when these agree."""
        return _over_files({path: self.files[path].sha256 for path in BASE_FILES})

    @property
    def digest(self) -> str:
        """Digest of the whole bundle, "sha256:…": that of the manifest, which holds those of all files."""
        return "sha256:" + hashlib.sha256(self.to_json()).hexdigest()

    def to_json(self) -> bytes:
        """The manifest as it stands on disk: UTF-8 JSON, keys in a fixed order, one final newline."""
        fields = {
            "format": FORMAT,
            "name": self.name,
            "version": self.version,
            "base_id": self.base_id,
            "licence": self.licence,
            "origin": self.origin,
            "base_digest": self.base_digest,
            "files": {
                path: {"sha256": self.files[path].sha256, "bytes": self.files[path].bytes}
                for path in sorted(self.files)
            },
        }
        return (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode()

    @classmethod
    def parse(cls, content: bytes) -> "Manifest":
        """Read a manifest, or refuse it.

        Raises:
            BundleError: Checks (1), (2) and (6) of this module.
        """
        fields = _parse_json_object(content)
        if fields.get("format") != FORMAT:
            raise BundleError(
                f"bundle format {fields.get('format')!r} is unknown here (this version reads {FORMAT!r}); "
                "update limbeck or rebuild with `limbeck build base --rebuild`"
            )
        texts = {key: _text(fields, key) for key in ("name", "version", "base_id", "licence", "origin")}
        manifest = cls(**texts, files=MappingProxyType(_parse_files(fields.get("files"))))
        for path in BASE_FILES:
            if path not in manifest.files:
                raise BundleError(f"manifest does not name {path}; the bundle has no complete checkpoint")
        if fields.get("base_digest") != manifest.base_digest:
            raise BundleError("manifest's base digest does not follow from its files; the bundle was altered")
        return manifest


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A checked bundle folder; made by Bundle.open and write_manifest only."""

    folder: Path
    """Where the bundle stands."""
    manifest: Manifest
    """What it holds."""

    @classmethod
    def open(cls, folder: Path, *, verify: Literal["sizes", "digests"] = "sizes") -> "Bundle":
        """Open the bundle in `folder`, or refuse it.

        Args:
            folder: The bundle's folder.
            verify: "sizes" compares names and sizes (milliseconds); "digests" reads every byte as well.

        Raises:
            BundleError: One of the checks that the module's docstring lists.
        """
        manifest_file = folder / MANIFEST
        try:
            if not _is_regular_file(manifest_file):
                raise BundleError(f"{folder} is not a bundle: it has no {MANIFEST}; make one with `limbeck build base`")
            if manifest_file.stat().st_size > MAX_MANIFEST_BYTES:
                raise BundleError(f"{manifest_file} is over {MAX_MANIFEST_BYTES} bytes; the bundle is damaged")
            bundle = cls(folder=folder, manifest=Manifest.parse(manifest_file.read_bytes()))
            bundle._compare(digests=verify == "digests")
        except OSError as cause:
            raise BundleError(f"bundle {folder} cannot be read: {cause.strerror}; check its permissions") from cause
        return bundle

    @property
    def checkpoint(self) -> Path:
        """Folder of the Hugging Face checkpoint: config, safetensors, tokenizer."""
        return self.folder / CHECKPOINT

    @property
    def base_digest(self) -> str:
        """Digest that an adapter must carry to fit this base."""
        return self.manifest.base_digest

    def probes(self) -> list[dict[str, Any]]:
        """Public probes of the retention gate, one object an item."""
        return self._lines(PROBES)

    def rehearsal(self) -> list[dict[str, Any]]:
        """Public rehearsal examples, one object an item."""
        return self._lines(REHEARSAL)

    def require_intact(self, path: str) -> None:
        """Read a file that something is about to be decided by, and compare its digest.

        Raises:
            BundleError: It is not in the manifest, or is not the file that the manifest names.
        """
        record = self.manifest.files.get(path)
        if record is None or _sha256(self.folder / path) != record.sha256:
            raise BundleError(f"{path} does not match its digest in the manifest; get the bundle {self.folder} again")

    def packs(self) -> dict[str, Path]:
        """Kinds of text that public people taught something of: name to the folder of a personalize.pack.DomainPack.

        Raises:
            BundleError: A file of a pack differs from its digest: it would decide where every person begins.
        """
        found = {}
        for path, record in self.manifest.files.items():
            parts = path.split("/")
            if parts[0] == BASIS and len(parts) > 2:
                if _sha256(self.folder / path) != record.sha256:
                    raise BundleError(f"{path} does not match its digest; learn it again with `limbeck build basis`")
                found[parts[1]] = self.folder / BASIS / parts[1]
        return found

    def _compare(self, *, digests: bool) -> None:
        found = dict(_walk(self.folder))
        named = self.manifest.files
        for path in sorted(named.keys() | (found.keys() - {MANIFEST})):
            if path not in found:
                raise BundleError(f"{path} is missing from {self.folder}; rebuild with `limbeck build base --rebuild`")
            if path not in named:
                raise BundleError(f"{path} in {self.folder} is not named by the manifest; remove it or rebuild")
            if found[path] != named[path].bytes:
                raise BundleError(
                    f"{path} has {found[path]} bytes, the manifest says {named[path].bytes}; "
                    "rebuild with `limbeck build base --rebuild`"
                )
            if digests and _sha256(self.folder / path) != named[path].sha256:
                raise BundleError(f"{path} does not match its digest; rebuild with `limbeck build base --rebuild`")

    def _lines(self, path: str) -> list[dict[str, Any]]:
        """Parse a JSONL file of the bundle, digest first: the gate decides by what stands in it."""
        if path not in self.manifest.files:
            raise BundleError(f"{self.folder} has no {path}; rebuild with `limbeck build base --rebuild`")
        if self.manifest.files[path].bytes > MAX_LINES_FILE_BYTES:
            raise BundleError(f"{path} is over {MAX_LINES_FILE_BYTES} bytes; the bundle is damaged")
        content = (self.folder / path).read_bytes()
        if hashlib.sha256(content).hexdigest() != self.manifest.files[path].sha256:
            raise BundleError(f"{path} does not match its digest; rebuild with `limbeck build base --rebuild`")
        return [_parse_json_object(line) for line in content.splitlines() if line.strip()]


def write_manifest(folder: Path, *, name: str, version: str, base_id: str, licence: str, origin: str) -> Bundle:
    """Turn a folder of model files into a bundle by writing its manifest, last and synced.

    Raises:
        BundleError: A file that a bundle may not hold, or no complete checkpoint; no manifest is written.
    """
    files = {
        path: FileRecord(sha256=_sha256(folder / path), bytes=size)
        for path, size in sorted(_walk(folder))
        if path != MANIFEST
    }
    for path in files:
        _check_name(path)
    for path in BASE_FILES:
        if path not in files:
            raise BundleError(f"{folder} has no {path}; a bundle needs a complete checkpoint")
    manifest = Manifest(
        name=name, version=version, base_id=base_id, licence=licence, origin=origin, files=MappingProxyType(files)
    )
    with (folder / MANIFEST).open("wb") as out:
        out.write(manifest.to_json())
        out.flush()
        os.fsync(out.fileno())
    return Bundle.open(folder)


def cache_folder() -> Path:
    """Folder for what can be built again: LIMBECK_CACHE, else the platform's cache folder."""
    chosen = os.environ.get("LIMBECK_CACHE")
    return Path(chosen) if chosen else platformdirs.user_cache_path("limbeck", appauthor=False)


def installed_bundle(home: Path | None = None) -> Bundle | None:
    """The bundle of the active slot of a home, where a signed update was installed; else None.

    Args:
        home: The home's folder; default: LIMBECK_HOME, else the user's data folder.

    Raises:
        BundleError: It is damaged.
    """
    chosen = home or os.environ.get("LIMBECK_HOME") or platformdirs.user_data_path("limbeck", appauthor=False)
    active = Path(chosen).expanduser() / INSTALLED
    # Resolved: who opened a bundle keeps it while an update lets `current` point elsewhere.
    return Bundle.open(active.resolve()) if (active / MANIFEST).exists() else None


def shipped_bundle() -> Bundle | None:
    """The bundle in the folder LIMBECK_BASE, else the shipped student; None where there is neither.

    Raises:
        BundleError: It is damaged, or LIMBECK_BASE names no bundle.
    """
    if chosen := os.environ.get("LIMBECK_BASE"):
        return Bundle.open(Path(chosen))
    return Bundle.open(SHIPPED) if (SHIPPED / MANIFEST).exists() else None


def factory_bundle() -> Bundle | None:
    """The base without any update: what `shipped_bundle` gives, else the one in the cache, else None.

    Raises:
        BundleError: It is damaged.
    """
    built = cache_folder() / "base"
    return shipped_bundle() or (Bundle.open(built) if (built / MANIFEST).exists() else None)


def chosen_bundle(home: Path | None = None) -> Bundle | None:
    """The bundle in the folder LIMBECK_BASE, else the installed update, else the shipped student; None without any.

    Args:
        home: Where updates are installed; see installed_bundle.

    Raises:
        BundleError: It is damaged, or LIMBECK_BASE names no bundle.
    """
    if os.environ.get("LIMBECK_BASE"):
        return shipped_bundle()
    return installed_bundle(home) or shipped_bundle()


def default_bundle(home: Path | None = None) -> Bundle:
    """What `chosen_bundle` gives, else the base built into the cache.

    Args:
        home: Where updates are installed; see installed_bundle.

    Raises:
        NoBaseError: None of them is there.
        BundleError: One is there and is damaged.
    """
    if bundle := chosen_bundle(home):
        return bundle
    built = cache_folder() / "base"
    if (built / MANIFEST).exists():
        return Bundle.open(built)
    raise NoBaseError(looked_in=built)


def _parse_json_object(content: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as cause:  # UnicodeDecodeError and JSONDecodeError are ValueErrors.
        raise BundleError(f"the bundle holds text that is not JSON ({cause}); it is damaged") from cause
    if not isinstance(fields, dict):
        raise BundleError(f"the bundle holds a JSON {type(fields).__name__} where an object belongs; it is damaged")
    return fields


def _text(fields: dict[str, Any], key: str) -> str:
    text = fields.get(key)
    if not isinstance(text, str) or not text:
        raise BundleError(f"manifest field {key!r} must be a text, got {text!r:.40}; the bundle is damaged")
    return text


def _parse_files(listed: Any) -> dict[str, FileRecord]:
    if not isinstance(listed, dict):
        raise BundleError("manifest field 'files' must be an object; the bundle is damaged")
    files = {}
    for path, record in listed.items():
        _check_name(path)
        match record:
            case {"sha256": str(sha256), "bytes": int(size)} if (
                len(record) == 2
                and type(size) is int
                and size >= 0
                and len(sha256) == 64
                and set(sha256) <= set("0123456789abcdef")
            ):
                files[path] = FileRecord(sha256=sha256, bytes=size)
            case _:
                raise BundleError(f"manifest entry of {path} is malformed; the bundle is damaged")
    return files


def _check_name(path: str) -> None:
    pure = PurePosixPath(path)
    if (
        pure.is_absolute()
        or str(pure) != path  # "a//b", "./a" and "a/" have a second spelling.
        or any(part in ("..", ".") or part.startswith(".") for part in pure.parts)
        or any(character in path for character in '\\:\0*?"<>|')
        or path == MANIFEST
    ):
        raise BundleError(f"file name {path!r} is not allowed in a bundle; nothing was loaded")
    compiled = any(part.endswith(".mlpackage") for part in pure.parts[:-1])
    if pure.suffix not in SAFE_SUFFIXES and not (compiled and pure.suffix in COMPILED_SUFFIXES):
        raise BundleError(f"file {path!r} is of a kind that a bundle never holds (pickle or code); nothing was loaded")


def _walk(folder: Path) -> Iterator[tuple[str, int]]:
    """Every file below `folder` as (POSIX path, bytes); refuses links and devices."""
    pending = [folder]
    while pending:
        with os.scandir(pending.pop()) as entries:
            listed = list(entries)
        for entry in listed:
            path = Path(entry.path)
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                pending.append(path)
            elif stat.S_ISREG(mode):
                yield path.relative_to(folder).as_posix(), entry.stat(follow_symlinks=False).st_size
            else:
                name = path.relative_to(folder).as_posix()
                raise BundleError(f"{name} in {folder} is a link or a special file; a bundle holds plain files only")


def _is_regular_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def checkpoint_digest(checkpoint: Path) -> str:
    """What Manifest.base_digest is for a bundle with this checkpoint, before there is one; missing files are left out.

    Raises:
        OSError: A file of it cannot be read.
    """
    files = {path: checkpoint / path.removeprefix(f"{CHECKPOINT}/") for path in BASE_FILES}
    return _over_files({path: _sha256(file) for path, file in files.items() if file.is_file()})


def _over_files(digests: Mapping[str, str]) -> str:
    """One digest over files and their own, in their order, "sha256:…"."""
    lines = "".join(f"{digest}  {path}\n" for path, digest in digests.items())
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while chunk := content.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
