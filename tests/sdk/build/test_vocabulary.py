"""Trimming a vocabulary: nothing that can still be written in the old pieces is written in others."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from sdk.build import vocabulary
from sdk.build.vocabulary import count_tokens, trim_tokenizer, trimmed_model
from sdk.errors import BuildError
from tests.tiny import SENTENCES, VOCABULARY, tiny_model, tiny_tokenizer

SIZE = VOCABULARY - 20


def cut(tokenizer: Any, text: str) -> list[str]:
    """A text's pieces."""
    return list(tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"]))


def words() -> list[str]:
    """Words of the merges' own text and many that are not in it."""
    made = {word for sentence in SENTENCES for word in sentence.split()}
    return sorted(made | {first[:3] + second[-3:] for first in made for second in made})


def differing(smaller: Any, larger: Any) -> tuple[int, int]:
    """Words whose pieces all survive, and how many of those are cut in another way."""
    kept, same, other = smaller.get_vocab(), 0, 0
    for word in words():
        pieces = cut(larger, word)
        if all(piece in kept for piece in pieces):
            same += 1
            other += pieces != cut(smaller, word)
    return same, other


def test_a_word_whose_pieces_survive_is_cut_as_before() -> None:
    tokenizer = tiny_tokenizer()
    trimmed = trim_tokenizer(tokenizer, count_tokens(tokenizer, SENTENCES[:2]), size=SIZE)
    whole, other = differing(trimmed.tokenizer, tokenizer)
    assert whole > 50
    assert other == 0


def test_leaving_parents_out_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "_with_parents", lambda token, parents, kept: {token} - kept)
    tokenizer = tiny_tokenizer()
    counts = Counter(dict.fromkeys(range(VOCABULARY - 20, VOCABULARY), 5))  # The last merges, not their parents.
    trimmed = trim_tokenizer(tokenizer, counts, size=SIZE - 20)
    assert differing(trimmed.tokenizer, tokenizer)[1] > 0


def test_any_text_decodes_to_itself() -> None:
    tokenizer = tiny_tokenizer()
    smaller = trim_tokenizer(tokenizer, Counter(), size=SIZE).tokenizer
    for text in (*SENTENCES, "Ünïcode ☂ 12 345\n\ttab", "naïve"):
        assert smaller.decode(smaller(text, add_special_tokens=False)["input_ids"]) == text


def test_it_has_exactly_the_size_and_the_old_order() -> None:
    tokenizer = tiny_tokenizer()
    trimmed = trim_tokenizer(tokenizer, count_tokens(tokenizer, SENTENCES), size=SIZE)
    assert len(trimmed.tokenizer) == len(trimmed.kept) == SIZE
    assert bool((trimmed.kept.diff() > 0).all())
    old, new = tokenizer.get_vocab(), trimmed.tokenizer.get_vocab()
    assert all(int(trimmed.kept[new[token]]) == old[token] for token in new)
    assert trimmed.tokenizer.eos_token == tokenizer.eos_token
    assert trimmed.tokenizer.chat_template == tokenizer.chat_template


def test_common_tokens_survive_rare_ones_go() -> None:
    tokenizer = tiny_tokenizer()
    counts = count_tokens(tokenizer, [SENTENCES[0]] * 3)
    kept = set(trim_tokenizer(tokenizer, counts, size=SIZE).kept.tolist())
    assert set(counts) <= kept


@pytest.mark.parametrize("size", [1, 200, VOCABULARY, VOCABULARY + 1])
def test_a_size_without_room_or_without_need_is_refused(size: int) -> None:
    with pytest.raises(BuildError, match=f"not {size}"):
        trim_tokenizer(tiny_tokenizer(), Counter(), size=size)


def test_the_smaller_model_has_the_old_logits_of_the_kept_tokens() -> None:
    tokenizer, model = tiny_tokenizer(), tiny_model()
    trimmed = trim_tokenizer(tokenizer, count_tokens(tokenizer, SENTENCES), size=SIZE)
    smaller = trimmed_model(model, trimmed)
    new = torch.tensor([trimmed.tokenizer(SENTENCES[0], add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        old = model(input_ids=trimmed.kept[new]).logits[..., trimmed.kept]
        assert torch.allclose(smaller(input_ids=new).logits, old, atol=1e-6)
    assert smaller.config.eos_token_id == trimmed.tokenizer.eos_token_id


@pytest.mark.slow
def test_the_real_vocabulary_is_closed(base_bundle: Any, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(base_bundle.checkpoint)
    texts = [json.dumps(row) for row in base_bundle.rehearsal()]
    trimmed = trim_tokenizer(tokenizer, count_tokens(tokenizer, texts), size=16_384)
    kept, looked = trimmed.tokenizer.get_vocab(), 0
    for word in sorted({word for text in texts for word in text.split()}):
        pieces = cut(tokenizer, " " + word)
        if all(piece in kept for piece in pieces):
            looked += 1
            assert cut(trimmed.tokenizer, " " + word) == pieces
    assert looked > 500
