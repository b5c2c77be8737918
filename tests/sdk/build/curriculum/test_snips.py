"""SNIPS becomes intents with slots; only its training files are opened."""

import json
from pathlib import Path
from typing import Any

import pytest

from sdk.build.curriculum import assembly
from sdk.build.curriculum.assembly import curriculum
from sdk.build.curriculum.snips import snips
from sdk.build.curriculum.split import Side
from sdk.errors import CurriculumError
from sdk.tasks import read_answer


def row(*parts: tuple[str, str | None]) -> dict[str, Any]:
    return {"data": [{"text": text, **({"entity": slot} if slot else {})} for text, slot in parts]}


def rows(count: int) -> list[dict[str, Any]]:
    words = [f"word{number}" for number in range(count)]
    return [
        row((f"please {word} play  ", None), (f" Song {word}", "track"), (" by ", None), ("Ana", "artist"))
        for word in words
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train_PlayMusic_full.json").write_bytes(
        json.dumps({"PlayMusic": [row(("play ", None), ("Café", "track")), *rows(80)]}, ensure_ascii=False).encode(
            "latin-1"
        )
    )
    (tmp_path / "validate_PlayMusic.json").write_text("this file must never be opened", encoding="utf-8")
    return tmp_path


def test_requests_become_intents_with_slots_in_their_order(folder: Path) -> None:
    made = {one.prompt.split("\n")[1]: one.answer for side in Side for one in snips(folder, side)}
    assert made["play Café"] == '{"intent":"PlayMusic","slots":{"track":"Café"}}'
    assert made["please word3 play Song word3 by Ana"].endswith('"slots":{"track":"Song word3","artist":"Ana"}}')
    assert len(made) == 81


def test_wordings_stand_on_one_side_and_both_sides_have_some(folder: Path) -> None:
    train, held_out = snips(folder, Side.TRAIN), snips(folder, Side.HELD_OUT)
    assert len(train) > len(held_out) > 0
    assert {one.template for one in train}.isdisjoint(one.template for one in held_out)


def test_a_slot_that_occurs_twice_keeps_both_values(tmp_path: Path) -> None:
    twice = row(("songs", "type"), (" and ", None), ("albums", "type"))
    (tmp_path / "train_Find_full.json").write_text(json.dumps({"Find": [twice, twice]}), encoding="utf-8")
    made = [one for side in Side for one in snips(tmp_path, side)]
    assert len(made) == 1
    assert read_answer("intent", made[0].answer).copied() == ["songs", "albums"]


def test_too_few_requests_are_refused_with_their_number(folder: Path) -> None:
    with pytest.raises(CurriculumError, match=r"intent has \d\d different prompts but 500 were asked for"):
        curriculum(count=500, held_out=0, weights={"intent": 1}, snips_folder=folder)


def test_intent_joins_the_default_shares_where_there_is_data(folder: Path) -> None:
    train = curriculum(count=100, held_out=0, snips_folder=folder).train
    assert sum(one.task == "intent" for one in train) == round(100 * assembly.DEFAULT_WEIGHTS["intent"])


@pytest.mark.parametrize("content", ["{", "[]", '{"A": 3}', '{"A": [{"data": [{}]}]}', '{"A": [{}]}'])
def test_a_damaged_file_is_one_clear_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "train_A_full.json").write_text(content, encoding="utf-8")
    with pytest.raises(CurriculumError, match=r"train_A_full.json is no SNIPS file"):
        snips(tmp_path, Side.TRAIN)


def test_a_folder_without_the_files_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(CurriculumError, match="no SNIPS training files"):
        snips(tmp_path, Side.TRAIN)
