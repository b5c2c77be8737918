"""A packed student in, a GGUF file with the very same numbers out: for llama.cpp and whatever else reads that format.

A block of 32 at 4 bits is scale × (code − zero), which is Q4_1's d × code + m with m = −scale × zero: scales have 7
significant bits and zeros 4, so m fits float16 and nothing is rounded. A block at 8 bits is Q8_0 as it stands.
"""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from sdk.packed import BLOCK, Packed, load_parts, unpack4

__all__ = ["write_packed_gguf"]

HALF = BLOCK // 2


def write_packed_gguf(checkpoint: Path, file: Path) -> None:
    """Write the packed Llama in `checkpoint`, with its tokenizer, as `file`."""
    config = json.loads((checkpoint / "config.json").read_bytes())
    writer = gguf.GGUFWriter(file, "llama")
    _describe(writer, config)
    _tokenizer(writer, json.loads((checkpoint / "tokenizer.json").read_bytes()))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, part in load_parts(checkpoint).items():
        theirs = names.get_name(name, try_suffixes=(".weight",))
        if theirs is None:
            raise ValueError(f"llama.cpp has no tensor for {name}")
        if not isinstance(part, Packed):
            writer.add_tensor(theirs, part.float().numpy())
            continue
        blocks, kind = _blocks(part)
        if ".q_proj." in name or ".k_proj." in name:
            blocks = _rotary_rows(blocks, config["head_dim"])
        writer.add_tensor(theirs, blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _blocks(part: Packed) -> tuple[NDArray[np.uint8], gguf.GGMLQuantizationType]:
    """A matrix as rows of llama.cpp's blocks, shape (out, bytes)."""
    rows, columns = part.shape
    scales = part.scales.numpy()[:, :, None]  # (out, blocks, 1)
    if part.zeros is None:
        codes = part.codes.numpy().reshape(rows, -1, BLOCK).view(np.uint8)
        return np.concatenate([scales.view(np.uint8), codes], 2).reshape(rows, -1), gguf.GGMLQuantizationType.Q8_0
    zeros = unpack4(part.zeros, columns // BLOCK).numpy()[:, :, None].astype(np.float32)
    exact = -scales.astype(np.float32) * zeros
    lowest = exact.astype(np.float16)
    if not np.array_equal(lowest.astype(np.float32), exact):
        raise ValueError("a block's lowest value does not fit float16, so Q4_1 would round it")
    codes = unpack4(part.codes, columns).numpy().reshape(rows, -1, BLOCK)
    nibbles = codes[:, :, :HALF] | (codes[:, :, HALF:] << 4)  # The first half below, the second above.
    blocks = np.concatenate([scales.view(np.uint8), lowest.view(np.uint8), nibbles], 2).reshape(rows, -1)
    return blocks, gguf.GGMLQuantizationType.Q4_1


def _rotary_rows(rows: NDArray[np.uint8], head: int) -> NDArray[np.uint8]:
    """llama.cpp rotates neighbouring rows, transformers the halves of a head."""
    paired = rows.reshape(len(rows) // head, 2, head // 2, -1).swapaxes(1, 2)
    return np.ascontiguousarray(paired.reshape(rows.shape))


def _describe(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_name("student")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_1)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])


def _tokenizer(writer: gguf.GGUFWriter, stored: dict[str, Any]) -> None:
    vocabulary, controls = stored["model"]["vocab"], {token["content"] for token in stored["added_tokens"]}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    kinds = [gguf.TokenType.CONTROL if token in controls else gguf.TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(merge) for merge in stored["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{{ messages[0].content }}")  # Some readers want one; the bench gives tokens.
