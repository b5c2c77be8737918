"""A Hugging Face decoder in, its parts under one set of names out: Llama, Qwen 2 and 3, Phi-3, Gemma 3.

Weights are taken as they are, so that a grid they stand on survives. What a family does differently (biases, fused
maps, norms of heads, norms after a map, windows) becomes a field of the parts; layout.py knows no family.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdk.errors import ConversionError

__all__ = ["FAMILIES", "Geometry", "LayerParts", "Parts", "Weight", "parts_of"]


@dataclass(frozen=True, kw_only=True)
class Weight:
    """Rows of one tensor of the checkpoint."""

    values: Tensor
    """Shape (out, in), float32."""
    tensor: str
    """Name of the tensor in the checkpoint."""
    first: int = 0
    """First row of it that is taken."""
    bias: Tensor | None = None
    """Shape (out,)."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Sizes of a decoder."""

    width: int
    """Channels of the hidden state."""
    heads: int
    """Query heads."""
    kv_heads: int
    """Key and value heads; divides `heads`."""
    head_width: int
    """Channels of a head."""
    vocabulary: int
    """Tokens."""
    epsilon: float
    """Added to the mean square in every norm."""
    activation: str
    """`silu` or `gelu_tanh`."""
    score_scale: float
    """Queries are multiplied by it."""
    rotated: int
    """Leading channels of a head that positions rotate."""
    embedding_scale: float
    """Embeddings are multiplied by it before the first layer."""
    window: int
    """Positions that a local layer sees, itself included; 0 where no layer is local."""


@dataclass(frozen=True, kw_only=True)
class LayerParts:
    """One layer."""

    maps: dict[str, Weight]
    """q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj."""
    norms: dict[str, Tensor]
    """Gains by place: before_attention, before_mlp, and where the family has them after_attention, after_mlp, q, k."""
    local: bool
    """Whether attention sees a window only, with the local rotation."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A decoder, ready to be laid out."""

    family: str
    """The checkpoint's model type."""
    geometry: Geometry
    layers: tuple[LayerParts, ...]
    final_norm: Tensor
    """Shape (width,)."""
    head: Weight
    """Shape (vocabulary, width)."""
    tied: bool
    """Whether the embedding is the head's rows."""
    embedding: Tensor
    """Shape (vocabulary, width)."""
    rotation: dict[str, Tensor]
    """Inverse frequencies by kind, `global` and where there are windows `local`; shape (rotated / 2,)."""
    rotation_scale: float
    """Cosines and sines are multiplied by it."""


def parts_of(model: Any) -> Parts:
    """Take a decoder apart.

    Args:
        model: A Hugging Face causal language model in float32 of one of FAMILIES.

    Raises:
        ConversionError: Another family, a mixture of experts, or a part that this layout does not have.
    """
    config = model.config
    family = str(config.model_type)
    _refuse_experts(model, family)
    if family not in FAMILIES:
        raise ConversionError(f"family {family} has no Core ML layout here; the families are {', '.join(FAMILIES)}")
    if getattr(config, "final_logit_softcapping", None) or getattr(config, "attn_logit_softcapping", None):
        raise ConversionError(f"family {family} with capped logits has no Core ML layout here; train without the caps")
    geometry = _geometry(config, family, model.model.rotary_emb)
    gain = _gain(family)
    layers = tuple(
        LayerParts(
            maps=_maps(f"model.layers.{index}.", layer, geometry),
            norms={place: gain(getattr(owner(layer), name)) for place, owner, name in FAMILIES[family]},
            local=geometry.window > 0 and _is_local(config, index),
        )
        for index, layer in enumerate(model.model.layers)
    )
    tied = bool(config.tie_word_embeddings)
    head = "model.embed_tokens.weight" if tied else "lm_head.weight"
    rotation, scale = _rotation(model.model.rotary_emb)
    return Parts(
        family=family,
        geometry=geometry,
        layers=layers,
        final_norm=gain(model.model.norm),
        head=Weight(values=model.lm_head.weight.detach().float(), tensor=head),
        tied=tied,
        embedding=model.model.embed_tokens.weight.detach().float(),
        rotation=rotation,
        rotation_scale=scale,
    )


def _whole(layer: Any) -> Any:
    return layer


def _attention(layer: Any) -> Any:
    return layer.self_attn


_PLAIN_NORMS = (
    ("before_attention", _whole, "input_layernorm"),
    ("before_mlp", _whole, "post_attention_layernorm"),
)
_HEAD_NORMS = (("q", _attention, "q_norm"), ("k", _attention, "k_norm"))
FAMILIES: dict[str, tuple[tuple[str, Callable[[Any], Any], str], ...]] = {
    "llama": _PLAIN_NORMS,
    "qwen2": _PLAIN_NORMS,
    "qwen3": _PLAIN_NORMS + _HEAD_NORMS,
    "phi3": _PLAIN_NORMS,
    "gemma3_text": (
        ("before_attention", _whole, "input_layernorm"),
        ("after_attention", _whole, "post_attention_layernorm"),
        ("before_mlp", _whole, "pre_feedforward_layernorm"),
        ("after_mlp", _whole, "post_feedforward_layernorm"),
        *_HEAD_NORMS,
    ),
}
"""Model types and where their norms stand: (place, what holds it, attribute)."""


def _refuse_experts(model: Any, family: str) -> None:
    routed = [name for name, _ in model.named_modules() if name.endswith((".experts", ".router", ".mlp.gate"))]
    if routed or any(getattr(model.config, name, None) for name in ("num_experts", "num_local_experts")):
        where = routed[0] if routed else family
        raise ConversionError(
            f"a mixture of experts ({where}) is chosen by the token, which fixed shapes cannot do without running "
            "every expert; distil it into a dense student first"
        )


def _geometry(config: Any, family: str, rotary: Any) -> Geometry:
    gemma = family == "gemma3_text"
    heads = int(config.num_attention_heads)
    head_width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    frequencies = _rotation(rotary)[0]["global"]
    windows = getattr(config, "sliding_window", None)
    local = windows and any(_is_local(config, index) for index in range(config.num_hidden_layers))
    activation = str(getattr(config, "hidden_activation", None) or config.hidden_act)
    known = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
    if activation not in known:
        raise ConversionError(f"activation {activation} has no Core ML layout here; use one of {', '.join(known)}")
    return Geometry(
        width=int(config.hidden_size),
        heads=heads,
        kv_heads=int(config.num_key_value_heads),
        head_width=head_width,
        vocabulary=int(config.vocab_size),
        epsilon=float(config.rms_norm_eps),
        activation=known[activation],
        score_scale=float(config.query_pre_attn_scalar if gemma else head_width) ** -0.5,
        rotated=2 * len(frequencies),
        embedding_scale=float(config.hidden_size**0.5) if gemma else 1.0,
        window=int(windows) if local and windows else 0,
    )


def _is_local(config: Any, index: int) -> bool:
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return bool(kinds[index] == "sliding_attention")
    return config.model_type == "phi3" and bool(config.sliding_window)


def _rotation(rotary: Any) -> tuple[dict[str, Tensor], float]:
    """Inverse frequencies by kind of layer, and the scale of cosines and sines."""
    plain = getattr(rotary, "inv_freq", None)
    if plain is not None:
        return {"global": plain.float()}, float(rotary.attention_scaling)
    kinds = {"global": "full_attention", "local": "sliding_attention"}
    return {
        ours: getattr(rotary, f"{theirs}_inv_freq").float()
        for ours, theirs in kinds.items()
        if hasattr(rotary, f"{theirs}_inv_freq")
    }, float(getattr(rotary, "full_attention_attention_scaling", 1.0))


def _gain(family: str) -> Callable[[Any], Tensor]:
    """A norm's gain; Gemma stores its distance from one."""
    lift = 1.0 if family == "gemma3_text" else 0.0
    return lambda norm: norm.weight.detach().float() + lift


def _maps(prefix: str, layer: Any, geometry: Geometry) -> dict[str, Weight]:
    found: dict[str, Weight] = {}
    queries, pairs = geometry.heads * geometry.head_width, geometry.kv_heads * geometry.head_width
    for owner, names in (("self_attn", ("q_proj", "k_proj", "v_proj")), ("mlp", ("gate_proj", "up_proj"))):
        module = getattr(layer, owner)
        fused_name = {"self_attn": "qkv_proj", "mlp": "gate_up_proj"}[owner]
        fused = getattr(module, fused_name, None)
        sizes = (queries, pairs, pairs) if owner == "self_attn" else (0, 0)
        first = 0
        for name, size in zip(names, sizes, strict=True):
            if fused is None:
                found[name] = _weight(getattr(module, name), f"{prefix}{owner}.{name}.weight")
                continue
            rows = size or len(fused.weight) // 2
            found[name] = _weight(fused, f"{prefix}{owner}.{fused_name}.weight", first, rows)
            first += rows
    found["o_proj"] = _weight(layer.self_attn.o_proj, f"{prefix}self_attn.o_proj.weight")
    found["down_proj"] = _weight(layer.mlp.down_proj, f"{prefix}mlp.down_proj.weight")
    return found


def _weight(linear: Any, tensor: str, first: int = 0, rows: int | None = None) -> Weight:
    part = slice(first, None if rows is None else first + rows)
    bias = None if linear.bias is None else linear.bias.detach().float()[part]
    return Weight(values=torch.Tensor(linear.weight.detach().float()[part]), tensor=tensor, first=first, bias=bias)
