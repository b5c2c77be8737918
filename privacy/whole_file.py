"""A path and its content in; that file on the disk, whole or not at all, readable by its owner only."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from privacy.errors import ReportError

__all__ = ["replace_whole", "write_whole"]


def write_whole(path: Path, content: str) -> None:
    """Write `content` to `path` in one step that a crash cannot halve; an older file is replaced.

    Raises:
        ReportError: No room, no right or no folder; an older file stays as it was.
    """
    try:
        replace_whole(path, content.encode())
    except OSError as cause:
        raise ReportError(f"cannot write {path}: {cause.strerror or cause}; choose another place") from cause


def replace_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` as `write_whole` does, for those who have an error of their own to raise.

    Raises:
        OSError: No room, no right or no folder; an older file stays as it was.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")  # Mode 0600.
    beside = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
