"""The LoRA adapter as a value: attach, save, load, which base it fits.

In effect an adapter is y = W x + B A x on some linear maps of the upper layers. How it was trained (`kind`) does not
change what it is, so every kind is saved as a standard PEFT LoRA folder with one more file, `adapter.json`, which names
the base that it fits. The kinds themselves stand in personalize.trainable.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor, nn

from personalize.errors import AdapterError, BaseMismatchError
from privacy.per_example import low_rank_linear

__all__ = ["TARGETS", "Adapter", "AdapterSpec", "attached", "fresh", "sites"]

FORMAT = "adapter/1"
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_PEFT_PREFIX = "base_model.model."  # How peft names a tensor of a wrapped causal language model.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError)
_FRAME_SEED = 20_240_601  # The frozen frame A is public and the same everywhere, so that adapters add up.


@dataclass(frozen=True, kw_only=True)
class AdapterSpec:
    """Where an adapter sits and how wide it is."""

    layers: tuple[int, ...]
    """Indices of the adapted layers, ascending; all layers below the first are frozen and cached."""
    rank: int = 8
    """Columns of B, ≥ 1."""
    targets: tuple[str, ...] = TARGETS
    """Names of the adapted linear maps inside a layer."""

    def __post_init__(self) -> None:
        if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise ValueError(f"layers must be ascending and not empty, got {self.layers}")
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")

    @property
    def cut(self) -> int:
        """Number of layers below the first adapted one."""
        return self.layers[0]


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Low-rank corrections of named linear maps, bound to one base model."""

    spec: AdapterSpec
    fits_base: str
    """Digest of the base checkpoint, `sha256:…`."""
    a: Mapping[str, Tensor]
    """Site name to A, shape (rank, in)."""
    b: Mapping[str, Tensor]
    """Site name to B, shape (out, rank); the scale is folded in."""
    kind: str = "frozen-a"
    """How it was trained: `lora`, `frozen-a`, `xs` or `basis`."""

    def toward(self, other: "Adapter", alpha: float) -> "Adapter":
        """The adapter at `alpha` of the way from this one to `other`: 0 is this one, 1 is the other.

        Source: weight interpolation (WiSE-FT), arXiv:2109.01903; for equal A the path is a straight line in B A.
        """
        if self.spec != other.spec or self.fits_base != other.fits_base:
            raise AdapterError("cannot interpolate adapters of different shape or base; learn again from the old one")
        return replace(
            other,
            a={site: torch.lerp(self.a[site], other.a[site], alpha) for site in self.a},
            b={site: torch.lerp(self.b[site], other.b[site], alpha) for site in self.b},
        )

    def scaled(self, share: float) -> "Adapter":
        """The adapter with its correction times `share`; 0 changes nothing and has the same shape."""
        return replace(self, b={site: share * value for site, value in self.b.items()})

    def to_bytes(self) -> bytes:
        """The adapter as one safetensors file with its card inside; `from_bytes` reads it."""
        return save(self._tensors(), metadata={"format": "pt", "adapter": json.dumps(self._card(), sort_keys=True)})

    @classmethod
    def from_bytes(cls, content: bytes, *, base_digest: str, name: str = "in the file") -> "Adapter":
        """Read what `to_bytes` wrote and check that it fits.

        Raises:
            BaseMismatchError: It was learned on another base model.
            AdapterError: It is damaged or of a newer format.
        """
        try:
            size = int.from_bytes(content[:8], "little")  # A safetensors file begins with the length of its header.
            card = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["adapter"])
            return cls._of(name, card, lambda: load(content), base_digest)
        except _UNREADABLE as cause:
            raise AdapterError(f"adapter {name} cannot be read ({cause}); export it again") from cause

    def save(self, folder: Path, *, extra: Mapping[str, Any] | None = None) -> None:
        """Write a PEFT LoRA folder, whole and synced, or nothing.

        Args:
            folder: Must not exist.
            extra: Further files of the folder: name to JSON content.

        Raises:
            AdapterError: The disk is full or read-only; nothing is left at `folder`.
        """
        from peft import LoraConfig  # Brings all of transformers with it, which takes a second and no answer needs.

        staged = folder.with_name(f".{folder.name}.{os.getpid()}")
        try:
            staged.mkdir(parents=True)
            save_file(self._tensors(), staged / "adapter_model.safetensors", metadata={"format": "pt"})
            LoraConfig(
                r=self.spec.rank,
                lora_alpha=self.spec.rank,
                target_modules=list(self.spec.targets),
                layers_to_transform=list(self.spec.layers),
                layers_pattern="layers",
                task_type="CAUSAL_LM",
                inference_mode=True,
            ).save_pretrained(str(staged))
            for name, content in {"adapter.json": self._card(), **(extra or {})}.items():
                (staged / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
            for path in staged.iterdir():
                _sync(path)
            _sync(staged)
            staged.rename(folder)
            _sync(folder.parent)
        except (OSError, SafetensorError) as cause:
            for path in staged.glob("*"):
                path.unlink(missing_ok=True)
            if staged.exists():
                staged.rmdir()
            raise AdapterError(
                f"adapter not saved to {folder.name}: {cause}; free some space and learn again"
            ) from cause

    @classmethod
    def load(cls, folder: Path, *, base_digest: str) -> "Adapter":
        """Read an adapter folder and check that it fits.

        Raises:
            BaseMismatchError: It was learned on another base model.
            AdapterError: A file is missing, damaged or of a newer format.
        """
        try:
            card = json.loads((folder / "adapter.json").read_text())
            return cls._of(folder.name, card, lambda: load_file(folder / "adapter_model.safetensors"), base_digest)
        except _UNREADABLE as cause:
            raise AdapterError(f"adapter {folder.name} cannot be read ({cause}); roll back or learn again") from cause

    @classmethod
    def _of(
        cls, name: str, card: Mapping[str, Any], read: Callable[[], Mapping[str, Tensor]], base_digest: str
    ) -> "Adapter":
        if card["format"] != FORMAT:
            raise AdapterError(
                f"adapter {name} has format {card['format']!r}, this version reads {FORMAT}; update limbeck"
            )
        if card["fits_base"] != base_digest:
            raise BaseMismatchError(
                f"adapter {name} was learned on base {card['fits_base'][:19]}…, "
                f"this base is {base_digest[:19]}…; install the base it fits, or learn again"
            )
        spec = AdapterSpec(layers=tuple(card["layers"]), rank=int(card["rank"]), targets=tuple(card["targets"]))
        a: dict[str, Tensor] = {}
        b: dict[str, Tensor] = {}
        for tensor, value in read().items():
            site, factor = tensor.removeprefix(_PEFT_PREFIX).removesuffix(".weight").rsplit(".", 1)
            (a if factor == "lora_A" else b)[site] = value
        if not _whole(spec, a, b):
            raise AdapterError(
                f"adapter {name} has {len(a)} A and {len(b)} B factors, not one finite pair of rank "
                f"{spec.rank} for each map; it is damaged, roll back or learn again"
            )
        return cls(spec=spec, fits_base=card["fits_base"], a=a, b=b, kind=str(card["kind"]))

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"{_PEFT_PREFIX}{site}.lora_A.weight": value.contiguous() for site, value in self.a.items()}
        return tensors | {f"{_PEFT_PREFIX}{site}.lora_B.weight": value.contiguous() for site, value in self.b.items()}

    def _card(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "fits_base": self.fits_base,
            "kind": self.kind,
            "rank": self.spec.rank,
            "layers": list(self.spec.layers),
            "targets": list(self.spec.targets),
        }


def _whole(spec: AdapterSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether the factors are those of the spec: each map once, both of its rank, every number finite."""
    places = [
        [site for site in a if site.startswith(f"model.layers.{layer}.") and site.endswith(f".{target}")]
        for layer in spec.layers
        for target in spec.targets
    ]
    if a.keys() != b.keys() or len(a) != len(places) or any(len(found) != 1 for found in places):
        return False
    return all(
        a[site].dim() == b[site].dim() == 2
        and a[site].shape[0] == b[site].shape[1] == spec.rank
        and bool(a[site].isfinite().all() and b[site].isfinite().all())
        for site in a
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sites(model: nn.Module, spec: AdapterSpec) -> dict[str, nn.Linear]:
    """The linear maps that a spec names, by full name, in a fixed order.

    Raises:
        AdapterError: The model has no such layer or map.
    """
    found: dict[str, nn.Linear] = {}
    for layer in spec.layers:
        prefix = f"model.layers.{layer}."
        for name, module in model.named_modules():
            if name.startswith(prefix) and name.rsplit(".", 1)[-1] in spec.targets:
                found[name] = module.base if isinstance(module, AdaptedLinear) else module
    if len(found) != len(spec.layers) * len(spec.targets):
        raise AdapterError(
            f"model has {len(found)} of the {len(spec.layers) * len(spec.targets)} adapted maps; "
            "the adapter is for a deeper or other model"
        )
    return found


def fresh(model: nn.Module, spec: AdapterSpec, *, fits_base: str) -> Adapter:
    """An adapter that changes nothing: B = 0, and A an orthonormal frame that is the same on every device."""
    a, b = {}, {}
    for index, (name, linear) in enumerate(sites(model, spec).items()):
        generator = torch.Generator().manual_seed(_FRAME_SEED + index)
        frame = torch.randn(linear.in_features, spec.rank, generator=generator)
        a[name] = torch.linalg.qr(frame)[0].t().contiguous().to(linear.weight.dtype)  # (rank, in)
        b[name] = torch.zeros(linear.out_features, spec.rank, dtype=linear.weight.dtype)  # (out, rank)
    return Adapter(spec=spec, fits_base=fits_base, a=a, b=b)


class AdaptedLinear(nn.Module):
    """A frozen linear map with a low-rank correction; `train_with` decides what its backward leaves."""

    def __init__(self, base: nn.Linear, a: Tensor, b: Tensor) -> None:
        """Wrap `base`; its weight stays frozen."""
        super().__init__()
        self.base, self.a, self.b = base, a, b
        self.route: Any = None
        self.trained: tuple[Tensor, ...] = ()

    def forward(self, inputs: Tensor) -> Tensor:
        """Shape (batch, seq, in) in, (batch, seq, out) out."""
        if self.route is not None and torch.is_grad_enabled():
            outputs = low_rank_linear(inputs, self.base.weight, self.a, self.b, self.route, self.trained)
        else:
            outputs = inputs @ self.base.weight.t() + (inputs @ self.a.t()) @ self.b.t()
        bias: Any = self.base.bias  # Declared a tensor by torch; None where a map has no bias.
        return outputs if bias is None else outputs + bias


@contextmanager
def attached(model: nn.Module, adapter: Adapter) -> Iterator[dict[str, AdaptedLinear]]:
    """Put an adapter on a model for the time of a `with` block; afterwards the model is exactly what it was."""
    wrapped = {
        name: AdaptedLinear(linear, adapter.a[name], adapter.b[name])
        for name, linear in sites(model, adapter.spec).items()
    }
    before = {name: model.get_submodule(name) for name in wrapped}
    try:
        for name, module in wrapped.items():
            model.set_submodule(name, module)
        yield wrapped
    finally:
        for name, old in before.items():
            model.set_submodule(name, old)
