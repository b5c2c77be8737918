"""A laid-out decoder in, the contract that its callers keep out: names, sizes and types of every array, order of calls.

It travels inside the package as contract.json, so that Swift and Python feed a model alike without knowing its family.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sdk.build.coreml.families import Parts
from sdk.build.coreml.layout import AdapterSlots, Cache, NeuralEngineDecoder, Shape
from sdk.errors import PackageError

__all__ = ["DECODE", "MASKED", "PREFILL", "Contract", "contract_of"]

FORMAT = "coreml-contract/1"
PREFILL, DECODE = "prefill", "decode"
MASKED = -1e4  # Added to the score of a position that must not be seen. Minus infinity is not safe in float16.

ORDER_OF_CALLS = (
    "hidden: the embedding rows of the tokens, times embedding_scale, one column a position, float16",
    "cosine, sine: of position × rotation, the row repeated for both halves, times rotation_scale",
    "mask: 0 where a position may look, MASKED elsewhere; with cache arrays the last columns are this call's",
    "write: one where a row's position is the column, else and in rows of padding zero (cache state only)",
    "select: one in the row of the last real position (prefill only)",
    "prefill in pieces of prefill_positions, the last padded, until the prompt is through; then decode",
    "logits: logits_0, logits_1, … one after another",
    "keys, values: with cache arrays, column i of new_keys and new_values goes to position start + i",
    "adapter: zeros without one; lora_alpha / rank stands in B already; smaller ranks end in zeros",
)


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What a caller must know of a compiled decoder."""

    family: str
    base_digest: str
    """Digest that an adapter must carry to fit, `sha256:…`."""
    context: int
    """Positions of the cache."""
    prefill_positions: int
    """Positions of one prefill call."""
    cache: Cache
    layers: int
    kv_heads: int
    head_width: int
    width: int
    vocabulary: int
    embedding_scale: float
    rotated: int
    rotation: Mapping[str, tuple[float, ...]]
    """Inverse frequencies, `global` and where there are windows `local`."""
    rotation_scale: float
    window: int
    """Positions that local layers see; 0 without such layers."""
    slots: AdapterSlots | None
    head: tuple[str, ...]
    """Names of the head's constants in the program; with a tied embedding their rows are the embedding."""
    tied: bool
    functions: Mapping[str, Mapping[str, Mapping[str, tuple[int, ...]]]]
    """Function to `inputs`, `outputs` and `states`, each name to size; all arrays are float16."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What else stands in the file, such as where in weight.bin the embedding is."""

    def shape(self, function: str) -> Shape:
        """Fixed sizes of a function."""
        if function not in (PREFILL, DECODE):  # Of records that are learned: nothing is kept between calls.
            positions = self.functions[function]["inputs"]["hidden"][3]
            lower = self.slots.layers[0] if self.slots else self.layers
            return Shape(context=0, positions=positions, cache=Cache.NONE, lower=lower)
        positions = 1 if function == DECODE else self.prefill_positions
        return Shape(context=self.context, positions=positions, cache=self.cache, slots=self.slots)

    def to_json(self) -> str:
        """The contract as text, keys in a fixed order."""
        names = ("family", "base_digest", "context", "prefill_positions", "layers", "kv_heads", "head_width", "width")
        fields: dict[str, Any] = {"format": FORMAT} | {name: getattr(self, name) for name in names}
        fields |= {
            "vocabulary": self.vocabulary,
            "cache": self.cache.value,
            "embedding_scale": self.embedding_scale,
            "rotated": self.rotated,
            "rotation": {kind: list(values) for kind, values in self.rotation.items()},
            "rotation_scale": self.rotation_scale,
            "window": self.window,
            "masked": MASKED,
            "head": list(self.head),
            "tied": self.tied,
            "adapter": None
            if self.slots is None
            else {"layers": self.slots.layers, "rank": self.slots.rank, "targets": self.slots.targets},
            "dtype": "float16",
            "functions": self.functions,
            "order_of_calls": ORDER_OF_CALLS,
        }
        return json.dumps(fields | dict(self.extra), indent=1) + "\n"

    @classmethod
    def parse(cls, text: str) -> "Contract":
        """Read what to_json wrote.

        Raises:
            PackageError: Not a contract, or of another format.
        """
        try:
            fields = json.loads(text)
            if fields["format"] != FORMAT:
                raise PackageError(
                    f"contract format {fields['format']!r} is unknown here (this version reads {FORMAT!r}); "
                    "convert again with `limbeck build coreml`"
                )
            names = ("family", "base_digest", "context", "prefill_positions", "layers", "kv_heads", "head_width")
            more = ("width", "vocabulary", "embedding_scale", "rotated", "rotation_scale", "window", "tied")
            slots = fields["adapter"]
            return cls(
                **{name: fields[name] for name in (*names, *more)},
                cache=Cache(fields["cache"]),
                rotation={kind: tuple(values) for kind, values in fields["rotation"].items()},
                slots=None
                if slots is None
                else AdapterSlots(
                    layers=tuple(slots["layers"]), rank=int(slots["rank"]), targets=tuple(slots["targets"])
                ),
                head=tuple(fields["head"]),
                functions=_sizes(fields["functions"]),
                extra={key: fields[key] for key in ("embedding", "learning") if key in fields},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as cause:
            raise PackageError(f"the package's contract cannot be read ({cause!r}); convert it again") from cause


def _sizes(functions: Any) -> dict[str, dict[str, dict[str, tuple[int, ...]]]]:
    return {
        name: {kind: {array: tuple(size) for array, size in sizes.items()} for kind, sizes in kinds.items()}
        for name, kinds in functions.items()
    }


def contract_of(
    parts: Parts, decoders: Mapping[str, NeuralEngineDecoder], *, base_digest: str, head: tuple[str, ...] = ()
) -> Contract:
    """The contract of a decoder's functions, PREFILL and DECODE."""
    geometry, first = parts.geometry, decoders[DECODE].shape
    return Contract(
        family=parts.family,
        base_digest=base_digest,
        context=first.context,
        prefill_positions=decoders[PREFILL].shape.positions if PREFILL in decoders else 1,
        cache=first.cache,
        layers=len(parts.layers),
        kv_heads=geometry.kv_heads,
        head_width=geometry.head_width,
        width=geometry.width,
        vocabulary=geometry.vocabulary,
        embedding_scale=geometry.embedding_scale,
        rotated=geometry.rotated,
        rotation={kind: tuple(values.tolist()) for kind, values in parts.rotation.items()},
        rotation_scale=parts.rotation_scale,
        window=geometry.window,
        slots=first.slots,
        head=head,
        tied=parts.tied,
        functions={name: _arrays(decoder) for name, decoder in decoders.items()},
    )


def _arrays(decoder: NeuralEngineDecoder) -> dict[str, dict[str, tuple[int, ...]]]:
    shape, cache = decoder.shape, decoder.cache_size
    sizes: dict[str, tuple[int, ...]] = {
        f"logits_{index}": (1, size, 1, 1) for index, size in enumerate(decoder.chunks)
    }
    if shape.lower is not None:
        sizes = {"states": decoder.inputs["hidden"]}
    if shape.cache is Cache.ARRAYS:
        sizes |= dict.fromkeys(("new_keys", "new_values"), (*cache[:3], shape.positions))
    states: dict[str, tuple[int, ...]] = dict.fromkeys(("keys", "values"), cache) if shape.cache is Cache.STATE else {}
    return {"inputs": decoder.inputs, "outputs": sizes, "states": states}
