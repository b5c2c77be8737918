"""Bits per byte come out as the closed form says, whatever the tokenizer, and every byte is paid for."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from sdk.build.evaluate.language import bits_per_byte, passages, read_texts
from sdk.errors import EvaluationError, NotRunError
from sdk.tokens import text_tokens
from tests.tiny import SENTENCES, VOCABULARY, tiny_model, tiny_tokenizer

TEXT = " ".join(SENTENCES)


def test_a_model_that_knows_nothing_pays_log_of_its_vocabulary_for_each_token() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    with torch.no_grad():
        model.model.norm.weight.zero_()
    found = bits_per_byte(model, tokenizer, [TEXT])
    tokens = sum(len(text_tokens(tokenizer, piece)) for piece in passages(TEXT))
    assert found.value == pytest.approx(math.log2(VOCABULARY) * tokens / len(TEXT.encode()), rel=1e-6)


def test_another_cut_of_the_same_text_costs_a_model_that_knows_nothing_more() -> None:
    model, tokenizer, bytewise = tiny_model(), tiny_tokenizer(), tiny_tokenizer()
    described = json.loads(bytewise.backend_tokenizer.to_str())
    described["model"]["merges"] = []
    bytewise = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(described)), bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    with torch.no_grad():
        model.model.norm.weight.zero_()
    text = "the people and the states — naïvely, 3 of them"
    assert bits_per_byte(model, bytewise, [text]).value == pytest.approx(math.log2(VOCABULARY))  # A token a byte.
    assert bits_per_byte(model, tokenizer, [text]).value < math.log2(VOCABULARY)


def test_a_tokenizer_that_drops_letters_is_not_run() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(NotRunError, match="does not give a text back"):
        bits_per_byte(tiny_model(), tokenizer, ["The Union"])
    words = {"<|endoftext|>": 0, "the": 1, "[UNK]": 2}
    unknowing = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="[UNK]")))
    with pytest.raises(NotRunError, match="does not give a text back"):
        bits_per_byte(tiny_model(), unknowing, ["cat"])


@given(st.text(), st.integers(1, 50))
def test_passages_together_are_the_text(text: str, most: int) -> None:
    found = list(passages(text, most))
    assert "".join(found) == text
    for piece in found:  # Only a single word may be longer.
        assert len(piece.encode()) <= most or len(piece.split()) <= 1


def test_texts_are_read_whole_or_as_a_seeded_choice(tmp_path: Path) -> None:
    plain, lines = tmp_path / "a.txt", tmp_path / "a.jsonl"
    plain.write_text("word " * 2000, encoding="utf-8")
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in SENTENCES), encoding="utf-8")
    assert "".join(read_texts(plain, most_passages=None)) == "word " * 2000
    assert read_texts(lines, most_passages=None) == list(SENTENCES)
    chosen = read_texts(plain, most_passages=3)
    assert len(chosen) == 3
    assert chosen == read_texts(plain, most_passages=3)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    for name, content in (
        ("a.txt", b"\xff\xfe\xff"),
        ("b.jsonl", b'{"words": 1}'),
        ("c.txt", b" \n"),
        ("d.jsonl", b"["),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(EvaluationError, match=name):
            read_texts(tmp_path / name, most_passages=None)
    with pytest.raises(EvaluationError, match="cannot read the text"):
        read_texts(tmp_path / "nowhere.txt", most_passages=None)
    with pytest.raises(EvaluationError, match="no text"):
        bits_per_byte(tiny_model(), tiny_tokenizer(), [])
