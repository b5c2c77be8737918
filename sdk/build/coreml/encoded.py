"""A compressed weight as a value: codes with scales, palettes, masks; in, its exact values or its operation out.

A weight of shape (out, in) is one of
    blocks      value = scale × (code − zero), scales and zeros by row and block of columns;
    palette     value = lut[group of rows, code];
    sparse      value where mask is set, else 0; the values themselves plain, blocks or palette.
Values are those of the declared type, float16, or float32 where the scales are: what torch computes with, a package
holds, bit for bit.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sdk.errors import CompressionError

__all__ = ["Encoded"]


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One compressed matrix."""

    codes: Tensor
    """Shape (out, in): whole numbers, uint8, or int8 where `signed`; for a plain sparse weight float16 values."""
    bits: int
    """Bits of a code: 1, 2, 3, 4, 6 or 8; 16 for a plain sparse weight."""
    signed: bool = False
    scales: Tensor | None = None
    """Shape (out, blocks), float16, or float32 where the values are to be."""
    zeros: Tensor | None = None
    """Shape (out, blocks), of the codes' type."""
    lut: Tensor | None = None
    """Shape (groups, 2 ** bits), float16; groups of equally many rows."""
    mask: Tensor | None = None
    """Shape (out, in), true where a value stands."""

    @property
    def dtype(self) -> str:
        """Type of the codes in a package."""
        return "float16" if self.bits == 16 else f"{'int' if self.signed else 'uint'}{self.bits}"

    @property
    def bytes(self) -> int:
        """Size in a package, without the records of its parts."""
        kept = self.codes.numel() if self.mask is None else int(self.mask.sum())
        bits = kept * self.bits + (0 if self.mask is None else self.mask.numel())
        for part, width in ((self.scales, 16), (self.zeros, self.bits), (self.lut, 16)):
            bits += 0 if part is None else part.numel() * width
        return -(-bits // 8)

    def values(self) -> Tensor:
        """The weights, shape (out, in), float32, all of them numbers of the declared type."""
        dense = self.codes.float()
        if self.lut is not None:
            rows = len(self.codes) // len(self.lut)
            grouped = self.codes.long().reshape(len(self.lut), -1)
            dense = self.lut.float().gather(1, grouped).reshape(len(self.lut) * rows, -1)
        elif self.scales is not None:
            blocks = dense.view(len(dense), self.scales.shape[1], -1)
            if self.zeros is not None:
                blocks = blocks - self.zeros.float()[:, :, None]
            dense = (blocks * self.scales.float()[:, :, None]).reshape(dense.shape)
        if self.mask is not None:
            dense = torch.where(self.mask, dense, 0.0)
        exact = self.scales is not None and self.scales.dtype == torch.float32
        return dense if exact else dense.half().float()

    def rows(self, first: int, count: int) -> "Encoded":
        """A part of its rows.

        Raises:
            CompressionError: The part cuts through a palette's group.
        """
        part = slice(first, first + count)
        lut = self.lut
        if lut is not None:
            size = len(self.codes) // len(lut)
            if len(lut) > 1 and (first % size or count % size):
                raise CompressionError(
                    f"rows {first} to {first + count} cut through a palette of {size} rows; choose another group size"
                )
            lut = lut if len(lut) == 1 else lut[first // size : (first + count) // size]
        return replace(
            self,
            codes=self.codes[part],
            lut=lut,
            scales=None if self.scales is None else self.scales[part],
            zeros=None if self.zeros is None else self.zeros[part],
            mask=None if self.mask is None else self.mask[part],
        )

    def emit(self, builder: Any, types: Any, *, name: str, before: Any) -> Any:
        """Write it into a program as a 1 × 1 convolution's weight, shape (out, in, 1, 1).

        Args:
            builder: coremltools' MIL builder.
            types: coremltools' MIL types.
            name: Name of the new constant.
            before: Operation that it is put in front of.

        Returns:
            The variable that holds the dense weight.
        """

        def narrow(values: Tensor) -> Any:
            kind = types.nptype_from_builtin(types.string_to_builtin(_MIL_NAMES.get(self.dtype, self.dtype)))
            return values.numpy().astype(kind)

        def square(values: Tensor) -> Tensor:
            return values[:, :, None, None]

        place = {"before_op": before, "name": name}
        scales = None if self.scales is None else square(self.scales).numpy()
        zeros = None if self.zeros is None else narrow(square(self.zeros))
        lut = None if self.lut is None else self.lut[:, None, None, None, :, None].numpy()
        if self.mask is None:
            codes = narrow(square(self.codes))
            if lut is not None:
                return builder.constexpr_lut_to_dense(indices=codes, lut=lut, **place)
            return builder.constexpr_blockwise_shift_scale(data=codes, scale=scales, offset=zeros, **place)
        one = types.nptype_from_builtin(types.string_to_builtin("uint1"))
        mask, kept = square(self.mask).numpy().astype(one), narrow(self.codes[self.mask])
        inner = {"before_op": before, "name": f"{name}_kept"}
        if lut is not None:
            mask, kept = builder.constexpr_lut_to_sparse(indices_mask=mask, indices_nonzero_data=kept, lut=lut, **inner)
        elif scales is not None:
            mask, kept = builder.constexpr_sparse_blockwise_shift_scale(
                data_mask=mask, nonzero_data=kept, scale=scales, offset=zeros, **inner
            )
        return builder.constexpr_sparse_to_dense(nonzero_data=kept, mask=mask, **place)


_MIL_NAMES = {"float16": "fp16"}
