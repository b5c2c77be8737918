"""A checkpoint folder in, a Llama in memory out: what makers, compilers and devices read alike."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from sdk.packed import load_weights

__all__ = ["load_model", "model_of"]


def model_of(config: LlamaConfig, weights: dict[str, Any]) -> LlamaForCausalLM:
    """A Llama in evaluation mode around weights that exist already: nothing is drawn or copied.

    Raises:
        RuntimeError: The weights do not form the shape that the configuration states.
    """
    with torch.device("meta"):  # Shapes only: a random start would cost seconds and the caller's random state.
        model = LlamaForCausalLM(config)
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    model.model.rotary_emb = LlamaRotaryEmbedding(config)  # Its table is computed, not stored.
    model.eval()
    return model


def load_model(folder: Path) -> LlamaForCausalLM:
    """Read a checkpoint, packed or plain: float32, evaluation mode, no parameter requires a gradient.

    Plain float32 weights are mapped from the file, packed ones unpacked.

    Raises:
        BundleError: The weights cannot be read or do not fit together.
        Exception: What the libraries raise on another damaged file has no common root; callers say it in their words.
    """
    config = LlamaConfig(**json.loads((folder / "config.json").read_bytes()))
    weights = load_weights(folder)
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model = model_of(config, weights)
    model.float().requires_grad_(False)
    return model
