"""Batches cost the nats that each sequence costs alone, by the library's own loss, and damaged weights are refused."""

import pytest
import torch

from sdk.build.evaluate import likelihood
from sdk.build.evaluate.likelihood import Scored, batches, nats, start_token
from sdk.errors import EvaluationError, NotRunError
from sdk.tokens import text_tokens
from tests.tiny import SENTENCES, tiny_model, tiny_tokenizer

MODEL, TOKENIZER = tiny_model(), tiny_tokenizer()


def sequences() -> list[Scored]:
    start = start_token(TOKENIZER)
    return [
        Scored(ids=(start, *text_tokens(TOKENIZER, text)), first=first)
        for first, text in enumerate([*SENTENCES, "a", "the cat the cat"], start=1)
        if len(text) > 1 or first == 5
    ]


def test_nats_are_the_librarys_loss_times_the_tokens_that_count() -> None:
    wanted = []
    for one in sequences():
        ids = torch.tensor([one.ids])
        labels = ids.clone()
        labels[0, : one.first] = -100
        with torch.no_grad():
            loss = float(MODEL(input_ids=ids, labels=labels).loss) if one.first < len(one.ids) else 0.0
        wanted.append(loss * (len(one.ids) - one.first))
    assert nats(MODEL, sequences()) == pytest.approx(wanted, rel=1e-4)


def test_padding_batches_and_head_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = nats(MODEL, sequences())
    monkeypatch.setattr(likelihood, "BATCH_TOKENS", 1)
    monkeypatch.setattr(likelihood, "HEAD_ROWS", 3)
    assert nats(MODEL, sequences()) == pytest.approx(wanted, rel=1e-4)


def test_every_sequence_is_in_one_batch_and_no_batch_is_too_large() -> None:
    lengths = [1, 4000, 3, 900, 900, 900, 900, 900, 5000]
    found = list(batches(lengths))
    assert sorted(row for rows in found for row in rows) == list(range(len(lengths)))
    assert all(len(rows) == 1 or len(rows) * lengths[rows[0]] <= likelihood.BATCH_TOKENS for rows in found)


@pytest.mark.parametrize("damage", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(damage: float) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = damage
    with pytest.raises(EvaluationError, match="not finite numbers"):
        nats(model, sequences())


def test_a_spelled_marker_is_text_and_leaves_the_tokenizer_as_it_was() -> None:
    spelled = text_tokens(TOKENIZER, "<|im_end|>")
    assert len(spelled) > 1
    assert TOKENIZER.decode(spelled) == "<|im_end|>"
    assert len(TOKENIZER.backend_tokenizer.encode("<|im_end|>", add_special_tokens=False).ids) == 1


def test_a_tokenizer_that_begins_nothing_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    known = {token: row for token, row in tokenizer.get_vocab().items() if not token.startswith("<|")}

    class Bare:
        bos_token = eos_token = None

        def get_vocab(self) -> dict[str, int]:
            return known

    with pytest.raises(NotRunError, match="begins or ends a document"):
        start_token(Bare())
