"""Only prompts whose instructions can all be checked are asked; the others are counted and never wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from sdk.build.evaluate.instructions import followed, ifeval_leg, read_ifeval
from sdk.build.evaluate.verifiers import follows
from sdk.errors import EvaluationError
from tests.bench.people import data_folder
from tests.tiny import tiny_model, tiny_tokenizer

ROWS = [
    {"key": 1, "prompt": "a", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
    {
        "key": 2,
        "prompt": "b",
        "instruction_id_list": ["startend:quotation", "punctuation:no_comma"],
        "kwargs": [{}, {}],
    },
    {
        "key": 3,
        "prompt": "c",
        "instruction_id_list": ["punctuation:no_comma", "language:response_language"],
        "kwargs": [{}, {"language": "de"}],
    },
]


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    file = folder / "input_data.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


def test_prompts_that_cannot_be_checked_are_counted_and_not_asked(tmp_path: Path) -> None:
    prompts, left_out = read_ifeval(written(tmp_path, ROWS), most=None)
    assert [prompt.name for prompt in prompts] == ["ifeval-1", "ifeval-2"]
    assert left_out == {"language:response_language": 1, "prompts": 1}


def test_a_prompt_is_followed_when_all_of_its_instructions_are(tmp_path: Path) -> None:
    prompts, _ = read_ifeval(written(tmp_path, ROWS), most=None)
    found = followed(prompts, ["a b", "a b"])
    assert found.scores == {"prompts": ((1, 0), (1, 1)), "instructions": ((1, 1), (1, 2))}


def test_a_real_model_answers(tmp_path: Path) -> None:
    prompts, _ = read_ifeval(written(tmp_path, ROWS), most=1)
    assert len(ifeval_leg(tiny_model(), tiny_tokenizer(), prompts, max_new_tokens=3).ids) == 1


def test_what_is_no_ifeval_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no readable IFEval"):
        read_ifeval(written(tmp_path, [{"prompt": "a"}]), most=None)
    with pytest.raises(EvaluationError, match="no prompt that can be scored"):
        read_ifeval(written(tmp_path, ROWS[2:]), most=None)


@pytest.mark.skipif(data_folder("ifeval") is None, reason="no benchmark data here")
def test_the_published_prompts_are_read_and_every_check_takes_their_arguments() -> None:
    folder = data_folder("ifeval")
    assert folder is not None
    prompts, left_out = read_ifeval(folder / "input_data.jsonl", most=None)
    assert len(prompts) + left_out["prompts"] == 541
    answers = ["Some words, then more.", "x"]
    verdicts = [
        follows(kind, wanted, answer)
        for prompt in prompts
        for kind, wanted in prompt.instructions
        for answer in answers
    ]
    assert None not in verdicts
    assert True in verdicts
    assert False in verdicts
