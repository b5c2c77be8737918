"""Texts that a model wrote in, the same texts out until their writer is forgotten: one sealed file in the home.

Rules:
    1. The file is replaced in one step and synced, so it is always a whole one.
    2. What a private adapter wrote is derived from a person's records. It is sealed like them, and `drop` deletes it
       with the adapter that wrote it; the bytes it lay in are overwritten. (A disk that copies on write may keep old
       ones: sealed.)
    3. Texts are only appended. No text is ever changed, and none is ever made an anchor.
"""

import json
import os
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from personalize.cipher import Cipher
from personalize.errors import StoreError
from privacy.whole_file import replace_whole

__all__ = ["BY_BASE", "Written", "WrittenTexts"]

FORMAT = "written/1"
BY_BASE = "base"
"""The writer of a text that no adapter had a hand in: public."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """One text that a model wrote to a public prompt."""

    prompt: str
    """Public; empty for text without a prompt."""
    answer: str
    """What the model wrote."""
    writer: str = BY_BASE
    """`base`, or the name of the admitted adapter."""


class WrittenTexts:
    """The texts of one home."""

    def __init__(self, file: Path, *, key: bytes) -> None:
        """Use `file`, which need not exist yet.

        Args:
            file: In the home.
            key: 32 bytes, derived from the device key for this purpose alone.
        """
        self._file, self._cipher = file, Cipher(key)

    def all(self, *, writer: str | None = None) -> list[Written]:
        """The texts, oldest first; of one writer where one is named.

        Raises:
            StoreError: The file is damaged, of another key or of a newer format; it is left as it is.
        """
        if not self._file.exists():
            return []
        try:
            content = json.loads(self._cipher.open(self._file.read_bytes(), FORMAT))
            texts = [Written(**fields) for fields in content["texts"]]
        except (OSError, ValueError, TypeError, KeyError, StoreError) as cause:
            raise StoreError(
                f"{self._file.name} cannot be opened ({cause}); delete it, its texts are made anew"
            ) from cause
        return [text for text in texts if writer in (None, text.writer)]

    def add(self, texts: Sequence[Written]) -> None:
        """Append texts; those that are there already stay as they are.

        Raises:
            StoreError: The file cannot be read or written; it stays as it was.
        """
        known = self.all()
        if fresh := [text for text in dict.fromkeys(texts) if text not in known]:
            self._replace([*known, *fresh])

    def drop(self, writers: Collection[str]) -> int:
        """Delete what these adapters wrote, and return how many texts that were. Overwrites the bytes they lay in.

        Raises:
            StoreError: The file cannot be read or written; it stays as it was.
        """
        known = self.all()
        kept = [text for text in known if text.writer not in writers]
        if len(kept) < len(known):
            self._replace(kept)
        return len(known) - len(kept)

    def clear(self) -> None:
        """Delete everything, also what can no longer be read."""
        self._replace([])

    def _replace(self, texts: Sequence[Written]) -> None:
        body = json.dumps({"texts": [asdict(text) for text in texts]}, ensure_ascii=False)
        sealed = self._cipher.seal(body.encode("utf-8", "surrogatepass"), FORMAT) if texts else b""
        try:
            with ExitStack() as stack:
                old = stack.enter_context(self._file.open("r+b")) if self._file.exists() else None
                if texts:
                    replace_whole(self._file, sealed)
                else:
                    self._file.unlink(missing_ok=True)
                if old is not None:
                    _overwrite(old)
        except OSError as cause:
            raise StoreError(f"cannot write {self._file.name}: {cause.strerror or cause}; free some space") from cause


def _overwrite(file: BinaryIO) -> None:
    """Put zeros where a file's content was; its name may be gone already."""
    file.write(bytes(os.fstat(file.fileno()).st_size))
    file.flush()
    os.fsync(file.fileno())
