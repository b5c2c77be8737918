"""Arguments of an operation that only moves values in, its output out: shapes, slices, joins, look-ups."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sdk.build.coreml.arguments import Given, flags, number, tensor, whole, wholes
from sdk.errors import PackageError

__all__ = ["MOVEMENTS", "window_of"]


def window_of(given: Given) -> tuple[slice | int, ...]:
    """The part of `x` that slice_by_index reads and slice_update writes."""
    rank = tensor(given["x"]).dim()
    begin, end = wholes(given, "begin"), wholes(given, "end")
    stride = wholes(given, "stride", [1] * rank)
    open_begin, open_end = flags(given, "begin_mask", rank), flags(given, "end_mask", rank)
    squeezed = flags(given, "squeeze_mask", rank)
    if any(step < 1 for step in stride):
        raise PackageError("a slice that runs backwards is not interpreted; reverse the tensor instead")
    return tuple(
        begin[at]
        if squeezed[at]
        else slice(None if open_begin[at] else begin[at], None if open_end[at] else end[at], stride[at])
        for at in range(rank)
    )


def _slice_update(given: Given) -> Tensor:
    changed = tensor(given["x"])
    changed = changed if given.get("in_place") else changed.clone()
    changed[window_of(given)] = tensor(given["update"])
    return changed


def _slice_by_size(given: Given) -> Tensor:
    inputs = tensor(given["x"])
    for axis, (begin, size) in enumerate(zip(wholes(given, "begin"), wholes(given, "size"), strict=True)):
        inputs = inputs.narrow(axis, begin, inputs.shape[axis] - begin if size == -1 else size)
    return inputs


def _reshape(given: Given) -> Tensor:
    inputs = tensor(given["x"])
    return inputs.reshape([inputs.shape[at] if size == 0 else size for at, size in enumerate(wholes(given, "shape"))])


def _expand_dims(given: Given) -> Tensor:
    inputs, axes = tensor(given["x"]), wholes(given, "axes")
    for axis in sorted(axis % (inputs.dim() + len(axes)) for axis in axes):
        inputs = inputs.unsqueeze(axis)
    return inputs


def _squeeze(given: Given) -> Tensor:
    inputs = tensor(given["x"])
    return inputs.squeeze(tuple(wholes(given, "axes"))) if given.get("axes") is not None else inputs.squeeze()


def _concat(given: Given) -> Tensor:
    parts = [torch.atleast_1d(tensor(part)) for part in given["values"]]
    return torch.cat(parts, whole(given, "axis"))


def _split(given: Given) -> Sequence[Tensor]:
    axis = whole(given, "axis", 0)
    if given.get("split_sizes") is not None:
        return torch.split(tensor(given["x"]), wholes(given, "split_sizes"), axis)
    return torch.chunk(tensor(given["x"]), whole(given, "num_splits"), axis)


def _gather(given: Given) -> Tensor:
    inputs, indices, axis = tensor(given["x"]), tensor(given["indices"]).long(), whole(given, "axis", 0)
    if whole(given, "batch_dims", 0):
        raise PackageError("gather with batch_dims is not interpreted; use gather_along_axis")
    axis %= inputs.dim()
    chosen = torch.index_select(inputs, axis, _wrapped(indices, inputs.shape[axis]).reshape(-1))
    return chosen.reshape(*inputs.shape[:axis], *indices.shape, *inputs.shape[axis + 1 :])


def _gather_along_axis(given: Given) -> Tensor:
    inputs, axis = tensor(given["x"]), whole(given, "axis", 0)
    return torch.gather(inputs, axis, _wrapped(tensor(given["indices"]).long(), inputs.shape[axis]))


def _gather_nd(given: Given) -> Tensor:
    inputs, indices = tensor(given["x"]), tensor(given["indices"]).long()
    if whole(given, "batch_dims", 0):
        raise PackageError("gather_nd with batch_dims is not interpreted")
    chosen: Tensor = inputs[tuple(indices.unbind(-1))]
    return chosen


def _wrapped(indices: Tensor, size: int) -> Tensor:
    return torch.where(indices < 0, indices + size, indices)


def _pad(given: Given) -> Tensor:
    inputs, amounts, mode = tensor(given["x"]), wholes(given, "pad"), given.get("mode", "constant")
    pairs = [amounts[at : at + 2] for at in range(0, len(amounts), 2)]
    backwards = [amount for pair in reversed(pairs) for amount in pair]
    if mode == "constant":
        return functional.pad(inputs, backwards, value=number(given, "constant_val", 0.0))
    return functional.pad(inputs, backwards, mode={"reflect": "reflect", "replicate": "replicate"}[mode])


def _band_part(given: Given) -> Tensor:
    inputs = tensor(given["x"])
    lower, upper = whole(given, "lower", -1), whole(given, "upper", -1)
    inputs = inputs if upper < 0 else torch.tril(inputs, upper)
    return inputs if lower < 0 else torch.triu(inputs, -lower)


def _range(given: Given) -> Tensor:
    return torch.arange(given["start"], given["end"], given["step"])


MOVEMENTS: Mapping[str, Callable[[Given], Any]] = {
    "band_part": _band_part,
    "concat": _concat,
    "expand_dims": _expand_dims,
    "gather": _gather,
    "gather_along_axis": _gather_along_axis,
    "gather_nd": _gather_nd,
    "pad": _pad,
    "range_1d": _range,
    "reshape": _reshape,
    "reverse": lambda given: tensor(given["x"]).flip(wholes(given, "axes")),
    "shape": lambda given: torch.tensor(tensor(given["x"]).shape, dtype=torch.int32),
    "slice_by_index": lambda given: tensor(given["x"])[window_of(given)],
    "slice_by_size": _slice_by_size,
    "slice_update": _slice_update,
    "split": _split,
    "squeeze": _squeeze,
    "stack": lambda given: torch.stack([tensor(part) for part in given["values"]], whole(given, "axis")),
    "tile": lambda given: tensor(given["x"]).repeat(wholes(given, "reps")),
    "transpose": lambda given: tensor(given["x"]).permute(wholes(given, "perm")),
}
"""Kind of operation to what runs it."""
