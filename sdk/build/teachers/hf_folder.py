"""A local Hugging Face folder in, a model and its tokenizer out; nothing of it is executed and nothing is fetched.

Rules: what a library would repair in silence is refused here.

(1) Weights are safetensors. A pickle beside them is not read, a pickle alone is refused.
(2) The family is one of FAMILIES. Code that the folder brings along (`auto_map`) never runs.
(3) Every tensor of the model is in the files and no other: transformers would draw a missing one at random.
(4) The tokenizer is there as tokenizer.json, and every id that it can give has a row in the embedding.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from sdk.errors import TeacherError

__all__ = ["FAMILIES", "embedding_rows", "licence_in", "load_folder"]

FAMILIES = ("llama", "phi3", "gemma3_text", "qwen2", "qwen3")
"""`model_type` of what can teach: each is loaded, looked into and distilled from in tests."""

MAX_CONFIG_BYTES = 8 * 1024 * 1024  # Refused before parsing: a config is a few KB, a model card seldom 100 KB.


def load_folder(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Read a folder as a float32 model in evaluation mode, and its tokenizer.

    Raises:
        TeacherError: One of the rules above is broken, or a file is damaged.
    """
    config = _config(folder)
    if not any(folder.glob("*.safetensors")):
        raise TeacherError(f"{folder} holds no *.safetensors; weights are read from nothing else, save them so")
    if not (folder / "tokenizer.json").is_file():
        raise TeacherError(f"{folder} holds no tokenizer.json; get the whole model, or save its fast tokenizer there")
    model, told = _model(folder)
    absent = {kind: sorted(map(str, told[kind])) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    for kind, names in absent.items():
        if names:
            raise TeacherError(
                f"{folder}: {len(names)} {kind.replace('_', ' ')} (first: {names[0]}); "
                f"these are not the weights of the {config['model_type']} that config.json describes"
            )
    tokenizer = _tokenizer(folder)
    rows = embedding_rows(model)
    if (largest := max(tokenizer.get_vocab().values())) >= rows:
        raise TeacherError(f"{folder}: its tokenizer knows token {largest}, its embedding does not; get the model anew")
    return model.eval(), tokenizer


def _config(folder: Path) -> dict[str, Any]:
    config = _json(folder / "config.json")
    family = config.get("model_type")
    if family not in FAMILIES:
        raise TeacherError(f"{folder} is a {family!r}; what can teach is {', '.join(FAMILIES)}")
    if "auto_map" in config:
        raise TeacherError(
            f"{folder} wants code of its own to run ({sorted(config['auto_map'])[0]}); that is never done"
        )
    if "quantization_config" in config:
        raise TeacherError(f"{folder} is quantised, which needs another library; get its full-precision weights")
    return config


def _json(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MAX_CONFIG_BYTES:
            raise TeacherError(f"{file} has {file.stat().st_size / 1e6:.0f} MB, far too many for a config")
        found = json.loads(file.read_bytes())
    except (OSError, ValueError) as cause:
        raise TeacherError(f"{file} cannot be read ({type(cause).__name__}); get the model again") from cause
    if not isinstance(found, dict):
        raise TeacherError(f"{file} is no JSON object; get the model again")
    return found


def _model(folder: Path) -> tuple[PreTrainedModel, dict[str, Any]]:
    load: Any = AutoModelForCausalLM.from_pretrained  # Typed without the pair that output_loading_info returns.
    try:
        model, told = load(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # Reported, so that the refusal is ours.
            output_loading_info=True,
        )
    except Exception as cause:  # Each library below has exceptions of its own for a damaged file or a wrong field.
        raise TeacherError(f"{folder} cannot be loaded ({_first_line(cause)}); get the model again") from cause
    return model, told


def _tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as cause:  # The tokenizers library raises bare Exception on a damaged file.
        raise TeacherError(f"{folder}/tokenizer.json cannot be read ({_first_line(cause)}); get it again") from cause
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise TeacherError(f"{folder} has a tokenizer without offsets ({type(tokenizer).__name__}); save its fast one")
    return tokenizer


def embedding_rows(model: PreTrainedModel) -> int:
    """Tokens that the model has a row for."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    return len(weight)


def licence_in(folder: Path) -> str:
    """What the model card's header says (`license:` in README.md), or `unknown`."""
    card = folder / "README.md"
    if not card.is_file() or card.stat().st_size > MAX_CONFIG_BYTES:
        return "unknown"
    header = re.match(r"---\r?\n(.*?)\r?\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    found = re.search(r"^license:[ \t]*[\"']?([\w.+-]+)", header[1], re.MULTILINE) if header else None
    return found[1] if found else "unknown"


def _first_line(cause: Exception) -> str:
    words = (str(cause) or type(cause).__name__).strip().splitlines()[0]
    return words if len(words) <= 120 else f"{words[:119]}…"
