"""A checkpoint in, an ONNX graph of the same function out, with a slot for an adapter beside every matrix.

    embedded ─ layers × (norm, qkv, attention, o, norm, gate_up, silu · up, down) ─ rows from `start` on ─ head ─ logits

Rules: keys and values are inputs and outputs in one memory, so a step writes its own tokens' and copies none. A slot is
two inputs A (in, rank) and B (rank, out) of any rank, which add (x A) B to what the matrix gives; left out, its rank is
zero. The graph is made in memory at each opening, in a fraction of a second: there is no file that could go stale.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from sdk.device.engines.portable.weights import Matrix, beside
from sdk.device.engines.rows import Rows, array
from sdk.errors import BundleError, EngineError
from sdk.packed import BLOCK, Packed, load_parts

__all__ = ["GROUPS", "Graph", "graph_of", "group_name", "head_of", "suited"]

GROUPS: Mapping[str, tuple[str, ...]] = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""Maps of one layer that stand side by side in one matrix, in this order."""

OPSET, IR = 21, 10  # Of the standard operators, and of the file format; onnxruntime 1.20 reads both.
CONTRIBUTED = "com.microsoft"  # Where onnxruntime's own operators stand.
FLOAT32, INT8 = 1, 4  # The operator's words for what the activations become before they are multiplied.
INLINE_BYTES = 1024  # What is smaller stands in the graph itself.
END = 2**62  # Behind every sequence.

Array = NDArray[Any]
Weights = Mapping[str, Packed | Tensor]


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A model for onnxruntime."""

    content: bytes
    """The ONNX model without its large arrays."""
    arrays: Mapping[str, Array]
    """Those, by name."""
    rows: Rows
    """The embedding, which is looked up outside the graph."""
    config: LlamaConfig
    maps: Mapping[str, tuple[int, int]]
    """Each linear map that an adapter may sit on, by its full name: (in, out)."""


def head_of(config: LlamaConfig) -> int:
    """Numbers of one attention head."""
    return config.head_dim or config.hidden_size // config.num_attention_heads


def group_name(layer: int, group: str) -> str:
    """Name of a matrix; its slot's inputs end in .A and .B."""
    return f"layers.{layer}.{group}"


def suited(folder: Path) -> LlamaConfig:
    """The configuration of the checkpoint in `folder`, if this engine can run it; reads no weights.

    Raises:
        BundleError: It cannot be read.
        EngineError: It is not a plain Llama.
    """
    try:
        config = LlamaConfig(**json.loads((folder / "config.json").read_bytes()))
    except Exception as cause:  # What the library raises on odd values has no common root.
        raise BundleError(f"{folder / 'config.json'} cannot be read ({cause!s:.120}); get the model again") from cause
    rope = config.rope_parameters or {}
    odd = [
        word
        for word, there in {
            f"activation {config.hidden_act}": config.hidden_act != "silu",
            "biases": config.attention_bias or config.mlp_bias,
            f"rotary positions of kind {rope.get('rope_type')}": rope.get("rope_type", "default") != "default",
            "a head size that is no multiple of 16": head_of(config) % 16 != 0,
        }.items()
        if there
    ]
    if odd:
        raise EngineError(f"the portable engine runs plain Llamas, this one has {' and '.join(odd)}")
    return config


def graph_of(folder: Path, *, exact: bool = False) -> Graph:
    """The graph of the checkpoint in `folder`.

    Args:
        folder: Checkpoint, plain or packed.
        exact: Multiply packed weights by float32 activations, as torch does. Otherwise each block of BLOCK activations
            becomes whole numbers of 8 bits first, which is several times faster and another function by that rounding.

    Raises:
        BundleError, EngineError: As `suited`, or the weights cannot be read or do not fit.
    """
    config, weights = suited(folder), load_parts(folder)
    try:
        return _Builder(config, weights, FLOAT32 if exact else INT8).graph()
    except (KeyError, ValueError, RuntimeError) as cause:
        raise BundleError(f"the weights in {folder} do not form its model ({cause!s:.120}); get it again") from cause


@dataclass
class _Builder:
    """One graph under construction."""

    config: LlamaConfig
    weights: Weights
    accuracy: int
    nodes: list[Any] = field(default_factory=list)
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    arrays: dict[str, Array] = field(default_factory=dict)
    maps: dict[str, tuple[int, int]] = field(default_factory=dict)

    def graph(self) -> Graph:
        config, layers = self.config, self.config.num_hidden_layers
        self._takes("embedded", TensorProto.FLOAT, [1, "new", config.hidden_size])
        self._takes("last", TensorProto.INT32, [1])  # Place of the last token, from 0.
        self._takes("total", TensorProto.INT32, [1])  # Tokens with the new ones.
        self._takes("start", TensorProto.INT64, [1])  # First of the new tokens whose scores are told.
        self._rotary()
        stream = "embedded"
        normed = self._op(
            "SimplifiedLayerNormalization", [stream, self._norm(0, "input_layernorm")],
            "first.normed", domain="", axis=-1, epsilon=config.rms_norm_eps, stash_type=1,
        )  # fmt: skip
        for layer in range(layers):
            stream, normed = self._layer(layer, stream, normed)
        self._head(normed)
        return Graph(
            content=self._model().SerializeToString(),
            arrays={name: value for name, value in self.arrays.items() if value.nbytes >= INLINE_BYTES},
            rows=Rows(self.weights["model.embed_tokens.weight"]),
            config=config,
            maps=self.maps,
        )

    def _layer(self, layer: int, stream: str, normed: str) -> tuple[str, str]:
        """One layer: the residual stream and its norm in, both of the next layer out."""
        config, name = self.config, f"layers.{layer}"
        qkv = self._group(layer, "qkv", normed)
        attended = self._op(
            "GroupQueryAttention",
            [qkv, "", "", *self._memory(layer, "past"), "last", "total", "cosines", "sines"],
            f"{name}.attended", *self._memory(layer, "present"),
            num_heads=config.num_attention_heads, kv_num_heads=config.num_key_value_heads,
            do_rotary=1, scale=head_of(config) ** -0.5,
        )  # fmt: skip
        stream, normed = self._added(
            stream, self._group(layer, "o", attended), self._norm(layer, "post_attention_layernorm")
        )
        gate_up = self._group(layer, "gate_up", normed)
        gate, up = f"{name}.gate", f"{name}.up"
        self._op("Split", [gate_up], gate, up, domain="", axis=-1, num_outputs=2)
        swished = self._op("QuickGelu", [gate], f"{name}.swished", alpha=1.0)  # x · sigmoid(x), which is SiLU.
        inner = self._op("Mul", [swished, up], f"{name}.inner", domain="")
        last = layer + 1 == config.num_hidden_layers
        following = self._constant("model.norm.weight") if last else self._norm(layer + 1, "input_layernorm")
        return self._added(stream, self._group(layer, "down", inner), following)

    def _added(self, stream: str, change: str, norm: str) -> tuple[str, str]:
        """The stream with a change, and the norm of that."""
        name = change.removesuffix(".out")
        normed, added = f"{name}.normed", f"{name}.stream"
        self._op(
            "SkipSimplifiedLayerNormalization", [stream, change, norm],
            normed, "", "", added, epsilon=self.config.rms_norm_eps,
        )  # fmt: skip
        return added, normed

    def _group(self, layer: int, group: str, inputs: str) -> str:
        """The maps of a group with their slot."""
        name, parts = group_name(layer, group), []
        for part in GROUPS[group]:
            parts.append(self.weights[f"model.layers.{layer}.{part}.weight"])
            self.maps[f"model.layers.{layer}.{part}"] = (parts[-1].shape[1], parts[-1].shape[0])
        matrix = beside(parts)
        plain = self._times(name, inputs, matrix)
        for factor, whole, started in (
            ("A", [matrix.inputs, f"{name}.rank"], (matrix.inputs, 0)),
            ("B", [f"{name}.rank", matrix.outputs], (0, matrix.outputs)),
        ):
            self._takes(f"{name}.{factor}", TensorProto.FLOAT, whole)
            self.arrays[f"{name}.{factor}"] = np.zeros(started, np.float32)
        narrow = self._op("MatMul", [inputs, f"{name}.A"], f"{name}.narrow", domain="")
        change = self._op("MatMul", [narrow, f"{name}.B"], f"{name}.change", domain="")
        return self._op("Add", [plain, change], f"{name}.out", domain="")

    def _times(self, name: str, inputs: str, matrix: Matrix) -> str:
        names = [f"{name}.constant{place}" for place in range(len(matrix.constants))]
        self.arrays |= dict(zip(names, matrix.constants, strict=True))
        if matrix.bits == 32:
            return self._op("MatMul", [inputs, *names], f"{name}.plain", domain="")
        return self._op(
            "MatMulNBits", [inputs, *names], f"{name}.plain",
            K=matrix.inputs, N=matrix.outputs, bits=matrix.bits, block_size=BLOCK, accuracy_level=self.accuracy,
        )  # fmt: skip

    def _head(self, normed: str) -> None:
        self.arrays |= {"end": np.array([END]), "tokens_axis": np.array([1])}
        kept = self._op("Slice", [normed, "start", "end", "tokens_axis"], "kept", domain="")
        tied = self.config.tie_word_embeddings
        head = self.weights["model.embed_tokens.weight" if tied else "lm_head.weight"]
        logits = self._times("head", kept, beside([head], plain_bytes=self.accuracy == FLOAT32))
        self.nodes[-1].output[0] = "logits"
        assert logits == "head.plain"
        self.outputs.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "kept", head.shape[0]]))

    def _memory(self, layer: int, when: str) -> Iterator[str]:
        for kind in ("keys", "values"):
            shape = [1, self.config.num_key_value_heads, f"{when} tokens", head_of(self.config)]
            value = helper.make_tensor_value_info(f"{when}.{layer}.{kind}", TensorProto.FLOAT, shape)
            (self.inputs if when == "past" else self.outputs).append(value)
            yield value.name

    def _rotary(self) -> None:
        """The tables that the model itself would compute, one row a place, half a head wide."""
        config = self.config
        places = torch.arange(config.max_position_embeddings)[None]
        tables = LlamaRotaryEmbedding(config)(torch.zeros(1), places)  # Each (1, context, head_dim).
        for name, table in zip(("cosines", "sines"), tables, strict=True):
            self.arrays[name] = np.ascontiguousarray(table[0, :, : head_of(config) // 2].numpy())

    def _norm(self, layer: int, kind: str) -> str:
        return self._constant(f"model.layers.{layer}.{kind}.weight")

    def _constant(self, name: str) -> str:
        self.arrays[name] = array(self.weights[name])
        return name

    def _takes(self, name: str, kind: int, shape: Sequence[Any]) -> None:
        self.inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))

    def _op(self, kind: str, inputs: Sequence[str], *outputs: str, domain: str = CONTRIBUTED, **attributes: Any) -> str:
        name = outputs[0]
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=name, domain=domain, **attributes))
        return name

    def _model(self) -> onnx.ModelProto:
        constants = [_stated(name, value) for name, value in self.arrays.items()]
        graph = helper.make_graph(self.nodes, "llama", self.inputs, self.outputs, constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIBUTED, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR)


def _stated(name: str, value: Array) -> TensorProto:
    """A small array itself; of a large one only its shape, for whoever opens the graph to give."""
    if value.nbytes < INLINE_BYTES:
        return onnx.numpy_helper.from_array(value, name)
    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    stated = TensorProto(name=name, data_type=kind, dims=value.shape, data_location=TensorProto.EXTERNAL)
    place = stated.external_data.add()
    place.key, place.value = "location", "given"
    return stated
