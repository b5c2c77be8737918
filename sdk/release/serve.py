"""Files and metadata in, the folder that a static server serves out: each whole, synced, readable for the server."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, TargetFile

from sdk.catalogue import CHANNELS
from sdk.errors import RepositoryError
from sdk.release.repository import Repository
from sdk.release.roles import View

__all__ = ["arriving_files", "move_in", "put_metadata"]


def arriving_files(repository: Repository, after: View, published: View) -> Iterator[tuple[Path, Path]]:
    """Every listed file that is not served yet: where it is, and where it will be served.

    Raises:
        RepositoryError: One is missing or damaged.
    """
    for channel in CHANNELS:
        served_before = published[channel].signed.targets if published else {}
        for path, target in after[channel].signed.targets.items():
            served = repository.targets / target.get_prefixed_paths()[0]
            if served.exists():
                if path not in served_before or served.stat().st_size != target.length:
                    _check_file(served, target)
                continue
            source = repository.incoming / channel / target.hashes["sha256"]
            _check_file(source, target)
            yield source, served


def _check_file(file: Path, target: TargetFile) -> None:
    try:
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
            size = os.fstat(content.fileno()).st_size
    except OSError as cause:
        raise RepositoryError(
            f"the file {target.path} is not here ({cause.strerror}); the folder is half copied, add the bundle again"
        ) from cause
    if (size, digest) != (target.length, target.hashes["sha256"]):
        raise RepositoryError(f"the file {target.path} is damaged in {file.parent}; delete it and add the bundle again")


def move_in(source: Path, served: Path) -> None:
    """Put a file where it is served, in one step."""
    served.parent.mkdir(parents=True, exist_ok=True)
    source.chmod(0o644)
    with source.open("rb") as content:
        os.fsync(content.fileno())
    source.replace(served)
    _sync_folder(served.parent)


def put_metadata(file: Path, metadata: Metadata[Any]) -> None:
    """Write metadata for a server that runs as somebody else: readable by all, whole, synced."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=".")
    beside = Path(name)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(metadata.to_bytes())
            out.flush()
            os.fchmod(out.fileno(), 0o644)
            os.fsync(out.fileno())
        beside.replace(file)
        _sync_folder(file.parent)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
