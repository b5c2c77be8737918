"""A GGUF file in, a plain checkpoint in memory out: model and tokenizer.

A Llama is read directly (seconds for 135M parameters, where transformers' own GGUF path takes half a minute), and the
pre-tokenizer is the one that the file names, which transformers replaces by a plain byte-level one. A Gemma 3 is left
to transformers, which wants the library accelerate for it; about a minute for 270M parameters.

Source: github.com/ggml-org/ggml/blob/master/docs/gguf.md for the fields; the order of rotary rows is llama.cpp's.
"""

import importlib.util
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from sdk.checkpoint import model_of
from sdk.errors import TeacherError

__all__ = ["CHAT_CONTROLS", "CHAT_TEMPLATE", "licence_of", "load_any", "load_gguf"]

CHAT_CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""The tokens that steer a chat; all others of the vocabulary are ordinary text here."""

# ChatML, with two changes against the teacher's own template. No system turn is added that the caller did not write:
# it would sit, unseen, in front of every prompt. And a control token inside a message is broken by a space
# ("<|im_end |>"): otherwise a person's text could close its own turn and speak as the assistant.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + (message['content']"
    + "".join(f" | replace('{control}', '{control[:-2]} |>')" for control in CHAT_CONTROLS)
    + ") + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Names of GGUF's tensors and of the same tensors in transformers.
BLOCK_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTER_TENSORS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def load_gguf(path: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Read one GGUF file (or the only one in a folder) as a float32 Llama and its tokenizer.

    Raises:
        TeacherError: No such file, not a GGUF file, not a Llama, or a tokenizer of another kind.
    """
    file = _find(path)
    reader = _reader(file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    try:
        config = _config(fields)
        model = _model(reader, config)
        tokenizer = _tokenizer(fields, config.max_position_embeddings)
    except KeyError as cause:
        raise TeacherError(f"{file} lacks {cause}; only complete Llama checkpoints can be read") from cause
    except (TypeError, ValueError, ArithmeticError) as cause:
        raise TeacherError(f"{file} holds values that no Llama has; get it again") from cause
    return model, tokenizer


def load_any(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Read a Llama or a Gemma 3 as a float32 model and its tokenizer.

    Raises:
        TeacherError: As for load_gguf, or a Gemma 3 where the library accelerate is not installed.
    """
    file = _find(path)
    if _field(_reader(file), "general.architecture") != "gemma3":
        return load_gguf(file)
    if importlib.util.find_spec("accelerate") is None:
        raise TeacherError(f"{file.name} is a Gemma 3, which is read with accelerate; run `pip install accelerate`")
    named: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    try:
        model = AutoModelForCausalLM.from_pretrained(file.parent, **named, dtype=torch.float32)
        tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, **named)
    except Exception as cause:  # Whatever transformers and tokenizers raise on tensors or fields that do not fit.
        raise TeacherError(f"{file} is no whole Gemma 3 ({type(cause).__name__}); get it again") from cause
    return model.eval(), tokenizer


def licence_of(path: Path) -> str:
    """What the file says of its licence, or `unknown`.

    Raises:
        TeacherError: No such file, or not a GGUF file.
    """
    return str(_field(_reader(_find(path)), "general.license") or "unknown")


def _field(reader: gguf.GGUFReader, name: str) -> Any:
    field = reader.get_field(name)
    return field.contents() if field else None


def _reader(file: Path) -> gguf.GGUFReader:
    try:
        return gguf.GGUFReader(file)
    except (ValueError, IndexError, OSError) as cause:  # What the reader raises on a short or foreign file.
        raise TeacherError(f"{file} is not a readable GGUF file ({cause}); get it again") from cause


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted(path.glob("*.gguf"))
    if len(found) != 1:
        raise TeacherError(f"{path} holds {len(found)} GGUF files where one is needed; name the file itself")
    return found[0]


def _config(fields: dict[str, Any]) -> LlamaConfig:
    architecture = fields["general.architecture"]
    if architecture != "llama":
        raise TeacherError(f"the teacher is a {architecture!r} and only 'llama' can be read; choose another file")
    if scaling := [name for name in fields if name.startswith("llama.rope.scaling")]:
        raise TeacherError(f"the teacher scales its rotary positions ({scaling[0]}), which is not read here")
    heads = fields["llama.attention.head_count"]
    return LlamaConfig(
        vocab_size=len(fields["tokenizer.ggml.tokens"]),
        hidden_size=fields["llama.embedding_length"],
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=fields.get("llama.attention.head_count_kv", heads),
        head_dim=fields["llama.embedding_length"] // heads,
        max_position_embeddings=fields["llama.context_length"],
        rms_norm_eps=fields["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": fields.get("llama.rope.freq_base", 10_000.0)},
        bos_token_id=fields["tokenizer.ggml.bos_token_id"],
        eos_token_id=fields["tokenizer.ggml.eos_token_id"],
        pad_token_id=fields.get("tokenizer.ggml.padding_token_id", fields["tokenizer.ggml.eos_token_id"]),
        tie_word_embeddings=True,  # Corrected in _model when the file has a head of its own.
        dtype=torch.float32,
    )


def _model(reader: gguf.GGUFReader, config: LlamaConfig) -> LlamaForCausalLM:
    weights = {}
    for tensor in reader.tensors:
        name = _name(tensor.name)
        values = torch.from_numpy(np.array(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
        if ".q_proj." in name or ".k_proj." in name:
            values = _rotary_rows(values, head_rows=config.hidden_size // config.num_attention_heads)
        weights[name] = values
    config.tie_word_embeddings = "lm_head.weight" not in weights
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    try:
        return model_of(config, weights)
    except RuntimeError as cause:
        raise TeacherError("the teacher's tensors do not form its own shape; get the file again") from cause


def _name(name: str) -> str:
    """GGUF name in, transformers name out."""
    stem, _, kind = name.rpartition(".")
    if kind == "weight" and stem in OUTER_TENSORS:
        return f"{OUTER_TENSORS[stem]}.weight"
    match stem.split("."):
        case ["blk", block, part] if kind == "weight" and block.isdigit() and part in BLOCK_TENSORS:
            return f"model.layers.{block}.{BLOCK_TENSORS[part]}.weight"
    raise TeacherError(f"the teacher has a tensor {name!r} that a plain Llama has not; choose another file")


def _rotary_rows(values: torch.Tensor, *, head_rows: int) -> torch.Tensor:
    """Undo llama.cpp's row order: it pairs neighbouring rows for rotation, transformers pairs the halves of a head."""
    rows, columns = values.shape
    paired = values.view(rows // head_rows, head_rows // 2, 2, columns)  # (head, pair, member, column)
    return paired.transpose(1, 2).reshape(rows, columns).contiguous()


def _tokenizer(fields: dict[str, Any], context_tokens: int) -> PreTrainedTokenizerFast:
    kind = fields["tokenizer.ggml.model"], fields["tokenizer.ggml.pre"]
    if kind != ("gpt2", "smollm"):
        raise TeacherError(f"the teacher's tokenizer is {kind[0]}/{kind[1]}; only gpt2/smollm is read, choose another")
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    backend = Tokenizer(models.BPE(vocab={token: row for row, token in enumerate(tokens)}, merges=merges))
    # Each digit alone, then GPT-2's split: what "smollm" means. It differs from plain byte-level after runs of blanks.
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    # Only the chat's own controls are cut out of text: "<filename>" and its like are words that a person may write.
    backend.add_special_tokens([AddedToken(control, normalized=False, special=True) for control in CHAT_CONTROLS])
    if len(tokens) != backend.get_vocab_size():
        raise TeacherError(f"the teacher lacks the chat tokens {' '.join(CHAT_CONTROLS)}; choose an instruct model")
    names = {key: tokens[fields[f"tokenizer.ggml.{key}_token_id"]] for key in ("bos", "eos", "unknown", "padding")}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=names["bos"],
        eos_token=names["eos"],
        unk_token=names["unknown"],
        pad_token=names["padding"],
        model_max_length=context_tokens,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
