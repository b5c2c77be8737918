"""weight.bin in, arrays out: the blob format that ML Programs keep their constants in, read in pure Python.

A header of 64 bytes (count of blobs, version 2), then for each blob a record of 64 bytes: sentinel, type, size, offset
of the data. Values under 8 bits are packed from the lowest bit of a byte upwards.

Source: apple/coremltools, mlmodel/src/MILBlob/Blob/StorageFormat.hpp.
"""

import mmap
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdk.errors import PackageError

__all__ = ["BITS", "WeightFile", "array_of"]

Array = NDArray[np.generic]

SENTINEL = 0xDEADBEEF
VERSION = 2
BITS = {
    **{"bool": 8, "float16": 16, "float32": 32, "float64": 64, "int8": 8, "int16": 16, "int32": 32, "int64": 64},
    **{"uint8": 8, "uint16": 16, "uint32": 32, "uint64": 64},
    **{"int4": 4, "uint1": 1, "uint2": 2, "uint3": 3, "uint4": 4, "uint6": 6},
}
"""Bits of one value by type."""


class WeightFile:
    """A mapped weight.bin."""

    def __init__(self, path: Path) -> None:
        """Map the file.

        Raises:
            PackageError: Missing, empty, or of another version.
        """
        self.path = path
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as cause:
            raise PackageError(
                f"weights {path.name} are missing or empty ({cause}); copy the whole package again"
            ) from cause
        version = struct.unpack_from("<II", self._bytes)[1] if len(self._bytes) >= 64 else 0
        if version != VERSION:
            raise PackageError(
                f"{path.name} is no weight file of version {VERSION} (found {version}); convert the model again"
            )

    def blob(self, offset: int) -> bytes:
        """The bytes that the record at `offset` names."""
        start, size = self.place(offset)
        return self._bytes[start : start + size]

    def place(self, offset: int) -> tuple[int, int]:
        """Where the data of a record stands: (first byte, bytes).

        Raises:
            PackageError: No record there, or its data passes the end of the file.
        """
        if offset + 64 <= len(self._bytes):
            sentinel, _, size, start = struct.unpack_from("<IIQQ", self._bytes, offset)
            if sentinel == SENTINEL and start + size <= len(self._bytes):
                return start, size
        raise PackageError(
            f"{self.path.name} is cut short or damaged at byte {offset} of {len(self._bytes)}; copy the package again"
        )


def array_of(raw: bytes, dtype: str, size: tuple[int, ...]) -> Array:
    """Bytes as an array of `size`; types under 8 bits become int8 or uint8.

    Raises:
        PackageError: Fewer bytes than the size needs.
    """
    count, bits = int(np.prod(size, dtype=np.int64)), BITS[dtype]
    if len(raw) * 8 < count * bits:
        raise PackageError(
            f"a constant has {len(raw)} bytes where {count * bits // 8} are needed; copy the package again"
        )
    if bits >= 8:
        return np.frombuffer(raw, dtype=np.dtype(dtype), count=count).reshape(size)
    return _unpacked(raw, bits, count, signed=dtype.startswith("int")).reshape(size)


def _unpacked(raw: bytes, bits: int, count: int, *, signed: bool) -> Array:
    if bits == 4:  # Two to a byte: by far the most, so not bit by bit.
        pairs = np.frombuffer(raw, np.uint8)
        values = np.stack((pairs & 15, pairs >> 4), axis=1).reshape(-1)[:count]
    else:
        flags = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")[: count * bits].reshape(count, bits)
        values = (flags << np.arange(bits, dtype=np.uint8)).sum(1, dtype=np.uint8)
    if not signed:
        return values
    whole = values.astype(np.int8)
    return np.where(whole >= 1 << (bits - 1), whole - (1 << bits), whole).astype(np.int8)
