"""A Llama and its tokenizer in, a checkpoint folder out, and back; its bytes follow from the model alone."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from sdk.checkpoint import load_model
from sdk.errors import BundleError

__all__ = ["CONFIG_KEYS", "open_checkpoint", "save_checkpoint", "write_config"]

CONFIG_KEYS = frozenset(
    {
        *("model_type", "dtype", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
        *("num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings"),
        *("rms_norm_eps", "rope_parameters", "attention_bias", "mlp_bias", "tie_word_embeddings"),
        *("bos_token_id", "eos_token_id", "pad_token_id"),
    }
)
"""What defines a Llama's output; everything else in a config is a default of the library that wrote it."""


def save_checkpoint(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a plain Hugging Face checkpoint into `folder`, which must not exist."""
    folder.mkdir(parents=True)
    write_config(model.config, folder)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)


def write_config(config: Any, folder: Path) -> None:
    """Write config.json so that its bytes follow from the model alone.

    save_pretrained would write the version of transformers, and whatever keys it knows; the base digest, and with it
    every adapter's fit, would then change with an upgrade.
    """
    known = {key: value for key, value in config.to_dict().items() if key in CONFIG_KEYS}
    known["architectures"] = ["LlamaForCausalLM"]
    (folder / "config.json").write_text(json.dumps(known, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def open_checkpoint(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Read a checkpoint, packed or plain, as a float32 model and its tokenizer.

    Raises:
        BundleError: A file is missing or does not fit the others.
    """
    try:
        return load_model(folder), PreTrainedTokenizerFast.from_pretrained(folder)
    except BundleError:
        raise
    except Exception as cause:  # What three libraries raise on a damaged file has no common root.
        line = (str(cause) or type(cause).__name__).splitlines()[0]
        raise BundleError(f"{folder} is no checkpoint ({line:.80}); make one with `limbeck build distill`") from cause
