"""The name of a family in, a tiny random model of it in a folder out, as its maker would publish it."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    Phi3Config,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from tests.tiny import VOCABULARY, tiny_config, tiny_tokenizer

__all__ = ["family_config", "save_family"]

SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}


def family_config(family: str) -> Any:
    """Shapes of a tiny model of a family, with what sets it apart: windows, fused projections, norms of queries."""
    match family:
        case "llama":
            return tiny_config(layers=3)
        case "phi3":
            return Phi3Config(**SHAPE, sliding_window=64)
        case "gemma3_text":
            kinds = ["sliding_attention", "full_attention", "sliding_attention"]
            return Gemma3TextConfig(**SHAPE, head_dim=8, sliding_window=8, layer_types=kinds, query_pre_attn_scalar=8)
        case "qwen2":
            return Qwen2Config(**SHAPE)
        case "qwen3":
            return Qwen3Config(**SHAPE, head_dim=8)
    raise ValueError(family)


def save_family(folder: Path, family: str, *, licence: str = "apache-2.0") -> PreTrainedModel:
    """Write config, safetensors, tokenizer and a model card; returns the model."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(family_config(family), dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.dim() == 2:
                torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    (folder / "README.md").write_text(f"---\nlicense: {licence}\ntags: [tiny]\n---\n# Tiny\n", encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == family
    model.eval()
    return model
