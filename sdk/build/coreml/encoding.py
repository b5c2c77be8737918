"""A checkpoint's folder in, its compressed weights out: packed as sdk.packed, or as `build compress` left them."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdk.build.coreml.encoded import Encoded
from sdk.errors import CompressionError
from sdk.packed import is_packed, unpack4

__all__ = ["ENCODING", "encodings_of", "save_encodings"]

ENCODING = "encoding.safetensors"
FORMAT = "encoding/1"
PARTS = ("codes", "scales", "zeros", "lut", "mask")


def encodings_of(checkpoint: Path) -> dict[str, Encoded]:
    """Compressed weights by tensor name; empty for a plain checkpoint.

    Raises:
        CompressionError: The file of codes is damaged or of another format.
    """
    file = checkpoint / ENCODING
    if file.is_file():
        return _read(file)
    weights = checkpoint / "model.safetensors"
    with safe_open(weights, framework="pt") as opened:
        packed = any(name.endswith(".codes") for name in opened.keys())  # noqa: SIM118 - not a dict.
    return _packed(load_file(weights)) if packed else {}


def save_encodings(encodings: Mapping[str, Encoded], checkpoint: Path) -> None:
    """Write codes, scales, palettes and masks beside a checkpoint; `encodings_of` reads them."""
    tensors, facts = {}, {}
    for name, encoded in encodings.items():
        facts[name] = {"bits": encoded.bits, "signed": encoded.signed}
        for part in PARTS:
            value = getattr(encoded, part)
            if value is not None:
                tensors[f"{name}.{part}"] = value.contiguous()
    save_file(tensors, checkpoint / ENCODING, metadata={"format": FORMAT, "weights": json.dumps(facts)})


def _read(file: Path) -> dict[str, Encoded]:
    try:
        with safe_open(file, framework="pt") as opened:
            facts = opened.metadata() or {}
        if facts.get("format") != FORMAT:
            raise CompressionError(f"{file} has format {facts.get('format')!r}, this version reads {FORMAT}")
        tensors = load_file(file)
        return {
            name: Encoded(
                bits=int(fact["bits"]),
                signed=bool(fact["signed"]),
                codes=tensors[f"{name}.codes"],
                **{part: tensors.get(f"{name}.{part}") for part in PARTS[1:]},
            )
            for name, fact in json.loads(facts["weights"]).items()
        }
    except (OSError, ValueError, KeyError, SafetensorError) as cause:
        raise CompressionError(f"{file} cannot be read ({cause}); compress the student again") from cause


def _packed(tensors: Mapping[str, Tensor]) -> dict[str, Encoded]:
    """The packed form: 4 bits with zeros, or 8 bits without."""
    assert is_packed(tensors)
    found = {}
    for name, codes in tensors.items():
        if not name.endswith(".codes"):
            continue
        tensor = name.removesuffix(".codes")
        scales, zeros = tensors[f"{tensor}.scales"], tensors.get(f"{tensor}.zeros")
        blocks = scales.shape[1]
        if zeros is None:
            found[tensor] = Encoded(codes=codes, bits=8, signed=True, scales=scales)
        else:
            columns = codes.shape[1] * 2
            found[tensor] = Encoded(
                codes=unpack4(codes, columns), bits=4, scales=scales, zeros=unpack4(zeros, blocks).to(torch.uint8)
            )
    return found
