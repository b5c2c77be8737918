import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from personalize.errors import SourceError
from personalize.experience import Consent, Signal
from personalize.sources.jsonl import from_jsonl


def written(folder: Path, *lines: object) -> Path:
    path = folder / "replies.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(SourceError) as caught:
        from_jsonl(path)
    return str(caught.value)


def test_lines_become_records_in_time_order_and_other_keys_are_ignored(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"answer": "second", "prompt": "say", "at": "2024-05-01T14:00:00+02:00", "mood": ["good"]},
        "",
        {"text": "first", "at": 1_700_000_000.5},
        {"answer": "third", "at": "2024-05-01T13:00:00Z"},
        {"answer": "fourth", "at": "2024-05-02"},
    )
    records = from_jsonl(path)
    assert [record.answer for record in records] == ["first", "second", "third", "fourth"]
    assert records[1].at == datetime(2024, 5, 1, 12, tzinfo=UTC)
    assert records[1].prompt == "say"
    assert records[3].at == datetime(2024, 5, 2, tzinfo=UTC)


def test_signal_consent_and_contact_are_taken_over(tmp_path: Path) -> None:
    line = {"answer": "no", "signal": "rejected", "consent": "keep", "contact": "ana@example.org"}
    (record,) = from_jsonl(written(tmp_path, line))
    assert (record.signal, record.consent, record.contact) == (Signal.REJECTED, Consent.KEEP, "ana@example.org")


def test_without_times_the_order_of_the_lines_is_the_order_in_time(tmp_path: Path) -> None:
    records = from_jsonl(written(tmp_path, *({"answer": f"text {index}"} for index in range(30))))
    assert [record.answer for record in records] == [f"text {index}" for index in range(30)]
    assert all(later.at - earlier.at == timedelta(seconds=1) for earlier, later in pairwise(records))


def test_a_missing_time_is_that_of_the_line_before(tmp_path: Path) -> None:
    lines = [{"answer": "a"}, {"answer": "b", "at": 500}, {"answer": "c"}, {"answer": "d", "at": 100}, {"answer": "e"}]
    found = {
        record.answer: (record.at - datetime(1970, 1, 1, tzinfo=UTC)).seconds
        for record in from_jsonl(written(tmp_path, *lines))
    }
    assert found == {"a": 500, "b": 500, "c": 500, "d": 100, "e": 100}


def test_the_same_answer_to_another_prompt_is_another_record(tmp_path: Path) -> None:
    lines = [{"prompt": "a?", "answer": "yes"}, {"prompt": "b?", "answer": "yes"}, {"prompt": "a?", "answer": "yes"}]
    assert [record.prompt for record in from_jsonl(written(tmp_path, *lines))] == ["a?", "b?"]


def test_hostile_text_is_made_plain(tmp_path: Path) -> None:
    line = r'{"prompt": "a\u001b[2J\ud800\u0000b", "answer": "c\u202ed\r\ne"}'
    (record,) = from_jsonl(written(tmp_path, line))
    assert (record.prompt, record.answer) == ("a[2Jb", "cd\ne")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"answer": "text"', "broken JSON (Expecting ',' delimiter)"),
        ("[" * 100_000, "broken JSON (a number or a nesting too large)"),
        ('{"answer": ' + "9" * 5_000 + "}", "broken JSON (a number or a nesting too large)"),
        ("[]", "list instead of an object"),
        ("null", "NoneType instead of an object"),
        ('{"question": "text"}', "no text under 'answer' or 'text'"),
        ('{"answer": null}', "no text under 'answer' or 'text'"),
        ('{"answer": ["text"]}', "no text under 'answer' or 'text'"),
        ('{"answer": "text", "prompt": 3}', "prompt and contact must be text"),
        ('{"answer": "text", "contact": {}}', "prompt and contact must be text"),
        ('{"answer": "text", "at": "yesterday"}', "Invalid isoformat string"),
        ('{"answer": "text", "at": true}', "'at' must be"),
        ('{"answer": "text", "at": []}', "'at' must be"),
        ('{"answer": "text", "at": NaN}', "cannot convert float NaN"),
        ('{"answer": "text", "at": Infinity}', "cannot convert float infinity"),
        ('{"answer": "text", "at": 1e300}', "mend or remove the line"),
        ('{"answer": "text", "at": "0001-01-01T00:00:00+05:00"}', "outside the calendar"),
        ('{"answer": "text", "signal": "loved"}', "'loved' is not a valid Signal"),
        ('{"answer": "text", "consent": []}', "[] is not a valid Consent"),
    ],
)
def test_a_broken_line_is_named_by_its_number_and_nothing_is_taken(tmp_path: Path, line: str, reason: str) -> None:
    message = refusal(written(tmp_path, {"answer": "fine"}, "", line, {"answer": "fine too"}))
    assert "replies.jsonl, line 3: " in message
    assert reason in message
    assert message.endswith("; mend or remove the line") or "; add it or remove the line" in message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(["answer", "text", "prompt", "at", "signal", "consent", "contact", "other"])


@given(lines=st.lists((st.dictionaries(KEYS, JSON) | JSON).map(json.dumps) | st.text(st.characters(codec="utf-8"))))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_lines_give_records_or_one_clear_line(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "any.jsonl").write_bytes("\n".join(lines).encode())
    try:
        outcome: object = from_jsonl(tmp_path / "any.jsonl")
    except SourceError as refused:
        outcome = str(refused)
    assert ";" in outcome if isinstance(outcome, str) else outcome
