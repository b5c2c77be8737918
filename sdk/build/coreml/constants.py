"""Compressed constants of a program in, the dense values they stand for out.

The operations `constexpr_…` of iOS 16 and 18: blocks with scale and offset, palettes (scalar and vector), sparse forms,
and their joints. The result has the declared type: what a device multiplies with.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sdk.build.coreml.weight_file import Array, array_of
from sdk.errors import PackageError

__all__ = ["DENSE"]

Arguments = Mapping[str, Any]
"""Parameter to array; a parameter that was left out is missing."""


def _spread(part: Array, size: tuple[int, ...]) -> Array:
    """Repeat each value over its block, so that `part` has `size`.

    Raises:
        PackageError: The blocks do not divide the size.
    """
    if part.ndim != len(size) or any(whole % blocks for blocks, whole in zip(part.shape, size, strict=True)):
        raise PackageError(f"blocks of shape {part.shape} do not divide a constant of shape {size}; convert it again")
    for axis, (blocks, whole) in enumerate(zip(part.shape, size, strict=True)):
        if blocks != whole:
            part = np.repeat(part, whole // blocks, axis)
    return part


def _floats(part: Array, size: tuple[int, ...]) -> Any:
    return _spread(part.astype(np.float32), size)


def _shift_scale(given: Arguments, size: tuple[int, ...]) -> tuple[Array, ...]:
    return (_scaled(given["data"], given),)


def _scaled(data: Array, given: Arguments) -> Array:
    steps: Any = data.astype(np.float32)
    if given.get("offset") is not None:
        steps = steps - _floats(given["offset"], data.shape)
    return np.asarray(steps * _floats(given["scale"], data.shape))


def _palette(given: Arguments, size: tuple[int, ...]) -> tuple[Array, ...]:
    indices, lut = given["indices"], given["lut"]
    if "shape" in given:  # iOS 16: one palette, indices packed into bytes.
        bits = max(1, int(np.ceil(np.log2(lut.size))))
        flat = array_of(indices.astype(np.uint8).tobytes(), f"uint{bits}", (int(np.prod(size)),))
        return (lut.reshape(-1)[flat.astype(np.int64)].reshape(size),)
    return (_looked_up(indices, lut, given.get("vector_axis")),)


def _looked_up(indices: Array, lut: Array, vector_axis: Any) -> Array:
    """Palettes stand along the leading dimensions of `lut`, entries and their components in its last two."""
    groups, entries, components = lut.shape[:-2], lut.shape[-2], lut.shape[-1]
    palette = _spread(np.arange(int(np.prod(groups))).reshape(groups), indices.shape)
    found = lut.reshape(-1, entries, components)[palette.astype(np.int64), indices.astype(np.int64)]
    if components == 1:
        return np.asarray(found[..., 0])
    axis = int(np.asarray(vector_axis))
    moved = np.moveaxis(found, -1, axis + 1)
    shape = [extent * components if at == axis else extent for at, extent in enumerate(indices.shape)]
    return moved.reshape(shape)


def _sparse(given: Arguments, size: tuple[int, ...]) -> tuple[Array, ...]:
    mask, values = given["mask"], given["nonzero_data"]
    if "shape" in given:  # iOS 16: the mask is packed into bytes.
        mask = array_of(mask.astype(np.uint8).tobytes(), "uint1", size)
    return (_filled(mask, values),)


def _filled(mask: Array, values: Array) -> Array:
    chosen = mask.astype(bool)
    if int(chosen.sum()) != values.size:
        raise PackageError(f"a sparse constant has {values.size} values for {int(chosen.sum())} places; it is damaged")
    dense = np.zeros(mask.shape, values.dtype)
    dense[chosen] = values.reshape(-1)
    return dense


def _palette_to_sparse(given: Arguments, size: tuple[int, ...]) -> tuple[Array, ...]:
    mask = given["indices_mask"]
    dense = _looked_up(_filled(mask, given["indices_nonzero_data"]), given["lut"], given.get("vector_axis"))
    return mask, dense[mask.astype(bool)]


def _shift_scale_to_sparse(given: Arguments, size: tuple[int, ...]) -> tuple[Array, ...]:
    mask = given["data_mask"]
    return mask, _scaled(_filled(mask, given["nonzero_data"]), given)[mask.astype(bool)]


def _affine(given: Arguments, size: tuple[int, ...]) -> tuple[Array, ...]:
    data, axis = given["quantized_data"], int(np.asarray(given["axis"]))
    shape = [-1 if at == axis else 1 for at in range(data.ndim)]
    zero, scale = (np.asarray(given[name], dtype=np.float32) for name in ("zero_point", "scale"))
    zero, scale = (part if part.ndim == 0 else part.reshape(shape) for part in (zero, scale))
    return (np.asarray((data.astype(np.float32) - zero) * scale),)


DENSE: Mapping[str, Callable[[Arguments, tuple[int, ...]], tuple[Array, ...]]] = {
    "constexpr_affine_dequantize": _affine,
    "constexpr_blockwise_shift_scale": _shift_scale,
    "constexpr_cast": lambda given, size: (given["source_val"],),
    "constexpr_lut_to_dense": _palette,
    "constexpr_lut_to_sparse": _palette_to_sparse,
    "constexpr_sparse_blockwise_shift_scale": _shift_scale_to_sparse,
    "constexpr_sparse_to_dense": _sparse,
}
"""Kind of operation to what makes its outputs dense, from its arguments and the size of its first output."""
