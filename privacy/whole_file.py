"""A path and its content in; that file on the disk, whole or not at all, readable by its owner only."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from privacy.errors import ReportError

__all__ = ["write_whole"]


def write_whole(path: Path, content: str) -> None:
    """Write `content` to `path` in one step that a crash cannot halve; an older file is replaced.

    Raises:
        ReportError: No room, no right or no folder; an older file stays as it was.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
        beside = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content.encode())
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as cause:
        raise ReportError(f"cannot write {path}: {cause.strerror or cause}; choose another place") from cause
