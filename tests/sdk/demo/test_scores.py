"""Scores of held-out records against what the whole model says without any of our shortcuts."""

import math

import numpy as np
import pytest
import torch

from personalize.adapter import AdapterSpec, fresh
from personalize.forward import encode
from sdk.demo.scores import Held, Score
from tests.tiny import tiny_model, tiny_tokenizer

PAIRS = [("say", "the cat sat on the mat"), ("", "a person writes a note"), ("what", "fix the parser and add a test")]


def test_bits_and_words_are_those_of_the_whole_model() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    held = Held(model, tokenizer, PAIRS, cut=2, max_tokens=48)
    score = held.score(fresh(model, AdapterSpec(layers=(2, 3)), fits_base="sha256:0"))
    bits, words, right = 0.0, 0, 0
    for prompt, answer in PAIRS:
        record = encode(tokenizer, prompt, answer)
        ids = torch.tensor([record.ids])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, record.completion - 1 : -1]  # (completion, vocab)
        targets = ids[0, record.completion :]
        bits += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum")) / math.log(2)
        hits = (logits.argmax(1) == targets).tolist()
        pieces = [str(tokenizer.decode([int(token)])) for token in targets]
        starts = [row for row, piece in enumerate(pieces) if row == 0 or piece[:1].isspace()]
        for start, end in zip(starts, [*starts[1:], len(pieces)], strict=True):
            words, right = words + 1, right + all(hits[start:end])
    assert score.bits.sum() == pytest.approx(bits, rel=1e-5)
    assert (score.words, score.words_right) == (words, right)
    assert score.characters.sum() == sum(len(answer) for _, answer in PAIRS)


def made(bits: list[float]) -> Score:
    return Score(bits=np.array(bits), characters=np.full(len(bits), 10.0), words_right=1, words=2)


def test_the_gain_is_the_share_of_bits_saved_and_its_interval_is_paired() -> None:
    before = [float(10 + row % 7) for row in range(40)]
    mean, low, high = made([0.9 * bits for bits in before]).gain_over(made(before))
    assert mean == pytest.approx(0.1)
    assert low == pytest.approx(0.1)
    assert high == pytest.approx(0.1)


def test_the_interval_holds_the_estimate_and_shrinks_with_more_records() -> None:
    spread = np.random.default_rng(1).normal(20, 4, 400).tolist()
    few, many = made(spread[:25]), made(spread)
    assert few.interval()[0] < few.bits_per_char < few.interval()[1]
    assert many.interval()[1] - many.interval()[0] < few.interval()[1] - few.interval()[0]
