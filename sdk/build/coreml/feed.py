"""Token embeddings and positions in, the arrays of one call out, as contract.json describes them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from sdk.build.coreml.contract import MASKED, Contract
from sdk.build.coreml.layout import Cache, Shape

__all__ = ["arrays_of", "no_adapter"]


def arrays_of(contract: Contract, function: str, embeddings: Tensor, *, start: int) -> dict[str, Tensor]:
    """Every input of one call but the cache and the adapter.

    Args:
        contract: Of the model.
        function: PREFILL, DECODE, or the one that makes states of a record, from position 0.
        embeddings: Rows of the embedding, shape (tokens, width), 1 ≤ tokens ≤ the function's positions.
        start: Position of the first of them.
    """
    shape, count = contract.shape(function), len(embeddings)
    hidden = torch.zeros(1, contract.width, 1, shape.positions)
    hidden[0, :, 0, :count] = embeddings.t() * contract.embedding_scale
    arrays = {"hidden": hidden}
    for kind in contract.rotation:
        suffix = "" if kind == "global" else "_local"
        angles = torch.outer(
            torch.tensor(contract.rotation[kind]).repeat(2), torch.arange(start, start + shape.positions).float()
        )  # (rotated, positions)
        arrays[f"cosine{suffix}"] = angles.cos()[None, None] * contract.rotation_scale
        arrays[f"sine{suffix}"] = angles.sin()[None, None] * contract.rotation_scale
    windows = {"mask": 0} | ({"mask_local": contract.window} if contract.window else {})
    if contract.window:  # A family with windows but one rotation uses it in both kinds of layer.
        arrays.setdefault("cosine_local", arrays["cosine"])
        arrays.setdefault("sine_local", arrays["sine"])
    for name, window in windows.items():
        arrays[name] = _mask(shape, start, window)
    if shape.cache is Cache.STATE:
        arrays["write"] = torch.zeros(1, 1, shape.positions, contract.context)
        rows = torch.arange(count)
        arrays["write"][0, 0, rows, start + rows] = 1
    if shape.positions > 1 and shape.lower is None:
        arrays["select"] = torch.zeros(1, 1, shape.positions, 1)
        arrays["select"][0, 0, count - 1] = 1
    return arrays


def no_adapter(contract: Contract, function: str) -> dict[str, Tensor]:
    """Adapter arrays that change nothing."""
    inputs: Mapping[str, tuple[int, ...]] = contract.functions[function]["inputs"]
    targets = contract.slots.targets if contract.slots else ()
    return {f"{target}_{part}": torch.zeros(inputs[f"{target}_{part}"]) for target in targets for part in "ab"}


def _mask(shape: Shape, start: int, window: int) -> Tensor:
    """Shape (1, 1, positions, seen): what row i, at position start + i, may look at."""
    rows = start + torch.arange(shape.positions)[:, None]
    columns = torch.arange(shape.context)[None]
    if shape.cache is not Cache.STATE:  # Earlier positions from the cache, this call's from the columns after it.
        earlier = torch.where(columns < start, columns, torch.iinfo(torch.int64).max)
        columns = torch.cat((earlier, start + torch.arange(shape.positions)[None]), 1)
    allowed = columns <= rows
    if window:
        allowed &= columns > rows - window
    return torch.where(allowed, 0.0, MASKED)[None, None]
