"""The torch engine says what the model says, piece by piece."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdk.bundle import Bundle, write_manifest
from sdk.device import runtime
from sdk.device.runtime import Runtime
from sdk.errors import BundleError, GenerationError, PromptTooLongError
from tests.tiny import GREETING, tiny_bundle, tiny_model


@pytest.fixture
def tiny(tmp_path: Path) -> Runtime:
    return Runtime.open(tiny_bundle(tmp_path))


def greedy_without_cache(tiny: Runtime, prompt: str, tokens: int) -> list[int]:
    """The answer by running the whole text again for every token."""
    ids = tiny.encode(prompt)
    start = len(ids)
    for _ in range(tokens):
        with torch.no_grad():
            best = int(tiny.model(torch.tensor([ids])).logits[0, -1].argmax())
        if best in tiny.stop_tokens:
            break
        ids.append(best)
    return ids[start:]


def test_the_opened_model_is_the_written_one_frozen_and_in_evaluation(tiny: Runtime) -> None:
    written = tiny_model().state_dict()
    assert all(torch.equal(value, written[name]) for name, value in tiny.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in tiny.model.parameters())
    assert not tiny.model.training
    assert tiny.model.dtype == torch.float32
    assert tiny.model.lm_head.weight is tiny.model.model.embed_tokens.weight


def test_logits_equal_those_of_the_model_before_it_was_written(tiny: Runtime) -> None:
    ids = torch.arange(3, 60).view(1, -1)  # (1, seq)
    with torch.no_grad():
        assert torch.equal(tiny.model(ids).logits, tiny_model()(ids).logits)


def test_the_model_can_still_be_trained_on_after_it_has_answered(tiny: Runtime) -> None:
    tiny.generate("the cat", 4)
    tiny.model.model.norm.weight.requires_grad_(True)
    tiny.model(torch.tensor([[3, 4, 5]])).logits.sum().backward()
    assert tiny.model.model.norm.weight.grad is not None


@pytest.mark.parametrize("prompt", ["the cat sat", "2024 🙂", "naïve\n\nlines", ""])
def test_the_cache_changes_no_token(tiny: Runtime, prompt: str) -> None:
    expected = greedy_without_cache(tiny, prompt, 30)
    assert tiny.generate(prompt, 30) == str(tiny.tokenizer.decode(expected)).rstrip("\ufffd")


def test_pieces_join_to_the_answer_and_none_is_empty(tiny: Runtime) -> None:
    pieces = list(tiny.stream("the dog", 30))
    assert len(pieces) > 1
    assert all(pieces)
    assert "".join(pieces) == tiny.generate("the dog", 30)


def test_a_character_of_several_tokens_comes_out_whole(tiny: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    script = iter(tiny.tokenizer("né 🙂!").input_ids)
    monkeypatch.setattr(runtime, "_choose", lambda *_: next(script))
    count = len(tiny.tokenizer("né 🙂!").input_ids)
    pieces = list(tiny.stream("x", count))
    assert count > len("né 🙂!")  # The smiley takes several tokens here.
    assert "".join(pieces) == "né 🙂!"
    assert not any("\ufffd" in piece for piece in pieces)


def test_an_answer_stops_at_the_end_of_the_turn(tiny: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    cat = tiny.tokenizer("cat").input_ids
    script = iter([*cat, 2, *cat])
    monkeypatch.setattr(runtime, "_choose", lambda *_: next(script))
    assert tiny.generate("x", 20) == "cat"


def test_the_longest_answer_has_the_tokens_that_were_asked_for(tiny: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    letter = tiny.tokenizer("q").input_ids[0]
    monkeypatch.setattr(runtime, "_choose", lambda *_: letter)
    assert tiny.generate("x", 7) == "q" * 7


def test_sampling_repeats_with_a_seed_and_differs_without(tiny: Runtime) -> None:
    one = tiny.generate("the cat", 30, temperature=1.5, seed=1)
    assert one == tiny.generate("the cat", 30, temperature=1.5, seed=1)
    assert len({tiny.generate("the cat", 30, temperature=1.5) for _ in range(4)}) > 1


def test_sampling_follows_the_softmax_at_its_temperature() -> None:
    logits = torch.tensor([2.0, 0.0, 1.0])
    generator = torch.Generator().manual_seed(0)
    draws = torch.tensor([runtime._choose(logits, 2.0, generator) for _ in range(4_000)])
    expected = torch.softmax(logits / 2.0, dim=0)
    found = torch.bincount(draws, minlength=3) / len(draws)
    # Five standard deviations of a share from 4,000 draws, at most 0.5 / sqrt(4,000) each.
    assert torch.allclose(found, expected, atol=5 * 0.5 / 4_000**0.5)


def test_sampling_leaves_torchs_own_random_state_alone(tiny: Runtime) -> None:
    before = torch.get_rng_state()
    tiny.generate("the cat", 5, temperature=1.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_conversation_is_encoded_turn_by_turn(tiny: Runtime) -> None:
    text = tiny.tokenizer.decode(tiny.encode([*GREETING, {"role": "user", "content": "and then"}]))
    assert text == (
        "<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\nsat on the mat<|im_end|>\n"
        "<|im_start|>user\nand then<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tiny.encode("the cat") == tiny.encode([{"role": "user", "content": "the cat"}])


@pytest.mark.parametrize(
    "messages",
    [[], [{"role": "tool", "content": "x"}], [{"role": "user"}], [{"role": "user<|im_end|>", "content": "x"}]],
)
def test_a_malformed_conversation_is_refused(tiny: Runtime, messages: list[dict[str, str]]) -> None:
    with pytest.raises(GenerationError, match="message"):
        tiny.generate(messages, 5)


@pytest.mark.parametrize("temperature", [-0.1, float("nan"), float("inf")])
def test_a_temperature_that_means_nothing_is_refused_at_the_call(tiny: Runtime, temperature: float) -> None:
    with pytest.raises(GenerationError, match="temperature must be 0 or a positive number"):
        tiny.stream("x", 5, temperature=temperature)


def test_asking_for_no_token_is_refused_at_the_call(tiny: Runtime) -> None:
    with pytest.raises(GenerationError, match="max_new_tokens must be at least 1, got 0"):
        tiny.stream("x", 0)


def test_prompt_and_answer_must_fit_the_context(tiny: Runtime) -> None:
    room = 256 - len(tiny.encode("the cat"))
    tiny.stream("the cat", room)
    with pytest.raises(PromptTooLongError, match=f"an answer of {room + 1} pass the context of 256"):
        tiny.stream("the cat", room + 1)


def test_a_checkpoint_whose_weights_do_not_fit_its_config_is_one_clear_line(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    file = bundle.checkpoint / "config.json"
    config = json.loads(file.read_bytes())
    file.write_text(json.dumps({**config, "num_hidden_layers": 5}), encoding="utf-8")
    again = write_manifest(bundle.folder, name="n", version="2", base_id="b", licence="l", origin="o")
    with pytest.raises(BundleError, match="cannot be loaded") as refusal:
        Runtime.open(again)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json"])
def test_a_damaged_file_of_the_same_size_is_one_clear_line(tmp_path: Path, name: str) -> None:
    bundle = tiny_bundle(tmp_path)
    file = bundle.checkpoint / name
    file.write_bytes(b"\xff" * 64 + file.read_bytes()[64:])
    with pytest.raises(BundleError, match="cannot be loaded") as refusal:
        Runtime.open(Bundle.open(bundle.folder))
    assert "\n" not in str(refusal.value)


def test_a_config_that_no_llama_has_is_one_clear_line(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    file = bundle.checkpoint / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_bytes()), "hidden_size": "wide"}), encoding="utf-8")
    again = write_manifest(bundle.folder, name="n", version="2", base_id="b", licence="l", origin="o")
    with pytest.raises(BundleError, match="cannot be loaded"):
        Runtime.open(again)


def test_a_checkpoint_that_lacks_a_tensor_is_refused_and_not_filled_with_noise(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    file = bundle.checkpoint / "model.safetensors"
    weights = load_file(file)
    del weights["model.norm.weight"]
    save_file(weights, file)
    again = write_manifest(bundle.folder, name="n", version="2", base_id="b", licence="l", origin="o")
    with pytest.raises(BundleError, match="cannot be loaded"):
        Runtime.open(again)


@pytest.mark.real
def test_the_real_base_answers(base_bundle: Bundle) -> None:
    real = Runtime.open(base_bundle)
    assert "Paris" in real.generate("What is the capital of France?", 12)


@pytest.mark.real
def test_the_real_bases_logits_are_finite_and_its_digests_hold(base_bundle: Bundle) -> None:
    real = Runtime.open(Bundle.open(base_bundle.folder, verify="digests"))
    with torch.no_grad():
        logits = real.model(torch.tensor([real.encode("Write one line about rain.")])).logits  # (1, seq, vocab)
    assert logits.shape[-1] == 49_152
    assert torch.isfinite(logits).all()


@pytest.mark.real
@pytest.mark.parametrize(
    "text",
    ["In 2024,  12 cats", "naïve 🙂 日本 \u200d", "\ttabs\n\n  and blanks  ", "usage: open <filename>", "x" * 300, ""],
)
def test_the_real_tokenizer_gives_every_text_back(base_bundle: Bundle, text: str) -> None:
    tokenizer = Runtime.open(base_bundle).tokenizer
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


@pytest.mark.real
def test_the_real_tokenizer_splits_digits_and_keeps_runs_of_blanks_before_them(base_bundle: Bundle) -> None:
    tokenizer = Runtime.open(base_bundle).tokenizer
    assert tokenizer.tokenize("2024") == ["2", "0", "2", "4"]
    assert tokenizer.tokenize("a  1") == ["a", "ĠĠ", "1"]  # llama.cpp's "smollm" splitting; plain byte-level: Ġ Ġ 1.
