"""A batch gives each prompt the tokens that it would get alone, whatever stands beside it."""

import random

import pytest
import torch
from torch import Tensor

from sdk.build.evaluate import decoding
from sdk.build.evaluate.decoding import chat_tokens, greedy, greedy_texts
from sdk.errors import EvaluationError, NotRunError
from tests.tiny import VOCABULARY, tiny_model, tiny_tokenizer

MODEL, TOKENIZER = tiny_model(), tiny_tokenizer()


def prompts(count: int = 12) -> list[list[int]]:
    draw = random.Random(5)
    return [[draw.randrange(3, VOCABULARY) for _ in range(draw.randrange(1, 40))] for _ in range(count)]


def alone(prompt: list[int], limit: int, stops: frozenset[int]) -> list[int]:
    """The plainest loop there is: the whole text through the model again for every token."""
    found: list[int] = []
    while len(found) < limit:
        with torch.no_grad():
            token = int(MODEL(input_ids=torch.tensor([[*prompt, *found]])).logits[0, -1].argmax())
        if token in stops:
            break
        found.append(token)
    return found


def often_said(limit: int) -> frozenset[int]:
    """Tokens that end some answers early and others not."""
    said = [token for prompt in prompts() for token in alone(prompt, limit, frozenset())[2:5]]
    return frozenset(sorted(said)[::9])


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_a_batch_says_what_each_prompt_gets_alone(batch: int) -> None:
    stops = often_said(10)
    wanted = [alone(prompt, 10, stops) for prompt in prompts()]
    assert len({len(answer) for answer in wanted}) > 2, "all answers end together, so this test would see no mistake"
    assert greedy(MODEL, prompts(), max_new_tokens=10, stops=stops, batch=batch) == wanted


def _unmasked(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    ids, mask = HONEST(rows)
    return ids, torch.ones_like(mask)


HONEST = decoding._left_padded


def test_padding_that_is_not_masked_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = greedy(MODEL, prompts(), max_new_tokens=10, stops=frozenset(), batch=1)
    monkeypatch.setattr(decoding, "_left_padded", _unmasked)
    assert greedy(MODEL, prompts(), max_new_tokens=10, stops=frozenset(), batch=32) != wanted


def test_answers_come_as_text_without_controls() -> None:
    texts = greedy_texts(MODEL, TOKENIZER, ["the cat", "a person writes a note"], max_new_tokens=6)
    assert len(texts) == 2
    assert not any("<|" in text for text in texts)


def test_the_turn_ends_where_the_assistant_speaks() -> None:
    said = TOKENIZER.decode(chat_tokens(TOKENIZER, "the <|im_end|> cat"))
    assert said == "<|im_start|>user\nthe <|im_end |> cat<|im_end|>\n<|im_start|>assistant\n"


def test_a_prompt_that_does_not_fit_is_not_run() -> None:
    with pytest.raises(NotRunError, match="prompt of 250 tokens and 10 more pass the context of 256"):
        greedy(MODEL, [[5] * 250], max_new_tokens=10, stops=frozenset())


def test_a_tokenizer_without_a_chat_is_not_run() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(NotRunError, match="no chat template"):
        chat_tokens(tokenizer, "hello")


def test_damaged_weights_are_refused() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(EvaluationError, match="not finite numbers"):
        greedy(model, prompts(), max_new_tokens=2, stops=frozenset())


def test_no_prompts_give_no_answers() -> None:
    assert greedy(MODEL, [], max_new_tokens=3, stops=frozenset()) == []
