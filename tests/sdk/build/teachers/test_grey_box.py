"""Recorded and served log-probabilities are those of the weights, or they are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdk.build.teachers.answer_cache import AnswerCache
from sdk.build.teachers.endpoint import Endpoint, Patience
from sdk.build.teachers.grey_box import Recorded, ScoringEndpoint, record
from sdk.build.teachers.protocol import Depth, Sampling, TeacherFacts
from sdk.build.teachers.white_box import WhiteBox
from sdk.errors import EndpointError, TeacherError
from tests.endpoint import Service, serving, status, told
from tests.tiny import VOCABULARY, tiny_model, tiny_tokenizer

FACTS = TeacherFacts(name="tiny", depth=Depth.WEIGHTS, licence="mit", origin="tiny")
WEIGHTS = WhiteBox(model=tiny_model(layers=1), tokenizer=tiny_tokenizer(), facts=FACTS)
ROWS = [torch.arange(6) + 40, torch.arange(9) + 50, torch.arange(6) + 90]
ABOUT = {"format": "teacher_outputs/1", "name": "tiny", "licence": "mit", "vocabulary": str(VOCABULARY)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    assert record(WEIGHTS, ROWS, tmp_path / "told.safetensors", top_k=8, vocabulary=VOCABULARY) == 21
    return tmp_path / "told.safetensors"


def change(file: Path, about: dict[str, str] = ABOUT, **tensors: torch.Tensor) -> None:
    save_file({**load_file(file), **tensors}, file, metadata=about)


def test_what_was_recorded_is_what_the_weights_say(file: Path) -> None:
    teacher = Recorded.open(file)
    assert (teacher.facts.name, teacher.facts.licence, teacher.facts.depth) == ("tiny", "mit", Depth.PROBABILITIES)
    for ids in (torch.stack([ROWS[2], ROWS[0]]), ROWS[1][None]):
        ours, theirs = teacher.log_probabilities(ids, 5), WEIGHTS.log_probabilities(ids, 5)
        assert torch.equal(ours.ids, theirs.ids)
        assert torch.allclose(ours.log_probs, theirs.log_probs, atol=1e-5)
        assert torch.allclose(ours.rest, theirs.rest, atol=1e-5)


def test_half_precision_is_accepted(file: Path) -> None:
    change(file, top_log_probs=load_file(file)["top_log_probs"].half())
    Recorded.open(file)


def test_it_says_nothing_that_was_not_recorded(file: Path) -> None:
    teacher = Recorded.open(file)
    with pytest.raises(TeacherError, match=r"row 1 of \(2, 6\) ids is not among the 3 sequences"):
        teacher.log_probabilities(torch.stack([ROWS[0], ROWS[0] + 1]), 5)
    with pytest.raises(TeacherError, match="8 log-probabilities a token are there, top_k 9"):
        teacher.log_probabilities(ROWS[0][None], 9)
    with pytest.raises(TeacherError, match="cannot answer new prompts"):
        teacher.text(["a"], Sampling())


@pytest.mark.parametrize(
    ("place", "value", "line"),
    [
        ((3, 0), float("nan"), "not finite"),
        ((3, 0), 0.5, "above 0"),
        ((3, 7), -0.01, "rise along k"),
        ((3, slice(None)), -0.1, "sum to over 1"),
    ],
)
def test_numbers_that_are_no_log_probabilities_are_refused_by_place(
    file: Path, place: Any, value: float, line: str
) -> None:
    logs = load_file(file)["top_log_probs"]
    logs[place] = value
    change(file, top_log_probs=logs)
    with pytest.raises(TeacherError, match=rf"{line} \(row 0, position 3\)"):
        Recorded.open(file)


def test_tokens_that_cannot_be_are_refused(file: Path) -> None:
    ids = load_file(file)["top_ids"]
    ids[2, 1] = ids[2, 0]
    change(file, top_ids=ids)
    with pytest.raises(TeacherError, match=r"a token listed twice \(row 0, position 2\)"):
        Recorded.open(file)
    ids[2, 1] = VOCABULARY
    change(file, top_ids=ids)
    with pytest.raises(TeacherError, match="outside the vocabulary of 320"):
        Recorded.open(file)


def test_files_of_another_shape_are_one_clear_line(file: Path, tmp_path: Path) -> None:
    change(file, lengths=torch.tensor([6, 9], dtype=torch.int32))
    with pytest.raises(TeacherError, match="lengths of 15 tokens do not cut 21 ids"):
        Recorded.open(file)
    change(file, {"format": "other"})
    with pytest.raises(TeacherError, match="is not of format teacher_outputs/1"):
        Recorded.open(file)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(TeacherError, match="cannot be read as teacher_outputs/1"):
        Recorded.open(file)


def serve_scores(service: Service, *, name: str = "token_id:{}", spare: int = 1) -> None:
    def act(handler: Any, body: dict[str, Any]) -> None:
        given = WEIGHTS.log_probabilities(torch.tensor([body["prompt"]]), body["logprobs"] + spare)
        top = [
            {name.format(row): value for row, value in zip(ids, logs, strict=True)}
            for ids, logs in zip(given.ids[0].tolist(), given.log_probs[0].tolist(), strict=True)
        ]
        reply = {"choices": [{"text": "", "logprobs": {"top_logprobs": [None, *top]}}]}
        told(handler, 200, json.dumps(reply).encode(), "application/json")

    service.usual = act


def scoring(service: Service, tmp_path: Path) -> ScoringEndpoint:
    return ScoringEndpoint(
        endpoint=Endpoint(service.url, patience=Patience(attempts=1)),
        model="m",
        cache=AnswerCache(tmp_path / "answers.db"),
        vocabulary=VOCABULARY,
    )


def test_a_scoring_endpoint_says_what_its_weights_say_and_is_asked_once(tmp_path: Path) -> None:
    ids = torch.stack([ROWS[0], ROWS[2]])
    with serving() as service:
        serve_scores(service)
        ours = scoring(service, tmp_path).log_probabilities(ids, 5)
        again = scoring(service, tmp_path).log_probabilities(ids, 5)
        assert len(service.requests) == 2
    theirs = WEIGHTS.log_probabilities(ids, 5)
    assert torch.equal(ours.ids, theirs.ids)
    assert torch.allclose(ours.rest, theirs.rest, atol=1e-5)
    assert torch.equal(ours.log_probs, again.log_probs)


def test_an_endpoint_that_does_not_score_is_one_clear_line(tmp_path: Path) -> None:
    with serving() as service:
        serve_scores(service, name="piece{}")
        with pytest.raises(EndpointError, match="names tokens instead of numbering them"):
            scoring(service, tmp_path).log_probabilities(ROWS[0][None], 5)
        serve_scores(service, spare=-1)
        with pytest.raises(EndpointError, match="gives 3 log-probabilities a token, 4 were asked for"):
            scoring(service, tmp_path).log_probabilities(ROWS[0][None], 4)
        service.acts = [status(400, "no logprobs")]
        with pytest.raises(EndpointError, match="does not score tokens: HTTP 400: no logprobs"):
            scoring(service, tmp_path).log_probabilities(ROWS[1][None], 5)
