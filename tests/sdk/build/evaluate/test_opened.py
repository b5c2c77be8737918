"""A plain folder and a bundle open alike, in whatever form the weights are; anything else is refused in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from sdk.build.evaluate.opened import open_model
from sdk.errors import BundleError, SdkError
from tests.tiny import tiny_bundle, tiny_tokenizer


def plain(folder: Path) -> Path:
    shutil.copytree(tiny_bundle(folder).checkpoint, folder / "plain")
    return folder / "plain"


def test_a_bundle_and_its_plain_checkpoint_are_the_same_model(tmp_path: Path) -> None:
    folder = plain(tmp_path)
    bundle, checkpoint = open_model(tmp_path / "tiny-0"), open_model(folder)
    ids = torch.arange(9)[None]
    assert torch.equal(bundle.model(input_ids=ids).logits, checkpoint.model(input_ids=ids).logits)
    assert bundle.digest == checkpoint.digest == tiny_bundle(tmp_path / "again").base_digest
    assert bundle.size_bytes > checkpoint.size_bytes > checkpoint.weights_bytes
    assert checkpoint.parameters == sum(value.numel() for value in load_file(folder / "model.safetensors").values())
    assert not any(value.requires_grad for value in checkpoint.model.parameters())


def test_half_precision_weights_are_measured_in_float32(tmp_path: Path) -> None:
    folder = plain(tmp_path)
    halves = {name: value.half() for name, value in load_file(folder / "model.safetensors").items()}
    save_file(halves, folder / "model.safetensors")
    assert open_model(folder).model.dtype == torch.float32


def test_a_teacher_of_another_family_opens(tmp_path: Path) -> None:
    config = Qwen2Config(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "qwen")
    tiny_tokenizer().save_pretrained(tmp_path / "qwen")
    assert open_model(tmp_path / "qwen").model.config.model_type == "qwen2"


def _other_vocabulary(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][:300].clone()
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 300}))


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: (folder / "config.json").unlink(), "has no config.json; without its shapes"),
    (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json; without its tokenizer"),
    (_pickled, r"pytorch_model.bin is a pickle, which is never read"),
    (lambda folder: (folder / "config.json").write_text("{"), "cannot be opened"),
    (lambda folder: (folder / "tokenizer.json").write_text("{}"), "is no checkpoint"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"12345678901"), "get the model again"),
    (_other_vocabulary, "the tokenizer knows 320 tokens and the model 300"),
    (shutil.rmtree, "is not a folder"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGES)
def test_a_folder_that_is_no_model_is_refused_in_one_line(
    tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    folder = plain(tmp_path)
    damage(folder)
    with pytest.raises(SdkError, match=said) as refused:
        open_model(folder)
    assert "\n" not in str(refused.value)


def test_a_damaged_bundle_is_refused_as_a_bundle(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    (bundle.checkpoint / "config.json").write_text("{}")
    with pytest.raises(BundleError, match="the manifest says"):
        open_model(bundle.folder)
