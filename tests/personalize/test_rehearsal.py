"""Public texts in, rehearsal out: an order that knows nothing of private records."""

from typing import Any

import pytest

from personalize.errors import TrainingError
from personalize.forward import encode
from personalize.rehearsal import anchors
from tests.tiny import SENTENCES, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
ROWS: list[dict[str, Any]] = [
    {"format": "rehearsal/1", "id": f"r{row}", "prompt": "say", "answer": f"{SENTENCES[row % 4]} {row}"}
    for row in range(12)
]


def test_texts_are_encoded_as_records_are() -> None:
    made = anchors(ROWS, TOKENIZER, count=12)
    wanted = {encode(TOKENIZER, row["prompt"], row["answer"]) for row in ROWS}
    assert set(made) == wanted
    assert len(made) == 12


def test_the_draw_depends_on_the_seed_only() -> None:
    assert anchors(ROWS, TOKENIZER, count=5, seed=3) == anchors(iter(ROWS), TOKENIZER, count=5, seed=3)
    assert anchors(ROWS, TOKENIZER, count=5, seed=3) != anchors(ROWS, TOKENIZER, count=5, seed=4)


@pytest.mark.parametrize(("count", "made"), [(0, 0), (5, 5), (12, 12), (100, 12)])
def test_no_more_are_drawn_than_asked_for_or_there_are(count: int, made: int) -> None:
    drawn = anchors(ROWS, TOKENIZER, count=count)
    assert len(drawn) == len(set(drawn)) == made


def test_the_rows_are_left_as_they_were() -> None:
    rows = list(ROWS)
    anchors(rows, TOKENIZER, count=3, seed=1)
    assert rows == ROWS


def test_a_base_without_rehearsal_texts_has_nothing_to_rehearse() -> None:
    assert anchors([], TOKENIZER, count=5) == []


@pytest.mark.parametrize("change", [{"format": "rehearsal/2"}, {"format": None}])
def test_a_text_of_another_format_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(
        TrainingError, match=r"rehearsal text r0 has format .*, not rehearsal/1, or lacks a field; update limbeck"
    ):
        anchors([{**ROWS[0], **change}, *ROWS[1:]], TOKENIZER, count=1)


@pytest.mark.parametrize("field", ["prompt", "answer", "format"])
def test_a_text_without_a_field_is_refused(field: str) -> None:
    lacking = {name: value for name, value in ROWS[0].items() if name != field}
    with pytest.raises(TrainingError) as refused:
        anchors([lacking], TOKENIZER, count=1)
    assert "\n" not in str(refused.value)
