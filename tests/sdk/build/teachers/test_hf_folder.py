"""What a library would repair in silence, or run, is refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdk.build.teachers import hf_folder
from sdk.build.teachers.hf_folder import licence_in, load_folder
from sdk.errors import TeacherError
from tests.families import save_family


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_family(tmp_path, "llama")
    return tmp_path


def change_config(folder: Path, **changed: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changed))


def change_weights(folder: Path, drop: str = "", **added: torch.Tensor) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop(drop, None)
    save_file({**weights, **added}, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_whole_folder_is_read_in_evaluation_mode(folder: Path) -> None:
    model, tokenizer = load_folder(folder)
    assert not model.training
    assert model.dtype == torch.float32
    assert tokenizer("the cat").input_ids


def test_a_pickle_is_not_read(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(TeacherError, match=r"holds no \*\.safetensors; weights are read from nothing else"):
        load_folder(folder)


def test_code_that_a_folder_brings_does_not_run(folder: Path) -> None:
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    change_config(folder, auto_map={"AutoModelForCausalLM": "evil.Model"})
    with pytest.raises(TeacherError, match=r"wants code of its own to run .*never done"):
        load_folder(folder)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"model_type": "mamba"}, "is a 'mamba'; what can teach is llama, phi3"),
        ({"quantization_config": {"quant_method": "gptq"}}, "is quantised"),
        ({"num_hidden_layers": 4}, "missing keys .*not the weights of the llama"),
        ({"num_hidden_layers": 2}, "unexpected keys"),
        ({"intermediate_size": 48}, "mismatched keys"),
        ({"num_attention_heads": "four"}, "cannot be loaded"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(folder: Path, changed: dict[str, Any], line: str) -> None:
    change_config(folder, **changed)
    with pytest.raises(TeacherError, match=line) as refused:
        load_folder(folder)
    assert "\n" not in str(refused.value)


def test_a_tensor_that_is_missing_is_not_drawn_at_random(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    whole, _ = load_folder(folder)
    change_weights(folder, drop=name)
    with pytest.raises(TeacherError, match=rf"1 missing keys \(first: {name}\)"):
        load_folder(folder)
    real = hf_folder._model
    monkeypatch.setattr(hf_folder, "_model", lambda place: (real(place)[0], dict.fromkeys(real(place)[1], ())))
    model, _ = load_folder(folder)  # The mutant: transformers fills the gap.
    assert not torch.equal(model.state_dict()[name], whole.state_dict()[name])


def test_a_tensor_too_many_is_refused(folder: Path) -> None:
    change_weights(folder, stray=torch.zeros(2))
    with pytest.raises(TeacherError, match=r"1 unexpected keys \(first: stray\)"):
        load_folder(folder)


@pytest.mark.parametrize("keep", [0, 7, 100, 5_000])
def test_cut_weights_are_refused(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(TeacherError, match="cannot be loaded"):
        load_folder(folder)


def test_a_missing_or_damaged_tokenizer_is_one_clear_line(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(TeacherError, match=r"tokenizer.json cannot be read"):
        load_folder(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(TeacherError, match=r"holds no tokenizer.json"):
        load_folder(folder)


def test_a_tokenizer_of_a_larger_vocabulary_is_refused(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["another"] = 320
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(TeacherError, match="its tokenizer knows token 320, its embedding does not"):
        load_folder(folder)


@pytest.mark.parametrize(("content", "line"), [(b"", "cannot be read"), (b"[]", "is no JSON object"), (b"{", "cannot")])
def test_a_config_that_is_none_is_refused(folder: Path, content: bytes, line: str) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(TeacherError, match=line):
        load_folder(folder)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: gemma\n---\n", "gemma"),
        ('---\nlanguage: en\nlicense: "apache-2.0"\n---\ntext', "apache-2.0"),
        ("---\nlicense_name: other\n---\nlicense: mit\n", "unknown"),
        ("license: mit", "unknown"),
    ],
)
def test_the_licence_is_what_the_cards_header_says(tmp_path: Path, card: str, licence: str) -> None:
    (tmp_path / "README.md").write_text(card)
    assert licence_in(tmp_path) == licence
    assert licence_in(tmp_path / "nowhere") == "unknown"
