"""A student and an adapter kind in, one step of private learning as a graph out, for devices without Python.

The step takes what the frozen layers made of a few records, and the adapter as decoding takes it; it returns the sum
over the records of their clipped gradients. The caller adds such sums up, adds noise once, and applies the update
(privacy.dp_sgd's rules). Per-example gradients come from torch.func; clipping.py says why the clip holds.

The frozen matrices are inputs of the graph, so that the converter can put the ones that decoding has in their place.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sdk.build.coreml.clipping import clipped_sums
from sdk.build.coreml.families import LayerParts, Parts
from sdk.build.coreml.placed import weights_of
from sdk.build.coreml.worn import Worn

__all__ = ["LearningStep"]

MASKED = -1e4
Pieces = Mapping[str, Sequence[Tensor]]
"""Name of what is trained to its parts, one a layer: so that no gradient is a stack of zeros but for one layer."""
Given = Mapping[str, Any]
"""Name to a tensor, or to its parts, one a layer."""


class LearningStep(nn.Module):
    """Clipped per-example gradients of the upper layers, summed."""

    def __init__(self, parts: Parts, worn: Worn) -> None:
        """Lay the step out for what `worn` trains."""
        super().__init__()
        self.geometry, self.shape, self.worn = parts.geometry, worn.shape, worn
        self.layers = [parts.layers[index] for index in worn.shape.layers]
        self.final_norm = parts.final_norm
        self.angles = _angles(parts, worn.shape.positions)
        self.future = torch.full((worn.shape.positions, worn.shape.positions), MASKED).triu(1)
        upper = tuple(f"layers.{index}." for index in worn.shape.layers)
        self.matrices = {
            name: weight.values for name, weight in weights_of(parts).items() if name.startswith((*upper, "head."))
        }

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Name to size of every input of the caller, in order."""
        shape, width = self.shape, self.geometry.width
        sizes: dict[str, tuple[int, ...]] = {
            "states": (shape.records, width, shape.positions),
            "targets": (shape.records, shape.positions, width),  # Rows of the head of each next token.
            "weights": (shape.records, shape.positions),  # One where the next token is learned; zero in padding.
            "clip": (1,),
            "scale": (1,),  # Multiplies the loss, and so the sums: keeps small gradients above float16's smallest.
        }
        return sizes | self.worn.factors | self.worn.trained

    @property
    def outputs(self) -> dict[str, tuple[int, ...]]:
        """Name to size of the outputs, in order."""
        sums = {f"sum_{name}": size for name, size in self.worn.trained.items()}
        return sums | {"norms": (self.shape.records,)}

    @property
    def frozen(self) -> dict[str, Tensor]:
        """Name to matrix of what the graph takes after the caller's inputs: float16 maps, (out, in), and directions."""
        return {name: values.half() for name, values in self.matrices.items()} | self.worn.frozen

    def forward(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        """The sums, and the upper bounds of the norms, shape (records,), both times the loss's scale."""
        given = dict(zip((*self.inputs, *self.frozen), arrays, strict=True))
        moving = {name: given.pop(name) for name in self.worn.trained}
        batched = [given.pop(name) for name in ("states", "targets", "weights")]
        clip, scale = given.pop("clip"), given.pop("scale")

        def loss(pieces: Pieces, states: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
            return self._loss(states.t(), targets, weights * scale, {**given, **_joined(pieces)})

        gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0, 0))(_apart(moving), *batched)
        rows = torch.cat([piece.flatten(1) for name in moving for piece in gradients[name]], 1)  # (records, numbers)
        total, norms = clipped_sums(rows, clip * scale)
        sizes = self.worn.trained.values()
        parts = total.split([math.prod(size) for size in sizes])
        return (*(part.reshape(size) for part, size in zip(parts, sizes, strict=True)), norms)

    def _loss(self, hidden: Tensor, targets: Tensor, weights: Tensor, given: Given) -> Tensor:
        """Weighted cross-entropy of one record, (positions, width) in: a sum, never a mean."""
        for index, layer in zip(self.shape.layers, self.layers, strict=True):
            hidden = self._layer(hidden, layer, index, given)
        hidden = _normed(hidden, self.final_norm, self.geometry.epsilon)
        heads = [given[name] for name in self.matrices if name.startswith("head.")]
        chunks = [_log_sum(hidden @ head.t()) for head in heads]
        total = chunks[0] if len(chunks) == 1 else _log_sum(torch.stack(chunks, -1))  # (positions,)
        return ((total - (hidden * targets).sum(-1)) * weights).sum()

    def _layer(self, hidden: Tensor, layer: LayerParts, index: int, given: Given) -> Tensor:
        geometry, positions = self.geometry, self.shape.positions
        group, row = geometry.heads // geometry.kv_heads, self.shape.layers.index(index)

        def mapped(name: str, inputs: Tensor) -> Tensor:
            a: Tensor = given[f"{name}_a"][row][0]
            frozen: Tensor = given[f"layers.{index}.maps.{name}.weight"]
            return inputs @ frozen.t() + (inputs @ a.t()) @ self.worn.factor(index, name, given).t()

        def heads(name: str, inputs: Tensor) -> Tensor:
            return mapped(name, inputs).reshape(positions, -1, geometry.head_width).transpose(0, 1)

        normed = _normed(hidden, layer.norms["before_attention"], geometry.epsilon)
        queries = _turned(heads("q_proj", normed), self.angles) * geometry.score_scale
        keys, values = _turned(heads("k_proj", normed), self.angles), heads("v_proj", normed)
        queries = queries.reshape(geometry.kv_heads, group * positions, geometry.head_width)
        scores = (queries @ keys.transpose(1, 2)).reshape(geometry.kv_heads, group, positions, positions)
        shares = torch.softmax(scores + self.future, -1).reshape(geometry.kv_heads, group * positions, positions)
        mixed = (shares @ values).reshape(geometry.heads, positions, geometry.head_width)
        hidden = hidden + mapped("o_proj", mixed.transpose(0, 1).reshape(positions, -1))
        normed = _normed(hidden, layer.norms["before_mlp"], geometry.epsilon)
        gate = nn.functional.silu(mapped("gate_proj", normed))
        return hidden + mapped("down_proj", gate * mapped("up_proj", normed))


def _apart(moving: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
    """What is trained, one part a layer; coefficients of directions, which are of all layers, stay whole."""
    return {name: [value] if value.dim() == 1 else list(value.unbind(0)) for name, value in moving.items()}


def _joined(pieces: Pieces) -> Given:
    return {name: parts[0] if parts[0].dim() == 1 else parts for name, parts in pieces.items()}


def _log_sum(logits: Tensor) -> Tensor:
    """Logarithm of the sum of exponentials over the last axis; the peak cancels, so nothing flows back through it."""
    peak = logits.detach().amax(-1, keepdim=True)
    return (logits - peak).exp().sum(-1).log() + peak.squeeze(-1)


def _normed(inputs: Tensor, gain: Tensor, epsilon: float) -> Tensor:
    peak = inputs.detach().abs().amax(-1, keepdim=True) + 1e-3  # Cancels, so nothing flows back through it.
    share = inputs / peak
    shift = torch.full_like(peak, epsilon**0.5) / peak
    return inputs * (torch.rsqrt((share * share).mean(-1, keepdim=True) + shift * shift) / peak) * gain


def _turned(heads: Tensor, angles: Tensor) -> Tensor:
    half = heads.shape[-1] // 2
    return heads * angles[0] + torch.cat((-heads[..., half:], heads[..., :half]), -1) * angles[1]


def _angles(parts: Parts, positions: int) -> Tensor:
    """Cosines and sines, shape (2, positions, head width)."""
    angles = torch.outer(torch.arange(positions).float(), parts.rotation["global"].repeat(2))
    return torch.stack((angles.cos(), angles.sin())) * parts.rotation_scale
