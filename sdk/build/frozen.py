"""An untrained student in; its embedding and lower layers on their grids, once and for all.

The teacher's own lower layers need no healing where none of them was left out, so they are not trained. They are put
on the grid with compensated rounding, layer after layer, each seeing what the rounded ones below it make of real text.
What rounding still costs, the trained layers above learn to take.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from personalize.forward import decoder_layers
from sdk.build.grid import Grid, compensated, packed8
from sdk.build.sequences import TokenSequence

__all__ = ["EMBEDDING", "FrozenParts", "freeze"]

EMBEDDING = "model.embed_tokens.weight"
BATCH = 8  # Sequences of a pass.


@dataclass(frozen=True, kw_only=True)
class FrozenParts:
    """What lies on the grid and is trained no further."""

    grids: Mapping[str, Grid]
    """Grid of each matrix of the frozen layers, by its name."""
    embedding: Mapping[str, Tensor]
    """Codes and scales of the embedding, which is the head too."""


@torch.no_grad()
def freeze(student: LlamaForCausalLM, sequences: Sequence[TokenSequence], *, frozen: int) -> FrozenParts:
    """Put the embedding and the first `frozen` layers of a student on their grids, in place.

    Args:
        student: Its embedding is tied to its head.
        sequences: Public text that says which inputs matter; of one length. 100 stretches of 256 tokens do.
        frozen: Layers that training will not touch; norms among them are rounded to float16.
    """
    parts, values = packed8(student.model.embed_tokens.weight)
    student.model.embed_tokens.weight.copy_(values)
    ids = torch.tensor([one.ids for one in sequences])
    hidden = [student.model.embed_tokens(rows) for rows in ids.split(BATCH)]
    grids = {}
    for layer in range(frozen):
        grams = _grams(student, hidden, layer)
        for name, module in student.model.layers[layer].named_modules():
            if isinstance(module, nn.Linear):
                grid, rounded = compensated(module.weight, grams[name])
                module.weight.copy_(rounded)
                grids[f"model.layers.{layer}.{name}.weight"] = grid
        for parameter in student.model.layers[layer].parameters():
            if parameter.dim() == 1:
                parameter.copy_(parameter.half())
        hidden = [decoder_layers(student, rows, layer, layer + 1) for rows in hidden]
    return FrozenParts(grids=grids, embedding=parts)


def _grams(student: LlamaForCausalLM, hidden: Sequence[Tensor], layer: int) -> dict[str, Tensor]:
    """Σ x xᵀ over the inputs of each matrix of a layer, shape (in, in), by the matrix' name in the layer."""
    grams: dict[str, Tensor] = {}
    seen: dict[int, tuple[str, Tensor]] = {}  # Matrices that read the same tensor share a sum; held, so ids stay apart.
    alias: dict[str, str] = {}

    def note(name: str, read: Tensor) -> None:
        if id(read) in seen:
            alias[name] = seen[id(read)][0]
            return
        seen[id(read)] = name, read
        rows = read.flatten(0, 1)
        grams[name] = grams.get(name, 0) + rows.t() @ rows

    block = student.model.layers[layer]
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs[0]))
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        for rows in hidden:
            decoder_layers(student, rows, layer, layer + 1)
            seen.clear()
    finally:
        for hook in hooks:
            hook.remove()
    return grams | {name: grams[first] for name, first in alias.items()}
