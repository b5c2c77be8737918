"""A student's folder in, the model and what must travel with it out: a bundle or a plain Hugging Face checkpoint."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sdk.bundle import CHECKPOINT, checkpoint_digest
from sdk.errors import ConversionError
from sdk.packed import load_weights

__all__ = ["Student", "checkpoint_of"]

TRAVELS = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""Files of the checkpoint that a caller needs beside the program."""


@dataclass(frozen=True, kw_only=True)
class Student:
    """A model read from a folder."""

    folder: Path
    """Folder of the checkpoint."""
    model: Any
    """A Hugging Face causal language model, float32, evaluation mode."""
    base_digest: str
    """What an adapter carries that fits it: the digest of the checkpoint as a bundle states it."""

    @classmethod
    def open(cls, folder: Path) -> "Student":
        """Read a student, its weights plain, packed or on the grid that `build compress` left.

        Raises:
            ConversionError: No checkpoint there, or its files do not fit one another.
        """
        checkpoint = checkpoint_of(folder)
        try:
            config = AutoConfig.for_model(**json.loads((checkpoint / "config.json").read_bytes()))
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config)
            weights = {name: value.float() for name, value in load_weights(checkpoint).items()}
            if config.tie_word_embeddings:
                weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
            model.load_state_dict(weights, assign=True)
            model.tie_weights()
            model.model.rotary_emb = type(model.model.rotary_emb)(config)  # Its tables are computed, not stored.
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as cause:
            why = (str(cause) or type(cause).__name__).splitlines()[0]
            raise ConversionError(f"{checkpoint} cannot be read as a model ({why}); give a whole checkpoint") from cause
        model.eval().requires_grad_(False)
        return cls(folder=checkpoint, model=model, base_digest=checkpoint_digest(checkpoint))

    def files(self) -> list[Path]:
        """Tokenizer and chat template, as far as the checkpoint has them."""
        return [self.folder / name for name in TRAVELS if (self.folder / name).is_file()]


def checkpoint_of(folder: Path) -> Path:
    """The checkpoint of a bundle, or the folder itself where it is one.

    Raises:
        ConversionError: Neither.
    """
    for candidate in (folder / CHECKPOINT, folder):
        if (candidate / "config.json").is_file():
            return candidate
    raise ConversionError(
        f"{folder} has no config.json: it is neither a bundle nor a checkpoint; give the student's folder"
    )
