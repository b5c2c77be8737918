"""Teacher-written answers are kept when they are fit, and refused for the reason that they deserve."""

import json
from pathlib import Path
from typing import Any

import pytest

from sdk.build.curriculum import NEAR, REASONS, Example, filtered, read_candidates, written
from sdk.build.curriculum.near import Near, shingles, similarity
from sdk.errors import AnswerError, CurriculumError
from sdk.tasks import prompt

TEXT = "The train from Oslo to Bergen is late because of snow, so Ana will not be here before nine tonight."
MUSEUM = "The museum in Lima opens its new wing on Sunday, and everybody may come in for free until noon"
FIT = {"task": "summary", "prompt": prompt("summary", TEXT), "answer": "Ana comes late because her train is delayed."}
CALL = {"task": "action", "prompt": prompt("action", "call Ana Lee now"), "answer": '{"action":"call","to":"Ana Lee"}'}

# Reason → a candidate that deserves it and would otherwise pass.
FAULTY: dict[str, Any] = {
    "malformed": {**FIT, "prompt": prompt("title", TEXT)},
    "cut off": {**FIT, "finish": "length"},
    "length": {**FIT, "answer": "Late. " * 40},
    "refusal": {**FIT, "answer": "As an AI, I am unable to help with that."},
    "schema": {**CALL, "answer": '{"action":"call","whom":"Ana"}'},
    "not copied": {**CALL, "answer": '{"action":"call","to":"Anna Li"}'},
    "known": {**CALL, "prompt": prompt("action", "phone Ana Lee")},
    "echo": {**FIT, "task": "politer", "prompt": prompt("politer", TEXT), "answer": TEXT},
    "held out": {**FIT, "prompt": prompt("summary", f"{MUSEUM}!"), "answer": "The museum is free on Sunday."},
    "near duplicate": {**FIT, "answer": "Ana comes late because her train is delayed!"},
}
KNOWN = [Example(task="action", prompt=prompt("action", "phone Ana Lee"), answer=CALL["answer"], template="call/1")]
HELD_OUT = [Example(task="summary", prompt=prompt("summary", f"{MUSEUM}."), answer="x", template="museum/1")]


def test_a_fit_answer_is_kept_with_its_teacher() -> None:
    found = filtered([{**FIT, "teacher": "SmolLM2", "teacher_licence": "Apache-2.0"}, CALL])
    assert [one.answer for one in found.kept] == [FIT["answer"], CALL["answer"]]
    told = [(one.teacher, one.teacher_licence) for one in found.kept]
    assert told == [("SmolLM2", "Apache-2.0"), ("unknown", "unknown")]
    assert [one.schema for one in found.kept] == [None, "call"]
    assert sum(found.refused.values()) == 0


def test_a_structured_answer_is_brought_into_the_fixed_form() -> None:
    loose = {**CALL, "answer": ' { "to": "Ana Lee",\n"action": "call" } '}
    assert filtered([loose]).refused["length"] == 1  # Two lines are no answer of this task.
    assert filtered([{**loose, "answer": loose["answer"].replace("\n", " ")}]).kept[0].answer == CALL["answer"]


@pytest.mark.parametrize("reason", REASONS)
def test_each_fault_is_refused_for_its_own_reason(reason: str) -> None:
    found = filtered([FIT, FAULTY[reason]], known=KNOWN, held_out=HELD_OUT)
    assert {name for name, number in found.refused.items() if number} == {reason}
    assert len(found.kept) == 1


@pytest.mark.parametrize(
    ("reason", "part", "blind"),
    [
        ("length", "_fits", lambda *_: True),
        ("schema", "_readable", lambda *_: True),
        ("not copied", "_copied", lambda *_: True),
        ("echo", "_echoes", lambda *_: False),
    ],
)
def test_a_blinded_filter_is_caught(monkeypatch: pytest.MonkeyPatch, reason: str, part: str, blind: Any) -> None:
    """The mutants: with one check gone, what it is there for is not refused for its reason any more."""
    monkeypatch.setattr(written, part, blind)
    if reason == "schema":
        with pytest.raises(AnswerError):  # The next check would read it.
            filtered([FAULTY[reason]])
    else:
        assert filtered([FAULTY[reason]], known=KNOWN).refused[reason] == 0


@pytest.mark.parametrize("reason", ["held out", "near duplicate"])
def test_without_near_duplicates_the_copy_passes(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    monkeypatch.setattr(Near, "holds", lambda *_: False)
    assert len(filtered([FIT, FAULTY[reason]], known=KNOWN, held_out=HELD_OUT).kept) == 2


@pytest.mark.parametrize(
    "junk", [None, 3, "text", [], {}, {"task": "summary"}, {**FIT, "answer": 4}, {**FIT, "task": "x"}]
)
def test_junk_is_counted_and_does_not_stop_the_rest(junk: Any) -> None:
    found = filtered([junk, FIT])
    assert (len(found.kept), found.refused["malformed"]) == (1, 1)


def test_a_refusal_inside_the_text_itself_may_be_repeated() -> None:
    text = "Tell them that I can't help with the move on Friday because my back still hurts."
    asked = {
        "task": "politer",
        "prompt": prompt("politer", text),
        "answer": "I'm sorry that I can't help with the move.",
    }
    assert len(filtered([asked]).kept) == 1


def test_broken_lines_of_a_file_are_malformed_and_a_missing_file_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text(json.dumps(FIT) + "\n\n{broken\n" + "[" * 100_000 + "\n", encoding="utf-8")
    found = filtered(read_candidates(file))
    assert (len(found.kept), found.refused["malformed"]) == (1, 2)
    with pytest.raises(CurriculumError, match="nowhere cannot be read as JSON lines"):
        list(read_candidates(tmp_path / "nowhere"))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(CurriculumError, match="cannot be read as JSON lines"):
        list(read_candidates(file))


def test_what_is_near_is_found_and_what_is_not_is_not() -> None:
    base = [f"{TEXT} This is letter {number} of many, and its code is {number * 7919}." for number in range(60)]
    texts = Near(base)
    assert all(texts.holds(text.upper()) for text in base)
    other = "Buy milk, eggs and bread on the way home, and don't forget the stamps for the letters."
    assert not texts.holds(other)
    assert not Near().holds(other)
    assert similarity(shingles(base[0]), shingles(base[1])) >= NEAR > similarity(shingles(base[0]), shingles(other))


def test_jaccard_of_two_sets_is_shared_over_all() -> None:
    assert similarity(shingles("abcde"), shingles("abcdX")) == pytest.approx(1 / 3)
    assert shingles("ab") == {"ab"}
