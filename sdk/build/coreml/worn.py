"""A student and an adapter kind in, what it trains and the factors B that this stands for out, as decoding takes them.

Of `lora` and `frozen-a` the numbers that are trained are factors themselves. Of `xs` and `basis` a device would have to
multiply by singular vectors or directions: this is that product as a graph.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from personalize.trainable import KINDS
from sdk.build.coreml.clipping import MAX_RECORDS
from sdk.build.coreml.families import Parts
from sdk.build.coreml.layout import TARGETS
from sdk.errors import ConversionError

__all__ = ["LearningShape", "Worn"]


@dataclass(frozen=True, kw_only=True)
class LearningShape:
    """Fixed sizes of one learning step."""

    layers: tuple[int, ...]
    """Adapted layers: the uppermost, without a gap."""
    records: int = 4
    """Records of a call, 1 to MAX_RECORDS."""
    positions: int = 64
    """Positions of a record, padding included."""
    rank: int = 8
    kind: str = "basis"
    """One of personalize.trainable.KINDS: what is trained."""


class Worn(nn.Module):
    """What is trained in, the factors B that it stands for out, as decoding takes them; for `xs` and `basis`."""

    def __init__(self, parts: Parts, shape: LearningShape, directions: Mapping[str, Tensor] | None = None) -> None:
        """Lay it out.

        Args:
            parts: The student's.
            shape: Sizes.
            directions: For kind basis: site (`26.q_proj`) to (count, out, rank); sites not named stay as they are.

        Raises:
            ConversionError: Another kind or family, layers that are not the uppermost, or directions that do not fit.
        """
        super().__init__()
        _refuse(parts, shape, directions)
        self.shape = shape
        self.layers = [parts.layers[index] for index in shape.layers]
        self.directions = dict(directions or {})
        self.left = self._left() if shape.kind == "xs" else {}

    @property
    def trained(self) -> dict[str, tuple[int, ...]]:
        """Name to size of what is trained."""
        shape, count = self.shape, len(self.shape.layers)
        if shape.kind == "basis":
            return {"theta": (len(next(iter(self.directions.values()))),)}
        if shape.kind == "xs":
            return {f"{target}_core": (count, 1, shape.rank, shape.rank) for target in TARGETS}
        factors = "ab" if shape.kind == "lora" else "b"
        return {name: size for name, size in self.factors.items() if name[-1] in factors}

    @property
    def factors(self) -> dict[str, tuple[int, ...]]:
        """Name to size of the adapter's inputs: those of decoding."""
        sizes: dict[str, tuple[int, ...]] = {}
        for target in TARGETS:
            out, inner = self.layers[0].maps[target].values.shape
            sizes[f"{target}_a"] = (len(self.layers), 1, self.shape.rank, inner)
            sizes[f"{target}_b"] = (len(self.layers), 1, out, self.shape.rank)
        return sizes

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Name to size of every input of the caller, in order; the factors are those that learning began with."""
        return {name: size for name, size in self.factors.items() if name.endswith("_b")} | self.trained

    @property
    def outputs(self) -> dict[str, tuple[int, ...]]:
        """Name to size of the outputs, in order."""
        return {f"worn_{name}": size for name, size in self.factors.items() if name.endswith("_b")}

    @property
    def frozen(self) -> dict[str, Tensor]:
        """Name to matrix, (count, out × rank), of what the graph takes after the caller's inputs."""
        return {f"directions.{site}": value.flatten(1) for site, value in self.directions.items()}

    def forward(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        """B of each target, (layers, 1, out, rank)."""
        given = dict(zip((*self.inputs, *self.frozen), arrays, strict=True))
        return tuple(
            torch.stack([self.factor(layer, target, given) for layer in self.shape.layers])[:, None]
            for target in TARGETS
        )

    def factor(self, layer: int, target: str, given: Mapping[str, Any]) -> Tensor:
        """B of one map, (out, rank)."""
        row, site = self.shape.layers.index(layer), f"{layer}.{target}"
        b: Tensor = given[f"{target}_b"][row][0]
        if self.shape.kind == "xs":
            b = b + self.left[site] @ given[f"{target}_core"][row][0]
        elif site in self.directions:
            b = b + (given["theta"][None] @ given[f"directions.{site}"]).reshape(b.shape)
        return b

    def _left(self) -> dict[str, Tensor]:
        """The leading left singular vectors of each map, (out, rank), as personalize.trainable takes them."""
        return {
            f"{index}.{target}": torch.linalg.svd(layer.maps[target].values, full_matrices=False)[0][
                :, : self.shape.rank
            ].contiguous()
            for index, layer in zip(self.shape.layers, self.layers, strict=True)
            for target in TARGETS
        }


def _refuse(parts: Parts, shape: LearningShape, directions: Mapping[str, Tensor] | None) -> None:
    if parts.family != "llama":
        raise ConversionError(f"family {parts.family} learns nothing on a device: adapters exist for llama only")
    count = len(parts.layers)
    if not shape.layers or shape.layers != tuple(range(count - len(shape.layers), count)):
        raise ConversionError(f"a learning step needs the uppermost of {count} layers, got {shape.layers}")
    if shape.kind not in KINDS:
        raise ConversionError(f"kind {shape.kind!r} has no learning step; choose one of {', '.join(KINDS)}")
    if (shape.kind == "basis") != bool(directions):
        raise ConversionError("directions go with kind basis, and kind basis needs them; give --basis")
    if not 1 <= shape.records <= MAX_RECORDS:
        raise ConversionError(
            f"records of a call must be 1 to {MAX_RECORDS}, got {shape.records}: the clip's reserve covers no more"
        )
    if shape.positions < 2:
        raise ConversionError(f"a record needs at least 2 positions, got {shape.positions}")
    for site, value in (directions or {}).items():
        layer, target = site.split(".")
        fits = int(layer) in shape.layers and value.shape[2] == shape.rank
        if not fits or value.shape[1] != len(parts.layers[int(layer)].maps[target].values):
            raise ConversionError(
                f"the directions at {site} have size {tuple(value.shape)} and do not fit the {len(shape.layers)} upper "
                f"layers at rank {shape.rank}; give --adapter-layers and --adapter-rank of the basis"
            )
