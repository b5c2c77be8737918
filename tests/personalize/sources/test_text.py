import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from personalize.errors import SourceError
from personalize.sources.records import MAX_ANSWER_CHARS
from personalize.sources.text import from_text


def test_paragraphs_become_records_in_their_order_ending_when_the_file_was_written(tmp_path: Path) -> None:
    path = tmp_path / "diary.txt"
    path.write_bytes(b"First day.\r\nStill first.\r\n\r\nSecond day.\n \t \n\n* * *\n\nThird day.\n")
    os.utime(path, (1_700_000_000, 1_700_000_000))
    records = from_text(path)
    assert [record.answer for record in records] == ["First day.\nStill first.", "Second day.", "Third day."]
    assert records[-1].at == datetime.fromtimestamp(1_700_000_000, UTC)
    assert [record.at for record in records] == sorted({record.at for record in records})
    assert from_text(path) == records


def test_repeated_paragraphs_are_taken_once(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("Amen.\n\nOne.\n\nAmen.\n\nAmen.\n")
    assert [record.answer for record in from_text(tmp_path / "diary.txt")] == ["Amen.", "One."]


def test_a_long_paragraph_is_cut_between_words_and_nothing_of_it_is_lost(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(3_000)]
    (tmp_path / "diary.txt").write_text(" ".join(words))
    records = from_text(tmp_path / "diary.txt")
    assert len(records) > 1
    assert " ".join(record.answer for record in records).split() == words


def test_a_long_paragraph_without_a_space_is_cut_too(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("".join(chr(0x4E00 + number) for number in range(MAX_ANSWER_CHARS * 2 + 5)))
    lengths = [len(record.answer) for record in from_text(tmp_path / "diary.txt")]
    assert lengths == [MAX_ANSWER_CHARS, MAX_ANSWER_CHARS, 5]


def test_text_of_marks_only_is_refused(tmp_path: Path) -> None:
    (tmp_path / "marks.txt").write_text("---\n\n***\n")
    with pytest.raises(SourceError, match="has no usable text: 0 records found"):
        from_text(tmp_path / "marks.txt")


@given(content=st.binary() | st.text(st.characters(codec="utf-8")).map(str.encode))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_gives_records_or_one_clear_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "any.txt").write_bytes(content)
    try:
        outcome: object = from_text(tmp_path / "any.txt")
    except SourceError as refused:
        outcome = str(refused)
    assert ";" in outcome if isinstance(outcome, str) else outcome
