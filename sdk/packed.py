"""The checkpoint's small form: whole numbers and scales on disk, exactly the same weights in every engine.

A matrix of shape (out, in) is cut along each row into blocks of BLOCK inputs. Of each block stand

    4 bits:  weight = scale × (code − zero),  code and zero in 0..15, two codes to a byte, the lower nibble first;
    8 bits:  weight = scale × code,           code in −127..127.

Scales are float16 of few significant bits, so few that the product fits float16 exactly: float32, float16 and an
engine that multiplies codes itself all hold the same numbers, and no form rounds a second time. Vectors (norms) are
float16. In the safetensors file the parts of tensor T are called T.codes, T.scales and T.zeros.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sdk.errors import BundleError

__all__ = [
    "BLOCK",
    "SCALE_BITS",
    "Packed",
    "is_packed",
    "load_parts",
    "load_weights",
    "pack4",
    "parts_of",
    "rounded_scales",
    "unpack4",
    "unpacked",
]

BLOCK = 32
"""Inputs that share a scale."""

SCALE_BITS = {4: 7, 8: 4}
"""Significant bits of a scale by bits of a code. Float16 has 11: a 4-bit difference (0..15) leaves 7, a 7-bit one 4."""

CODES, SCALES, ZEROS = ".codes", ".scales", ".zeros"


def rounded_scales(scales: Tensor, *, bits: int) -> Tensor:
    """The nearest scales of SCALE_BITS[bits] significant bits that float16 holds; any shape, positive, float32.

    Too small a scale becomes the smallest whose products are all normal float16 numbers; none becomes zero.
    """
    fraction, exponent = torch.frexp(scales.float().clamp(min=2.0**-14))
    steps = 2.0 ** SCALE_BITS[bits]
    return torch.ldexp((fraction * steps).round() / steps, exponent)


def pack4(codes: Tensor) -> Tensor:
    """Codes in 0..15, shape (rows, columns), as bytes, shape (rows, ceil(columns / 2)); lower nibble first."""
    if codes.shape[1] % 2:
        codes = torch.nn.functional.pad(codes, (0, 1))
    codes = codes.to(torch.uint8)
    return codes[:, ::2] | (codes[:, 1::2] << 4)


def unpack4(packed: Tensor, columns: int) -> Tensor:
    """Undo pack4: bytes, shape (rows, ceil(columns / 2)), as codes, shape (rows, columns), uint8."""
    return torch.stack((packed & 15, packed >> 4), dim=2).flatten(1)[:, :columns]


def is_packed(tensors: Mapping[str, Tensor]) -> bool:
    """Whether any tensor of a checkpoint is in the small form."""
    return any(name.endswith(CODES) for name in tensors)


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A matrix in the small form, as it stands in the file; made by parts_of, which checks it."""

    codes: Tensor
    """4 bits: shape (out, in / 2), uint8; 8 bits: shape (out, in), int8."""
    scales: Tensor
    """Shape (out, in / BLOCK), float16."""
    zeros: Tensor | None
    """Shape (out, ceil(in / BLOCK / 2)), uint8; None at 8 bits."""

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        rows, blocks = self.scales.shape
        return rows, blocks * BLOCK

    def values(self) -> Tensor:
        """The weights, shape (out, in), float32."""
        rows, blocks = self.scales.shape
        steps = self.codes.float() if self.zeros is None else unpack4(self.codes, blocks * BLOCK).float()
        steps = steps.view(rows, blocks, BLOCK)
        if self.zeros is not None:
            steps = steps - unpack4(self.zeros, blocks).float()[:, :, None]
        return (steps * self.scales.float()[:, :, None]).reshape(rows, blocks * BLOCK)


def parts_of(tensors: Mapping[str, Tensor]) -> dict[str, Packed | Tensor]:
    """Every tensor of a checkpoint under its plain name, packed ones as they stand.

    Raises:
        BundleError: Codes without their scales, of another type or of shapes that do not fit; nothing is returned.
    """
    found: dict[str, Packed | Tensor] = {}
    for name, value in tensors.items():
        if name.endswith(CODES):
            plain = name.removesuffix(CODES)
            found[plain] = _matrix(plain, value, tensors.get(plain + SCALES), tensors.get(plain + ZEROS))
        elif not name.endswith((SCALES, ZEROS)):
            found[name] = value
    return found


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor of a checkpoint in float32, under its plain name; errors as parts_of."""
    return {
        name: part.values() if isinstance(part, Packed) else part.float() for name, part in parts_of(tensors).items()
    }


def load_parts(folder: Path) -> dict[str, Packed | Tensor]:
    """The weights of the checkpoint in `folder` by their plain names, mapped from the file as they stand in it.

    Raises:
        BundleError: As load_weights.
    """
    return parts_of(_load(folder))


def load_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of the checkpoint in `folder`, plain or packed, by their plain names; packed ones in float32.

    Raises:
        BundleError: No readable model.safetensors, or a packed form that does not fit together.
    """
    tensors = _load(folder)
    return unpacked(tensors) if is_packed(tensors) else tensors


def _load(folder: Path) -> dict[str, Tensor]:
    try:
        return load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as cause:
        raise BundleError(f"{folder / 'model.safetensors'} cannot be read ({cause}); get the model again") from cause


def _matrix(name: str, codes: Tensor, scales: Tensor | None, zeros: Tensor | None) -> Packed:
    if scales is None or scales.dtype != torch.float16 or scales.dim() != 2 or codes.dim() != 2:
        raise BundleError(f"{name} has codes without float16 scales; get the model again")
    if not bool(torch.isfinite(scales).all()):
        raise BundleError(f"{name} has a scale that is not finite; get the model again")
    rows, blocks = scales.shape
    if zeros is None:
        fits = codes.dtype == torch.int8 and codes.shape == (rows, blocks * BLOCK)
    else:
        fits = codes.dtype == zeros.dtype == torch.uint8
        fits = fits and codes.shape == (rows, blocks * BLOCK // 2) and zeros.shape == (rows, math.ceil(blocks / 2))
    if not fits:
        raise BundleError(f"{name} has codes of another type or shape than its scales; get the model again")
    return Packed(codes=codes, scales=scales, zeros=zeros)
