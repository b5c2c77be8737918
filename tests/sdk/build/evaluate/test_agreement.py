"""A student is compared with its teacher over the tokens that both have, and with no other."""

import json
from collections import Counter

import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from sdk.build.evaluate import agreement
from sdk.build.evaluate.agreement import teacher_leg, token_map
from sdk.build.evaluate.likelihood import start_token
from sdk.build.vocabulary import trim_tokenizer, trimmed_model
from sdk.errors import EvaluationError
from sdk.tokens import text_tokens
from tests.tiny import SENTENCES, VOCABULARY, tiny_model, tiny_tokenizer

TEACHER = tiny_model(), tiny_tokenizer()
LATE = Counter({token: token for token in range(VOCABULARY)})  # Keeps late merges, so ids move.


def values(student: tuple[object, object], teacher: tuple[object, object] = TEACHER) -> tuple[float, float]:
    made = teacher_leg(student, teacher, SENTENCES).estimates()
    return made["kl"].value, made["agreement"].value


def test_a_model_agrees_with_itself() -> None:
    assert values(TEACHER) == (0.0, 1.0)


def test_a_trimmed_vocabulary_alone_costs_no_divergence() -> None:
    trimmed = trim_tokenizer(TEACHER[1], LATE, size=300)
    student = trimmed_model(TEACHER[0], trimmed), trimmed.tokenizer
    divergence, alike = values(student)
    assert divergence == pytest.approx(0.0, abs=1e-6)
    assert alike == 1.0


def test_divergence_and_agreement_are_what_the_formulas_say() -> None:
    student = tiny_model(seed=1), TEACHER[1]
    start, far, same, positions = start_token(TEACHER[1]), 0.0, 0, 0
    for text in SENTENCES:
        ids = torch.tensor([[start, *text_tokens(TEACHER[1], text)]])
        with torch.no_grad():
            given, wanted = (
                model(input_ids=ids).logits[0, :-1].double().log_softmax(-1) for model in (student[0], TEACHER[0])
            )
        far += float((wanted.exp() * (wanted - given)).sum())
        same += int((wanted.argmax(-1) == given.argmax(-1)).sum())
        positions += len(given)
    assert values(student) == pytest.approx((far / positions, same / positions), rel=1e-4)


def test_ids_that_are_not_mapped_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed = trim_tokenizer(TEACHER[1], LATE, size=300)
    student = trimmed_model(TEACHER[0], trimmed), trimmed.tokenizer
    monkeypatch.setattr(agreement, "token_map", lambda student, teacher: torch.arange(len(student)))
    assert values(student)[0] > 0.1


def test_a_teacher_without_the_students_tokens_is_refused() -> None:
    smaller = trim_tokenizer(TEACHER[1], LATE, size=300).tokenizer
    with pytest.raises(EvaluationError, match="the teacher lacks 20 of the student's 320 tokens"):
        token_map(TEACHER[1], smaller)


def test_a_teacher_that_spells_in_another_way_is_refused() -> None:
    described = json.loads(tiny_tokenizer().backend_tokenizer.to_str())
    described["decoder"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(described)))
    with pytest.raises(EvaluationError, match="spell their tokens in different ways"):
        token_map(TEACHER[1], other)
