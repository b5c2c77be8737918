"""Marked requests become the device's own prompts and answers; answers are scored slot by slot."""

import json
from pathlib import Path

import pytest

from sdk.build.evaluate.device_tasks import answered
from sdk.build.evaluate.intents import read_snips, request_of, snips
from sdk.errors import EvaluationError
from sdk.tasks import Intent, as_answer
from tests.bench.people import data_folder
from tests.tiny import tiny_model, tiny_tokenizer

PARTS = [
    {"text": "play "},
    {"text": "Like A  Hurricane", "entity": "album"},
    {"text": " by "},
    {"text": "Paul", "entity": "artist"},
    {"text": " and "},
    {"text": "Ann\n", "entity": "artist"},
]
WANTED = Intent(intent="PlayMusic", slots={"album": "Like A Hurricane", "artist": ["Paul", "Ann"]})
PLAY = request_of("PlayMusic-0", "PlayMusic", PARTS)


def scored(answer: str) -> dict[str, float]:
    found = answered([PLAY], [answer])
    names = ("valid", "named", "slot_f1", "exact")
    return {name: found.scores[name][0][0] / found.scores[name][1][0] for name in names}


def test_a_marked_request_becomes_a_text_and_an_answer() -> None:
    assert PLAY.wanted == ('{"intent":"PlayMusic","slots":{"album":"Like A Hurricane","artist":["Paul","Ann"]}}')


def test_the_wanted_answer_is_all_right() -> None:
    assert scored(PLAY.wanted) == {"valid": 1, "named": 1, "slot_f1": 1, "exact": 1}


def test_slots_count_one_by_one_and_letter_by_letter() -> None:
    half = Intent(intent="PlayMusic", slots={"album": "Like A Hurricane", "artist": ["Paul", "Anna"], "year": "1975"})
    # Two of four said and two of three wanted are right.
    assert scored(as_answer(half))["slot_f1"] == pytest.approx(2 * 2 / (4 + 3))
    assert scored(as_answer(half))["exact"] == 0
    doubled = Intent(intent="PlayMusic", slots={"album": ["Like A Hurricane"] * 2, "artist": ["Paul", "Ann"]})
    assert scored(as_answer(doubled))["slot_f1"] == pytest.approx(2 * 3 / (4 + 3))


def test_right_slots_of_another_intent_are_not_all_right() -> None:
    other = Intent(intent="RateBook", slots=WANTED.slots)
    assert scored(as_answer(other)) == {"valid": 1, "named": 0, "slot_f1": 1, "exact": 0}


@pytest.mark.parametrize("answer", ["", "Sure!", '{"intent":"PlayMusic"}', '{"intent":"PlayMusic","slots":{}', "[1]"])
def test_what_is_no_answer_is_wrong_in_everything(answer: str) -> None:
    assert scored(answer) == {"valid": 0, "named": 0, "slot_f1": 0, "exact": 0}


def test_the_model_is_asked_in_the_devices_words() -> None:
    assert PLAY.prompt == "Name the intent and slots of this request.\nplay Like A Hurricane by Paul and Ann"


def test_a_real_model_answers(tmp_path: Path) -> None:
    (tmp_path / "validate_PlayMusic.json").write_text(json.dumps({"PlayMusic": [{"data": PARTS}]}))
    found = snips(tiny_model(), tiny_tokenizer(), tmp_path)
    assert found["valid"].value == 0
    assert "quality" not in found


def test_what_is_no_snips_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="holds no validate_"):
        read_snips(tmp_path, each=None)
    (tmp_path / "validate_X.json").write_text('{"X": [{"text": "play"}]}', encoding="utf-8")
    with pytest.raises(EvaluationError, match="no readable SNIPS file"):
        read_snips(tmp_path, each=None)


def test_files_in_latin_1_are_read_too(tmp_path: Path) -> None:
    rows = {"PlayMusic": [{"data": [{"text": "Romántica", "entity": "album"}]}]}
    (tmp_path / "validate_PlayMusic.json").write_bytes(json.dumps(rows, ensure_ascii=False).encode("latin-1"))
    assert '"album":"Romántica"' in read_snips(tmp_path, each=None)[0].wanted


@pytest.mark.skipif(data_folder("snips") is None, reason="no benchmark data here")
def test_the_published_validation_split_is_read_whole() -> None:
    folder = data_folder("snips")
    assert folder is not None
    found = read_snips(folder, each=None)
    assert len(found) == 700
    assert len(read_snips(folder, each=4)) == 28
    assert all(answered([one], [one.wanted]).scores["copied"][0] == (1.0,) for one in found)
    assert len({one.group for one in found}) == 7
