"""A compiled package's contract.json and tokens in, the arrays of one call out: what a device must know to feed it.

The maker's side writes the contract (sdk.build.coreml); this is the other reader, which must not import it. Contracts
of plain Llamas only: no windows, no scaled embeddings that another family would need.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from personalize.adapter import Adapter
from personalize.errors import AdapterError
from sdk.errors import BundleError, EngineError

__all__ = ["Compiled", "contract_file"]

FORMAT = "coreml-contract/1"
PREFILL, DECODE = "prefill", "decode"

Floats = NDArray[np.float32]


def contract_file(package: Path) -> Path:
    """Where `limbeck build coreml` puts the contract."""
    return package / "Data" / "limbeck" / "contract.json"


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What a caller keeps to."""

    base_digest: str
    context: int
    """Positions of the cache."""
    prefill: int
    """Positions of one prefill call; 1 without that function."""
    state: bool
    """Whether keys and values are the model's state; else arrays that go in and come out."""
    vocabulary: int
    frequencies: Floats
    """Of the rotation, one row of half a head, repeated."""
    scales: tuple[float, float]
    """Of embedding and rotation."""
    masked: float
    """Added to the score of what must not be seen."""
    layers: tuple[int, ...]
    """Layers with slots for an adapter."""
    rank: int
    """Of the slots."""
    sizes: Mapping[str, Mapping[str, tuple[int, ...]]]
    """Function to the size of each of its inputs."""

    @classmethod
    def read(cls, package: Path) -> "Compiled":
        """Read a package's contract.

        Raises:
            EngineError: It has none, or one of another format or family.
            BundleError: It is damaged.
        """
        file = contract_file(package)
        if not file.is_file():
            raise EngineError(f"{package.name} was not made by `limbeck build coreml`: it has no contract")
        try:
            fields = json.loads(file.read_text(encoding="utf-8"))
            if fields["format"] != FORMAT or fields["window"] or "local" in fields["rotation"]:
                raise EngineError(f"{package.name} has a contract of another format or family; update limbeck")
            return cls._of(fields)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
            raise BundleError(f"the contract of {package.name} cannot be read ({cause!r:.120})") from cause

    @classmethod
    def _of(cls, fields: Mapping[str, Any]) -> "Compiled":
        slots = fields["adapter"] or {"layers": (), "rank": 0}
        return cls(
            base_digest=fields["base_digest"],
            context=fields["context"],
            prefill=fields["prefill_positions"] if PREFILL in fields["functions"] else 1,
            state=fields["cache"] == "state",
            vocabulary=fields["vocabulary"],
            frequencies=np.tile(np.array(fields["rotation"]["global"], np.float32), 2),
            scales=(float(fields["embedding_scale"]), float(fields["rotation_scale"])),
            masked=float(fields["masked"]),
            layers=tuple(slots["layers"]),
            rank=int(slots["rank"]),
            sizes={
                name: {array: tuple(size) for array, size in kinds["inputs"].items()}
                for name, kinds in fields["functions"].items()
                if name in (PREFILL, DECODE)
            },
        )

    def arrays(self, embedded: Floats, *, start: int) -> tuple[str, dict[str, Floats]]:
        """A function and its inputs, but for the cache and the adapter.

        Args:
            embedded: Rows of the embedding, shape (tokens, width), 1 ≤ tokens ≤ prefill.
            start: Position of the first.
        """
        count = len(embedded)
        function, positions = (DECODE, 1) if count == 1 else (PREFILL, self.prefill)
        hidden = np.zeros((1, embedded.shape[1], 1, positions), np.float32)
        hidden[0, :, 0, :count] = embedded.T * self.scales[0]
        places = start + np.arange(positions)
        angles = np.outer(self.frequencies, places.astype(np.float32))  # (rotated, positions)
        found = {
            "hidden": hidden,
            "cosine": np.cos(angles)[None, None] * self.scales[1],
            "sine": np.sin(angles)[None, None] * self.scales[1],
            "mask": self._mask(places, start),
        }
        if self.state:
            found["write"] = np.zeros((1, 1, positions, self.context), np.float32)
            found["write"][0, 0, np.arange(count), places[:count]] = 1
        if positions > 1:
            found["select"] = np.zeros((1, 1, positions, 1), np.float32)
            found["select"][0, 0, count - 1] = 1
        return function, found

    def _mask(self, places: NDArray[np.int64], start: int) -> Floats:
        """Shape (1, 1, positions, seen): the cache by position, and without a state this call's columns after it."""
        seen = np.arange(self.context)
        if not self.state:
            seen = np.concatenate([np.where(seen < start, seen, np.iinfo(np.int64).max), places])
        return np.where(seen[None] <= places[:, None], 0.0, self.masked).astype(np.float32)[None, None]

    def nothing_worn(self) -> dict[str, Floats]:
        """Adapter inputs that change nothing."""
        inputs = self.sizes[DECODE]
        return {
            name: np.zeros(size, np.float32) for name, size in inputs.items() if name.endswith(("_proj_a", "_proj_b"))
        }

    def worn(self, adapter: Adapter) -> dict[str, Floats]:
        """The adapter inputs, stacked over the layers with slots and padded with zeros to their rank.

        Raises:
            AdapterError: It sits where the package has no slot, or is of a larger rank.
        """
        arrays, homes = self.nothing_worn(), {layer: place for place, layer in enumerate(self.layers)}
        for site, a in adapter.a.items():
            layer, target, rank = int(site.split(".")[2]), site.rsplit(".", 1)[-1], len(a)
            if layer not in homes or f"{target}_a" not in arrays or rank > self.rank:
                raise AdapterError(
                    f"the adapter has rank {rank} on layer {layer}; the compiled model takes rank {self.rank} at most, "
                    f"on layers {', '.join(map(str, self.layers)) or 'none'}: use another engine"
                )
            arrays[f"{target}_a"][homes[layer], 0, :rank] = a.detach().float().numpy()
            arrays[f"{target}_b"][homes[layer], 0, :, :rank] = adapter.b[site].detach().float().numpy()
        return arrays
