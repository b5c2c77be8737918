"""The GGUF reader agrees with transformers' own, and refuses what it cannot read."""

from pathlib import Path

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM

from sdk.build.teachers import gguf_file
from sdk.build.teachers.gguf_file import CHAT_CONTROLS, load_gguf
from sdk.errors import TeacherError
from tests.tiny import SENTENCES, tiny_gguf, tiny_tokenizer


def test_the_model_is_the_one_that_was_written(tmp_path: Path) -> None:
    written = tiny_gguf(tmp_path / "tiny.gguf").state_dict()
    model, _ = load_gguf(tmp_path / "tiny.gguf")
    assert model.state_dict().keys() == written.keys()
    assert all(torch.equal(value, written[name]) for name, value in model.state_dict().items())
    assert not model.training
    assert model.dtype == torch.float32


def test_logits_equal_those_of_transformers_own_reader(tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "tiny.gguf")
    ours, _ = load_gguf(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32)
    ids = torch.arange(40).view(2, 20)  # (batch, seq)
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)


def test_a_reader_that_forgets_the_order_of_rotary_rows_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tiny_gguf(tmp_path / "tiny.gguf").state_dict()
    monkeypatch.setattr(gguf_file, "_rotary_rows", lambda values, head_rows: values)
    model, _ = load_gguf(tmp_path)
    wrong = {name for name, value in model.state_dict().items() if not torch.equal(value, written[name])}
    assert {name.split(".")[-2] for name in wrong} == {"q_proj", "k_proj"}


def test_loading_leaves_the_callers_random_state_alone(tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "tiny.gguf")
    before = torch.get_rng_state()
    load_gguf(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_tokenizer_splits_as_the_one_that_was_written(tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "tiny.gguf")
    _, tokenizer = load_gguf(tmp_path)
    for text in (*SENTENCES, "In 2024,  12 cats", "naïve 🙂 日本\n\n\tx", ""):
        assert tokenizer(text).input_ids == tiny_tokenizer()(text).input_ids
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_only_the_chats_controls_are_special(tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "tiny.gguf")
    _, tokenizer = load_gguf(tmp_path)
    assert set(tokenizer.all_special_tokens) == set(CHAT_CONTROLS)
    text = "usage: open <filename>"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_the_chat_template_adds_no_system_turn() -> None:
    text = tiny_tokenizer().apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("control", CHAT_CONTROLS)
def test_a_message_cannot_speak_for_another_role(control: str) -> None:
    ids = tiny_tokenizer().apply_chat_template(
        [{"role": "user", "content": f"a{control}b"}], add_generation_prompt=True, return_dict=False
    )
    assert [row for row in ids if row in (0, 1, 2)] == [1, 2, 1]  # One turn opened, closed, and the answer opened.


def test_a_folder_needs_exactly_one_file(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="holds 0 GGUF files"):
        load_gguf(tmp_path)
    for name in ("a.gguf", "b.gguf"):
        tiny_gguf(tmp_path / name)
    with pytest.raises(TeacherError, match="holds 2 GGUF files"):
        load_gguf(tmp_path)


def test_a_file_that_does_not_exist_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="holds 0 GGUF files"):
        load_gguf(tmp_path / "nowhere.gguf")


@pytest.mark.parametrize("keep", [0, 3, 100, 2_000])
def test_a_cut_file_is_refused(tmp_path: Path, keep: int) -> None:
    file = tmp_path / "tiny.gguf"
    tiny_gguf(file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(TeacherError, match="not a readable GGUF file"):
        load_gguf(file)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("not weights at all, " * 100, encoding="utf-8")
    with pytest.raises(TeacherError, match="not a readable GGUF file"):
        load_gguf(tmp_path)


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "tiny.gguf", architecture="gemma")
    with pytest.raises(TeacherError, match="is a 'gemma'"):
        load_gguf(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tokenizer.ggml.pre", "llama-bpe", "tokenizer is gpt2/llama-bpe"),
        ("tokenizer.ggml.model", "llama", "tokenizer is llama/smollm"),
        ("llama.attention.head_count", 0, "values that no Llama has"),
        ("llama.feed_forward_length", 65, "do not form its own shape"),
        ("llama.block_count", 3, "do not form its own shape"),
        ("llama.block_count", None, "lacks 'llama.block_count'"),
        ("llama.rope.scaling.type", "linear", "scales its rotary positions"),
    ],
)
def test_fields_that_cannot_be_honoured_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, value: object, message: str
) -> None:
    tiny_gguf(tmp_path / "tiny.gguf")
    real = gguf.GGUFReader

    class Field:
        def contents(self) -> object:
            return value

    def altered(file: Path) -> gguf.GGUFReader:
        reader = real(file)
        reader.fields.pop(field, None)
        if value is not None:
            reader.fields[field] = Field()  # type: ignore[assignment]  # All that is asked of a field.
        return reader

    monkeypatch.setattr(gguf, "GGUFReader", altered)
    with pytest.raises(TeacherError, match=message):
        load_gguf(tmp_path)


def test_a_tensor_that_a_llama_has_not_is_refused_by_name() -> None:
    with pytest.raises(TeacherError, match=r"'blk\.0\.attn_q\.bias'"):
        gguf_file._name("blk.0.attn_q.bias")
