"""A stretch of a file that is one zstd frame in, its content out in the sizes that are asked for, and no more."""

from collections.abc import Iterator
from typing import BinaryIO, cast

import zstandard

from sdk.errors import PatchError

__all__ = ["CHUNK_BYTES", "Frame", "unpacked_whole"]

CHUNK_BYTES = 256 * 1024  # Of what is made; two or three of them are in memory at once.


class Frame:
    """The content of a frame, from its begin to its end."""

    def __init__(
        self,
        file: BinaryIO,
        at: int,
        packed: int,
        *,
        window: int,
        words: zstandard.ZstdCompressionDict | None = None,
    ) -> None:
        """Nothing is read yet.

        Args:
            file: Where the frame stands; others may read it in between.
            at: Where the frame begins.
            packed: Its length in bytes; 0 for no frame, which has no content.
            window: Bytes that zstd may hold of what it made; a frame that wants more is refused.
            words: A dictionary to unpack with.
        """
        self._packed = _Stretch(file, at, packed)
        opened = zstandard.ZstdDecompressor(dict_data=words, max_window_size=window)
        self._content = opened.stream_reader(cast(BinaryIO, self._packed), read_size=min(CHUNK_BYTES, max(1, packed)))

    def read(self, size: int) -> bytes:
        """The next `size` bytes.

        Raises:
            PatchError: It has fewer.
            zstandard.ZstdError: It is damaged.
        """
        piece = self._content.read(size) if size else b""
        if len(piece) == size:
            return piece
        pieces = [piece]
        missing = size - len(piece)
        while missing:
            if not (piece := self._content.read(missing)):
                raise PatchError("the patch ends before its file does; get the files whole")
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def take(self, size: int) -> Iterator[bytes]:
        """The next `size` bytes in pieces; errors as `read`."""
        for at in range(0, size, CHUNK_BYTES):
            yield self.read(min(CHUNK_BYTES, size - at))

    def finish(self) -> None:
        """Refuse a frame that holds more than its file needs: the start of a bomb, and never unpacked further."""
        if self._packed.size and (self._content.read(1) or self._packed.left):
            raise PatchError("the patch holds more than its file needs; get the files whole")


class _Stretch:
    """The `size` bytes of a file from `at`, as a file."""

    def __init__(self, file: BinaryIO, at: int, size: int) -> None:
        self._file, self._at, self.size, self.left = file, at, size, size

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes."""
        self._file.seek(self._at)
        piece = self._file.read(self.left if size < 0 else min(size, self.left))
        self._at += len(piece)
        self.left -= len(piece)
        return piece


def unpacked_whole(packed: bytes, limit: int, window: int) -> bytes:
    """A small frame at once.

    Raises:
        PatchError: It says or proves to be larger than `limit` bytes.
        zstandard.ZstdError: It is damaged.
    """
    if zstandard.frame_content_size(packed) not in range(limit + 1):
        raise PatchError(f"the patch's index is larger than {limit} bytes; get the files whole")
    return zstandard.ZstdDecompressor(max_window_size=window).decompress(packed, max_output_size=limit)
