"""A path in; the text of one ordinary, not too large UTF-8 file out, or one line that says why not."""

import stat
from pathlib import Path

from personalize.errors import SourceError

__all__ = ["MAX_FILE_BYTES", "checked", "read_text"]

MAX_FILE_BYTES = 20_000_000  # About 5 million tokens: years of one person's writing; more would fill a phone's memory.
MEGABYTE = 1_000_000


def checked(path: Path) -> bytes:
    """Return the bytes of the file at `path`.

    Raises:
        SourceError: It is missing, no ordinary file, empty, too large, unreadable, or binary.
    """
    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise SourceError(f"{path} is a folder; give a file in it")
        if not stat.S_ISREG(info.st_mode):
            raise SourceError(f"{path} is not an ordinary file; save its text in a file and give that")
        if info.st_size > MAX_FILE_BYTES:
            raise SourceError(
                f"{path} has {info.st_size / MEGABYTE:,.1f} MB, more than {MAX_FILE_BYTES / MEGABYTE:.0f} MB;"
                " give its newest part, or split it and remember one part at a time"
            )
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)  # Some files do not know their size, or grow.
    except (FileNotFoundError, NotADirectoryError) as cause:
        raise SourceError(f"there is no file {path}; check the path") from cause
    except (OSError, ValueError) as cause:  # ValueError: a null character in the path.
        reason = getattr(cause, "strerror", None) or cause
        raise SourceError(f"cannot read {path}: {reason}; check the path and your rights") from cause
    if len(content) > MAX_FILE_BYTES:
        raise SourceError(f"{path} has more than {MAX_FILE_BYTES / MEGABYTE:.0f} MB; split it, remember part by part")
    if not content.strip():
        raise SourceError(f"{path} is empty: {len(content)} bytes and no text; give a file with text")
    if b"\0" in content:
        raise SourceError(f"{path} is binary: null byte at offset {content.index(0):,}; save it as UTF-8 text")
    return content


def read_text(path: Path) -> str:
    """Return the text of the file at `path`; a byte order mark is dropped.

    Raises:
        SourceError: As `checked`, or it is not UTF-8.
    """
    try:
        return checked(path).decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        raise SourceError(f"{path} is not UTF-8: bad byte at offset {cause.start:,}; save it as UTF-8 text") from cause
