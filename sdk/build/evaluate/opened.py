"""A model folder or bundle in, a model that can be measured out: weights, tokenizer, size and digest.

Only safetensors, JSON and local files are read. A bundle is checked as sdk.bundle says; a plain folder needs the three
files that a bundle's checkpoint has, and gets the same digest from them.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from sdk.build.checkpoint import open_checkpoint
from sdk.bundle import Bundle, checkpoint_digest
from sdk.errors import EvaluationError, SdkError

__all__ = ["Opened", "load", "open_model"]

MADE_OF = {"config.json": "shapes", "model.safetensors": "weights", "tokenizer.json": "tokenizer"}


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A model in evaluation mode with what is known of its files."""

    folder: Path
    """The folder that was named; for a bundle the one with the manifest."""
    model: Any
    """A Hugging Face causal language model, float32, no parameter requires a gradient."""
    tokenizer: PreTrainedTokenizerFast
    """Its tokenizer."""
    digest: str
    """Digest over config, weights and tokenizer, "sha256:…"; a bundle's base digest."""
    parameters: int
    """Numbers that were learned; a tied embedding counts once."""
    weights_bytes: int
    """Size of model.safetensors: what is read from the disk, and from memory for each token."""
    size_bytes: int
    """Size of all files of the folder or bundle."""


def open_model(folder: Path) -> Opened:
    """Open a plain Hugging Face folder, or a bundle (a folder with a manifest).

    Raises:
        EvaluationError: A file is missing, damaged, pickled, or the files do not fit one another.
        BundleError: The checkpoint or the bundle is damaged.
    """
    model, tokenizer = load(folder)
    rows = int(model.get_input_embeddings().weight.shape[0])
    if len(tokenizer) > rows:
        raise EvaluationError(
            f"{folder}: the tokenizer knows {len(tokenizer)} tokens and the model {rows}; they are not of one model"
        )
    checkpoint = _checkpoint(folder)
    return Opened(
        folder=folder,
        model=model,
        tokenizer=tokenizer,
        digest=checkpoint_digest(checkpoint),
        parameters=sum(values.numel() for values in model.parameters()),
        weights_bytes=(checkpoint / "model.safetensors").stat().st_size,
        size_bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
    )


def load(folder: Path) -> tuple[Any, PreTrainedTokenizerFast]:
    """Model and tokenizer of a folder or bundle, without what takes longer than a program that answers would wait.

    Raises:
        EvaluationError: A file is missing, damaged or pickled.
        BundleError: The checkpoint or the bundle is damaged.
    """
    checkpoint = _checkpoint(folder)
    _require_files(checkpoint)
    try:
        return _read(checkpoint)
    except SdkError:
        raise
    except Exception as cause:  # What three libraries raise on a damaged file has no common root.
        raise EvaluationError(f"{folder} cannot be opened ({_first_line(cause)}); get the model again") from cause


def _checkpoint(folder: Path) -> Path:
    return Bundle.open(folder).checkpoint if (folder / "manifest.json").exists() else folder


def _require_files(checkpoint: Path) -> None:
    if not checkpoint.is_dir():
        raise EvaluationError(f"{checkpoint} is not a folder; name a model folder or a bundle")
    for name, what in MADE_OF.items():
        if not (checkpoint / name).is_file():
            pickled = sorted(file.name for file in checkpoint.glob("*.bin")) if what == "weights" else []
            more = f" ({pickled[0]} is a pickle, which is never read)" if pickled else ""
            raise EvaluationError(f"{checkpoint} has no {name}{more}; without its {what} a model cannot be measured")


def _read(checkpoint: Path) -> tuple[Any, PreTrainedTokenizerFast]:
    if json.loads((checkpoint / "config.json").read_bytes()).get("model_type") == "llama":
        return open_checkpoint(checkpoint)
    # Other families: teachers, and students of experts.
    model = AutoModelForCausalLM.from_pretrained(checkpoint, local_files_only=True, use_safetensors=True)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint, local_files_only=True)
    return model.float().eval().requires_grad_(False), tokenizer


def _first_line(cause: BaseException) -> str:
    return (str(cause) or type(cause).__name__).splitlines()[0]
