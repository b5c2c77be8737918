"""The parts of a decoder in, the same decoder as the Neural Engine wants it out.

Rules that the layout keeps (docs/core_ml.md has their sources):

(1) hidden states are (1, channels, 1, positions), maps are 1 × 1 convolutions, no tensor has more than 4 dimensions;
(2) every shape is fixed; positions, masks and rotations come in as arrays, so no index is computed in the graph;
(3) a norm divides by the largest channel before it squares, with the exact epsilon, so that float16 cannot overflow;
(4) key and value heads are never repeated: the query heads that share one stand side by side along the positions;
(5) no dimension is over MAX_DIMENSION: the head is cut into chunks.

The cache of keys and values is either a state that the graph updates under a mask, or an input whose new columns are
outputs. Adapters are inputs, one pair of stacked arrays a target. Cut off below the adapted layers, the same layout
makes the hidden states that a learning step starts from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn

from sdk.build.coreml.families import Geometry, LayerParts, Parts, Weight

__all__ = ["MAX_DIMENSION", "AdapterSlots", "Cache", "NeuralEngineDecoder", "Shape"]

MAX_DIMENSION = 16_384  # The Neural Engine takes no larger one (anemll/Anemll, models/llama_model.py).
SMALLEST_PEAK = 1e-3  # Added to the largest channel, so that a norm of zeros divides by something.
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Cache(Enum):
    """Where keys and values of earlier positions live."""

    STATE = "state"
    """In the model: two states, written under a mask."""
    ARRAYS = "arrays"
    """With the caller: two inputs; the new columns are outputs."""
    NONE = "none"
    """Nowhere: a call sees its own positions only. For records that are learned, not for conversations."""


@dataclass(frozen=True, kw_only=True)
class AdapterSlots:
    """Room for one adapter."""

    layers: tuple[int, ...]
    """Layers that can carry it, ascending."""
    rank: int
    """Largest rank; smaller ones are padded with zeros."""
    targets: tuple[str, ...] = TARGETS
    """Maps that can carry it."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Fixed sizes of one compiled function."""

    context: int
    """Positions that the cache holds."""
    positions: int
    """Positions a call processes: 1 to decode, more to prefill."""
    cache: Cache = Cache.STATE
    slots: AdapterSlots | None = None
    lower: int | None = None
    """Layers from the bottom whose hidden states are the output; None for all of them and the head."""


class NeuralEngineDecoder(nn.Module):
    """A decoder with fixed shapes; `inputs` names and sizes what it takes, in order."""

    keys: Tensor
    values: Tensor

    def __init__(self, parts: Parts, shape: Shape) -> None:
        """Lay `parts` out for `shape`; weights are shared with the parts, not copied."""
        super().__init__()
        self.geometry, self.shape = parts.geometry, shape
        self.widths = {name: weight.values.shape for name, weight in parts.layers[0].maps.items()}
        self.layers = nn.ModuleList(
            _Layer(layer, parts.geometry, index, shape) for index, layer in enumerate(parts.layers[: shape.lower])
        )
        self.final_norm = _Norm(parts.final_norm, parts.geometry.epsilon)
        starts = range(0, parts.geometry.vocabulary, MAX_DIMENSION)
        self.chunks = [min(MAX_DIMENSION, parts.geometry.vocabulary - start) for start in starts]
        self.head = nn.ModuleList(_convolution(_rows(parts.head, start)) for start in starts)
        self.windowed = any(layer.local for layer in parts.layers)
        if shape.cache is Cache.STATE:
            for name in ("keys", "values"):
                self.register_buffer(name, torch.zeros(self.cache_size))

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Name to size of every input, in the order of `forward`."""
        geometry, shape = self.geometry, self.shape
        seen = shape.context + (0 if shape.cache is Cache.STATE else shape.positions)
        sizes: dict[str, tuple[int, ...]] = {"hidden": (1, geometry.width, 1, shape.positions)}
        for suffix in ("", "_local") if self.windowed else ("",):
            sizes[f"cosine{suffix}"] = sizes[f"sine{suffix}"] = (1, 1, geometry.rotated, shape.positions)
            sizes[f"mask{suffix}"] = (1, 1, shape.positions, seen)
        if shape.cache is Cache.STATE:
            sizes["write"] = (1, 1, shape.positions, shape.context)
        elif shape.cache is Cache.ARRAYS:
            sizes["keys"] = sizes["values"] = self.cache_size
        if shape.positions > 1 and shape.lower is None:
            sizes["select"] = (1, 1, shape.positions, 1)
        return sizes | self._adapter_sizes()

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs, in the order of `forward`."""
        if self.shape.lower is not None:
            return ["states"]
        fresh = ["new_keys", "new_values"] if self.shape.cache is Cache.ARRAYS else []
        return [f"logits_{chunk}" for chunk in range(len(self.head))] + fresh

    def forward(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        """One call: logits of one position, in chunks, and with Cache.ARRAYS the new columns of keys and values.

        Of a decoder cut off with `lower`, the hidden states above its layers, (1, width, 1, positions).
        """
        given = dict(zip(self.inputs, arrays, strict=True))
        hidden, fresh = given["hidden"], []
        for layer in self.layers:
            hidden, new = layer(hidden, given, self._caches(given))
            fresh.append(new)
        if self.shape.lower is not None:
            return (hidden,)
        if self.shape.positions > 1:  # Only the last real position meets the head.
            hidden = torch.matmul(hidden.reshape(1, 1, self.geometry.width, -1), given["select"])
            hidden = hidden.reshape(1, self.geometry.width, 1, 1)
        hidden = self.final_norm(hidden)
        logits = tuple(chunk(hidden) for chunk in self.head)  # each (1, vocabulary of the chunk, 1, 1)
        if self.shape.cache is Cache.STATE:
            return logits
        return (*logits, torch.cat([keys for keys, _ in fresh]), torch.cat([values for _, values in fresh]))

    def _caches(self, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        if self.shape.cache is Cache.STATE:
            return self.keys, self.values
        return (given["keys"], given["values"]) if self.shape.cache is Cache.ARRAYS else ()

    @property
    def cache_size(self) -> tuple[int, int, int, int]:
        """Size of each of the two caches: (layers, kv heads, head width, context)."""
        geometry = self.geometry
        return len(self.layers), geometry.kv_heads, geometry.head_width, self.shape.context

    def _adapter_sizes(self) -> dict[str, tuple[int, ...]]:
        slots = self.shape.slots
        if slots is None:
            return {}
        sizes: dict[str, tuple[int, ...]] = {}
        for target in slots.targets:
            out, width = self.widths[target]
            sizes[f"{target}_a"] = (len(slots.layers), 1, slots.rank, width)
            sizes[f"{target}_b"] = (len(slots.layers), 1, out, slots.rank)
        return sizes


class _Layer(nn.Module):
    def __init__(self, parts: LayerParts, geometry: Geometry, index: int, shape: Shape) -> None:
        super().__init__()
        self.geometry, self.shape, self.index, self.local = geometry, shape, index, parts.local
        self.maps = nn.ModuleDict({name: _convolution(weight) for name, weight in parts.maps.items()})
        self.norms = nn.ModuleDict({place: _Norm(gain, geometry.epsilon) for place, gain in parts.norms.items()})
        slots = shape.slots
        self.slot = slots.layers.index(index) if slots is not None and index in slots.layers else None

    def forward(
        self, hidden: Tensor, given: Mapping[str, Tensor], caches: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(1, width, 1, positions) in and out, and the new keys and values, (1, kv heads, head width, positions)."""
        mixed, fresh = self._attention(self.norms["before_attention"](hidden), given, caches)
        hidden = hidden + self._after("after_attention", mixed)
        normed = self.norms["before_mlp"](hidden)
        gate, up = self._map("gate_proj", normed, given), self._map("up_proj", normed, given)
        if self.geometry.activation == "silu":
            gate = nn.functional.silu(gate)
        else:
            gate = nn.functional.gelu(gate, approximate="tanh")
        return hidden + self._after("after_mlp", self._map("down_proj", gate * up, given)), fresh

    def _attention(
        self, normed: Tensor, given: Mapping[str, Tensor], caches: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        kv_heads, width, positions = self.geometry.kv_heads, self.geometry.head_width, self.shape.positions
        group = self.geometry.heads // kv_heads
        queries = self._heads("q", self._map("q_proj", normed, given), given) * self.geometry.score_scale
        new_keys = self._heads("k", self._map("k_proj", normed, given), given)
        new_values = self._map("v_proj", normed, given).reshape(1, kv_heads, width, positions)
        keys, values = self._seen(caches, (new_keys, new_values), given)  # each (1, kv heads, head width, seen)
        queries = queries.reshape(kv_heads, group, width, positions).transpose(2, 3)
        scores = torch.matmul(queries.reshape(1, kv_heads, group * positions, width), keys)
        mask = given["mask_local" if self.local else "mask"]  # (1, 1, positions, seen)
        if positions > 1:
            scores = scores.reshape(kv_heads, group, positions, -1) + mask
            shares = scores.softmax(-1).reshape(1, kv_heads, group * positions, -1)
        else:
            shares = (scores + mask).softmax(-1)
        mixed = torch.matmul(shares, values.transpose(2, 3))  # (1, kv heads, group × positions, head width)
        mixed = mixed.reshape(kv_heads, group, positions, width).transpose(2, 3)
        mixed = mixed.reshape(1, self.geometry.heads * width, 1, positions)
        return self._map("o_proj", mixed, given), (new_keys, new_values)

    def _seen(
        self, caches: tuple[Tensor, ...], fresh: tuple[Tensor, Tensor], given: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of this layer that the positions may look at, those of this call included."""
        row = slice(self.index, self.index + 1)
        if self.shape.cache is Cache.NONE:
            return fresh
        if self.shape.cache is Cache.ARRAYS:
            keys, values = (torch.cat((cache[row], new), 3) for cache, new in zip(caches, fresh, strict=True))
            return keys, values
        write = given["write"]  # (1, 1, positions, context): a one in the column that a position takes
        kept = 1 - (write.sum(2, keepdim=True) if self.shape.positions > 1 else write)
        for cache, new in zip(caches, fresh, strict=True):
            placed = torch.matmul(new, write) if self.shape.positions > 1 else new * write
            cache[row] = cache[row] * kept + placed
        return caches[0][row], caches[1][row]

    def _heads(self, kind: str, mapped: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        """(1, heads × head width, 1, positions) as (1, heads, head width, positions), normed and rotated."""
        heads = mapped.reshape(1, -1, self.geometry.head_width, self.shape.positions)
        if kind in self.norms:
            heads = self.norms[kind](heads.transpose(1, 2)).transpose(1, 2)
        suffix = "_local" if self.local and "cosine_local" in given else ""
        return _rotated(heads, given[f"cosine{suffix}"], given[f"sine{suffix}"], self.geometry.rotated)

    def _map(self, name: str, inputs: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        outputs: Tensor = self.maps[name](inputs)
        if self.slot is None or f"{name}_a" not in given:
            return outputs
        row = slice(self.slot, self.slot + 1)
        narrow = torch.matmul(given[f"{name}_a"][row], inputs.reshape(1, 1, inputs.shape[1], -1))
        added = torch.matmul(given[f"{name}_b"][row], narrow)  # (1, 1, out, positions)
        return outputs + added.reshape(1, outputs.shape[1], 1, -1)

    def _after(self, place: str, outputs: Tensor) -> Tensor:
        return self.norms[place](outputs) if place in self.norms else outputs


class _Norm(nn.Module):
    """Root mean square norm over dimension 1 that no float16 activation overflows."""

    gain: Tensor
    root_epsilon: Tensor

    def __init__(self, gain: Tensor, epsilon: float) -> None:
        super().__init__()
        self.register_buffer("gain", gain.reshape(1, -1, 1, 1))
        # A tensor, because a number divided by a tensor becomes an operation that adds an epsilon of its own.
        self.register_buffer("root_epsilon", torch.full((1, 1, 1, 1), epsilon**0.5))

    def forward(self, inputs: Tensor) -> Tensor:
        # Squares of inputs / peak are at most 1. The inputs themselves are scaled once, by the whole factor: after a
        # division by the peak, channels far below it would be subnormal.
        peak = inputs.abs().amax(1, keepdim=True) + SMALLEST_PEAK
        share = inputs / peak
        shift = self.root_epsilon / peak
        factor = torch.rsqrt((share * share).mean(1, keepdim=True) + shift * shift) / peak
        return inputs * factor * self.gain


def _rotated(heads: Tensor, cosine: Tensor, sine: Tensor, rotated: int) -> Tensor:
    turned, rest = heads[:, :, :rotated], heads[:, :, rotated:]
    first, second = turned[:, :, : rotated // 2], turned[:, :, rotated // 2 :]
    turned = turned * cosine + torch.cat((-second, first), 2) * sine
    return torch.cat((turned, rest), 2) if rest.shape[2] else turned


def _convolution(weight: Weight) -> nn.Conv2d:
    out, width = weight.values.shape
    with torch.device("meta"):
        made = nn.Conv2d(width, out, 1, bias=weight.bias is not None)
    made.weight = nn.Parameter(weight.values[:, :, None, None], requires_grad=False)
    if weight.bias is not None:
        made.bias = nn.Parameter(weight.bias, requires_grad=False)
    return made


def _rows(weight: Weight, start: int) -> Weight:
    return Weight(values=weight.values[start : start + MAX_DIMENSION], tensor=weight.tensor, first=start)
