"""A student and an adapter kind in, one step of private learning as a program out, for devices without Python.

The program takes what the frozen layers made of a few records, and the adapter; it returns the sum over the records of
their clipped gradients. The caller adds such sums up, adds noise once, and applies the update (privacy.dp_sgd's rules).
Forward and backward are traced explicitly: per-example gradients by torch.func, then a graph of plain operations.

The clip must hold in float16, so no norm may be reported too small:

(1) gradients are divided by their largest entry first, so that no square overflows and the largest is not lost;
(2) they are multiplied by SPREAD before they are squared, so that what underflows, or is flushed to zero below the
    smallest normal number, is less than FLUSHED each; that much is added for every number there is, at every level;
(3) squares are averaged FOLD at a time: however a unit accumulates, FOLD float16 additions lose at most FOLD × LOST of
    a sum of nonnegative numbers, and the bound is divided by what is left after all levels;
(4) RESERVE covers the roundings of the clipped values themselves and of their sum.
The result is an upper bound of the norm, and what is clipped by it is within the clip norm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sdk.build.coreml.families import LayerParts, Parts
from sdk.build.coreml.layout import MAX_DIMENSION, TARGETS
from sdk.errors import ConversionError

__all__ = ["KINDS", "LearningShape", "LearningStep", "traced"]

KINDS = ("lora", "frozen-a", "basis")
FOLD = 32  # Numbers that are added up at once.
SPREAD = 16.0  # FOLD × SPREAD² is 8,192: a sum of the largest squares stays within float16.
LOST = 2.0**-10  # Share of a float16 result that one operation may lose, by truncation; rounding loses half of it.
FLUSHED = 2.0**-14 / SPREAD**2  # Largest square, in units of the largest entry, that float16 may lose.
RESERVE = 1.02  # 2^-11 for each rounding of a value and up to 3 · 2^-11 · batch of their sum: under 2 % for 8 records.
SMALLEST = 1e-4  # Added to the largest entry, so that a gradient of zeros divides by something.
MASKED = -1e4


@dataclass(frozen=True, kw_only=True)
class LearningShape:
    """Fixed sizes of one learning step."""

    layers: tuple[int, ...]
    """Adapted layers: the uppermost, without a gap."""
    records: int = 4
    """Records of a call, at most 8 (RESERVE)."""
    positions: int = 64
    """Positions of a record, padding included."""
    rank: int = 8
    kind: str = "frozen-a"
    """One of KINDS: what is trained."""


class LearningStep(nn.Module):
    """Clipped per-example gradients of the upper layers, summed."""

    def __init__(self, parts: Parts, shape: LearningShape, directions: Mapping[str, Tensor] | None = None) -> None:
        """Lay the step out.

        Args:
            parts: The student's.
            shape: Sizes.
            directions: For kind basis: site (`4.q_proj`) to (count, out, rank).

        Raises:
            ConversionError: Another kind or family, layers that are not the uppermost, or a basis that does not fit.
        """
        super().__init__()
        _refuse(parts, shape, directions)
        self.geometry, self.shape = parts.geometry, shape
        self.layers = [parts.layers[index] for index in shape.layers]
        self.final_norm, self.head = parts.final_norm, parts.head.values
        self.sites = [f"{layer}.{target}" for layer in shape.layers for target in TARGETS]
        self.directions = dict(directions or {})
        self.angles = _angles(parts, shape.positions)
        self.future = torch.full((shape.positions, shape.positions), MASKED).triu(1)

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Name to size of every input, in order."""
        shape, width = self.shape, self.geometry.width
        sizes: dict[str, tuple[int, ...]] = {
            "hidden": (shape.records, shape.positions, width),
            "targets": (shape.records, shape.positions, width),  # Rows of the head of each next token.
            "weights": (shape.records, shape.positions),  # One where the next token is learned; zero in padding.
            "clip": (1,),
            "scale": (1,),  # Multiplies the loss, and so the sums: keeps small gradients above float16's smallest.
        }
        for site in self.sites:
            out, inner = self._weight(site).shape
            sizes[f"a.{site}"], sizes[f"b.{site}"] = (shape.rank, inner), (out, shape.rank)
        if shape.kind == "basis":
            sizes["theta"] = (len(next(iter(self.directions.values()))),)
        return {name.replace(".", "_"): size for name, size in sizes.items()}

    @property
    def trained(self) -> list[str]:
        """Names of the inputs whose clipped sums are the outputs, in order; `norms` follows them."""
        if self.shape.kind == "basis":
            return ["theta"]
        sites = [site.replace(".", "_") for site in self.sites]
        factors = ("a", "b") if self.shape.kind == "lora" else ("b",)
        return [f"{factor}_{site}" for site in sites for factor in factors]

    def forward(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        """The sums, and the upper bounds of the norms, shape (records,), both times the loss's scale."""
        given = dict(zip(self.inputs, arrays, strict=True))
        moving = {name: given.pop(name) for name in self.trained}
        batched = [given.pop(name) for name in ("hidden", "targets", "weights")]
        clip, scale = given.pop("clip"), given.pop("scale")

        def loss(trained: Mapping[str, Tensor], hidden: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
            return self._loss(hidden, targets, weights * scale, {**given, **trained})

        gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0, 0))(moving, *batched)
        flat = [gradients[name].reshape(self.shape.records, -1) for name in self.trained]
        norms = norm_bounds(flat)  # (records, 1)
        shares = torch.minimum(clip * scale / norms, torch.ones_like(norms))
        sums = [
            (values * shares).sum(0).reshape(gradients[name].shape[1:])
            for name, values in zip(self.trained, flat, strict=True)
        ]
        return (*sums, norms.reshape(-1))

    def _weight(self, site: str) -> Tensor:
        layer, target = site.split(".")
        return self.layers[self.shape.layers.index(int(layer))].maps[target].values

    def _loss(self, hidden: Tensor, targets: Tensor, weights: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        """Weighted cross-entropy of one record, (positions, width) in: a sum, never a mean."""
        for index, layer in zip(self.shape.layers, self.layers, strict=True):
            hidden = self._layer(hidden, layer, index, given)
        hidden = _normed(hidden, self.final_norm, self.geometry.epsilon)
        starts = range(0, len(self.head), MAX_DIMENSION)
        chunks = [_log_sum(hidden @ self.head[start : start + MAX_DIMENSION].t()) for start in starts]
        total = chunks[0] if len(chunks) == 1 else _log_sum(torch.stack(chunks, -1))  # (positions,)
        return ((total - (hidden * targets).sum(-1)) * weights).sum()

    def _layer(self, hidden: Tensor, layer: LayerParts, index: int, given: Mapping[str, Tensor]) -> Tensor:
        geometry, positions = self.geometry, self.shape.positions
        group = geometry.heads // geometry.kv_heads

        def mapped(name: str, inputs: Tensor) -> Tensor:
            weight, place = layer.maps[name], f"{index}_{name}"
            b = given[f"b_{place}"]
            if (moves := self.directions.get(f"{index}.{name}")) is not None:
                b = b + (given["theta"] @ moves.flatten(1)).reshape(b.shape)
            return inputs @ weight.values.t() + (inputs @ given[f"a_{place}"].t()) @ b.t()

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


def norm_bounds(flat: Sequence[Tensor]) -> Tensor:
    """Upper bounds of the Euclidean norm of each record's gradient, valid in float16.

    Args:
        flat: Gradients of each parameter, (records, numbers).

    Returns:
        Shape (records, 1): at least the norm of the numbers given, and about 8 per cent more; infinite where float16
        cannot hold it, which clips the record to nothing.
    """
    peak = torch.stack([values.abs().amax(1, keepdim=True) for values in flat]).amax(0) + SMALLEST  # (records, 1)
    total = torch.zeros_like(peak)
    added, deepest = 0.0, 0
    for values in flat:
        level, held, depth = (values / peak * SPREAD) ** 2, 1, 0
        while level.shape[1] > 1:
            added += level.shape[1] * held * FLUSHED  # Each number of this level may have been flushed to zero.
            level = _folded(level)
            held, depth = held * FOLD, depth + 1
        added += held * FLUSHED
        total = total + level * (held / SPREAD**2)
        deepest = max(deepest, depth)
    gained = (1 - FOLD * LOST) ** -deepest * (1 - (len(flat) + 8) * LOST) ** -1  # 8: roundings before and after.
    bound: Tensor = peak * torch.sqrt(total * gained + added) * RESERVE
    return bound


def _folded(level: Tensor) -> Tensor:
    """Means of FOLD numbers each, the last filled up with zeros: (records, n) in, (records, n / FOLD upwards) out."""
    missing = -level.shape[1] % FOLD
    if missing:
        level = torch.cat((level, torch.zeros_like(level[:, :1]).expand(-1, missing)), 1)
    return level.reshape(len(level), -1, FOLD).mean(2)


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


def _refuse(parts: Parts, shape: LearningShape, directions: Mapping[str, Tensor] | None) -> None:
    if parts.family != "llama":
        raise ConversionError(f"family {parts.family} learns nothing on a device: adapters exist for llama only")
    count = len(parts.layers)
    if not shape.layers or shape.layers != tuple(range(count - len(shape.layers), count)):
        raise ConversionError(f"a learning step needs the uppermost of {count} layers, got {shape.layers}")
    if shape.kind not in KINDS:
        raise ConversionError(
            f"kind {shape.kind!r} has no learning step here; choose one of {', '.join(KINDS)} (xs needs singular "
            "vectors of the base as further constants)"
        )
    if (shape.kind == "basis") != bool(directions):
        raise ConversionError("directions go with kind basis, and kind basis needs them")
    if not 1 <= shape.records <= 8:
        raise ConversionError(f"records of a call must be 1 to 8, got {shape.records}: the clip's reserve covers 8")


def traced(step: LearningStep) -> Any:
    """The step's forward and backward as one graph of plain operations, which coremltools converts.

    torch.func leaves views, copies and empty tensors that its front end does not take; they are rewritten.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    examples = [torch.full(size, 0.01) for size in step.inputs.values()]
    pure = torch.func.functionalize(step.forward, remove="mutations_and_views")
    table: Any = torch._decomp.core_aten_decompositions()
    graph = make_fx(pure, decomposition_table=table)(*examples)
    _plain(graph)
    graph.eval()
    return torch.jit.trace(graph, tuple(examples), check_trace=False)


def _plain(module: Any) -> None:
    graph = module.graph
    for node in list(graph.nodes):
        name = str(node.target)
        if name.startswith(("aten.clone", "aten.alias", "aten.detach", "aten.lift")):
            node.replace_all_uses_with(node.args[0])
        elif name.startswith("aten.copy."):
            node.replace_all_uses_with(node.args[1])
        elif name.startswith("aten.empty"):
            with graph.inserting_before(node):
                zeros = graph.call_function(torch.ops.aten.full.default, (node.args[0], 0.0))
            node.replace_all_uses_with(zeros)
        elif name.startswith("aten.view"):
            node.target = torch.ops.aten.reshape.default
    graph.eliminate_dead_code()
    module.recompile()
