"""What public people taught of one kind of text, as a folder: a domain adapter, and directions for how people differ.

The directions are stored with 4 bits a number: a direction that is a little off is still a direction, and all that
matters is that the device and the maker use the same values. Both read them through `load`.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from personalize.adapter import Adapter
from personalize.errors import AdapterError, PackError
from personalize.trainable import Basis

__all__ = ["DomainPack", "quantised"]

FORMAT = "basis/2"
LEVELS = 7  # Four bits with a sign: -7 to 7.
GROUP = 64  # Numbers that share a scale: 2 bytes to 32.
MAX_DIRECTIONS = 512  # 1 GB of them in memory; a larger pack is not ours.


@dataclass(frozen=True, kw_only=True)
class DomainPack:
    """What public people taught about one kind of text."""

    start: Adapter
    """Domain adapter, gated on public probes."""
    basis: Basis
    """Directions at that adapter, exactly the values that a device reads back."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What it was learned from: counts of people and records, licence and origin of their text."""

    def first(self, directions: int) -> "DomainPack":
        """The same with only the strongest directions."""
        kept = {site: value[:directions] for site, value in self.basis.directions.items()}
        return replace(self, basis=Basis(directions=kept, variance=self.basis.variance[:directions]))

    def with_facts(self, facts: Mapping[str, Any]) -> "DomainPack":
        """The same with more written on its card, such as the licence of the text."""
        return replace(self, facts={**self.facts, **facts})

    def save(self, folder: Path) -> None:
        """Write the pack, whole or not at all."""
        staged = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        self.start.save(staged / "start")
        tensors = {"variance": self.basis.variance.contiguous()}
        for site, directions in self.basis.directions.items():
            tensors |= {f"{site}.{part}": value for part, value in _packed(directions.flatten(1)).items()}
        save_file(tensors, staged / "basis.safetensors")
        card = {"format": FORMAT, "directions": len(self.basis), "facts": dict(self.facts)}
        (staged / "basis.json").write_text(json.dumps(card, indent=1, sort_keys=True) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        staged.rename(folder)

    @classmethod
    def load(cls, folder: Path, *, base_digest: str) -> "DomainPack":
        """Read a pack.

        Raises:
            PackError: It is missing, damaged, of another format or for another base.
        """
        try:
            card = json.loads((folder / "basis.json").read_text())
            if card["format"] != FORMAT:
                raise PackError(f"basis in {folder.name} has format {card['format']!r}, this version reads {FORMAT}")
            start = Adapter.load(folder / "start", base_digest=base_digest)
            basis = _basis(load_file(folder / "basis.safetensors"), start)
            return cls(start=start, basis=basis, facts=dict(card["facts"]))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, AdapterError) as cause:
            raise PackError(
                f"basis in {folder.name} cannot be read ({cause}); learn it again with `limbeck build basis`"
            ) from cause


def quantised(basis: Basis) -> Basis:
    """The directions as they are after storing: what a maker must measure with."""
    kept = {
        site: _unpacked(_packed(value.flatten(1)), value[0].numel()).reshape(value.shape)
        for site, value in basis.directions.items()
    }
    return Basis(directions=kept, variance=basis.variance)


def _basis(tensors: Mapping[str, Tensor], start: Adapter) -> Basis:
    variance = tensors["variance"]
    if not 0 < len(variance) <= MAX_DIRECTIONS or not bool((variance > 0).all()) or not bool(variance.isfinite().all()):
        raise ValueError(f"{len(variance)} directions, or a variance that is not above 0")
    directions = {}
    named = {name.rsplit(".", 1)[0] for name in tensors if name != "variance"}
    if not named or not named <= start.b.keys():
        raise ValueError("directions at places that the start has not")
    for site in (site for site in start.b if site in named):
        like = start.b[site]
        flat = _unpacked({part: tensors[f"{site}.{part}"] for part in ("codes", "scales", "sizes")}, like.numel())
        if len(flat) != len(variance) or not bool(flat.isfinite().all()):
            raise ValueError(f"{len(flat)} directions at {site}, or one that is not finite")
        directions[site] = flat.reshape(-1, *like.shape)
    return Basis(directions=directions, variance=variance)


def _packed(flat: Tensor) -> dict[str, Tensor]:
    """Shape (count, numbers) in; codes, two to a byte, a scale of each group, and the size of each direction."""
    count, numbers = flat.shape
    sizes = flat.float().abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny)  # (count,); keeps scales in fp16
    padded = torch.nn.functional.pad(flat.float() / sizes[:, None], (0, -numbers % GROUP)).reshape(count, -1, GROUP)
    scales = (padded.abs().amax(2) / LEVELS).half()  # (count, groups)
    safe = scales.float().clamp_min(torch.finfo(torch.float16).tiny)[..., None]
    codes = ((padded / safe).round().clamp(-LEVELS, LEVELS) + 8).to(torch.uint8).reshape(count, -1, 2)
    return {
        "codes": (codes[..., 0] | (codes[..., 1] << 4)).contiguous(),
        "scales": scales.contiguous(),
        "sizes": sizes.contiguous(),
    }


def _unpacked(stored: Mapping[str, Tensor], numbers: int) -> Tensor:
    codes = stored["codes"]
    both = torch.stack([codes & 15, codes >> 4], dim=-1).reshape(len(codes), -1, GROUP)  # (count, groups, GROUP)
    values = (both.float() - 8) * stored["scales"].float()[..., None]
    return values.reshape(len(codes), -1)[:, :numbers] * stored["sizes"][:, None]
