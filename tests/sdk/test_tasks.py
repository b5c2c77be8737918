"""Prompts name their task, structured answers are read strictly and written in one form."""

import json

import pytest
from pydantic import ValidationError

from sdk.errors import AnswerError, UnknownTaskError
from sdk.tasks import (
    ACTIONS,
    TASKS,
    Intent,
    ScheduleMeeting,
    action_schema,
    as_answer,
    prompt,
    read_answer,
    text_of,
)

MEETING = '{"action":"schedule_meeting","with":"Anna","day":"Friday","time":"3pm"}'


@pytest.mark.parametrize("task", TASKS)
def test_a_prompt_is_one_instruction_line_and_the_text(task: str) -> None:
    asked = prompt(task, "two\nlines")
    assert asked.count("\n") == 2
    assert asked.endswith("\ntwo\nlines")
    assert text_of(task, asked) == "two\nlines"


def test_no_two_tasks_ask_alike() -> None:
    assert len({prompt(task, "") for task in TASKS}) == len(TASKS)


def test_a_prompt_of_another_task_is_refused() -> None:
    with pytest.raises(ValueError, match="no prompt of title"):
        text_of("title", prompt("summary", "text"))
    with pytest.raises(UnknownTaskError, match=r"'sing'; the tasks are action, "):
        prompt("sing", "text")


def test_an_answer_is_compact_json_in_the_order_of_the_fields() -> None:
    meeting = ScheduleMeeting.model_validate({"time": "3pm", "day": "Friday", "with": "Anna"})
    assert as_answer(meeting) == MEETING
    assert read_answer("action", MEETING) == meeting


def test_letters_of_all_languages_stay_as_they_are() -> None:
    assert as_answer(Intent(intent="Ask", slots={"who": "Zoë"})) == '{"intent":"Ask","slots":{"who":"Zoë"}}'


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("Sure! Here it is", "no JSON"),
        (MEETING[:-1], "no JSON"),
        ("[]", "no known action"),
        ('{"action":"fly"}', "no known action: fly"),
        ('{"action":["call"]}', "no known action"),
        ('{"action":"call"}', "to: Field required"),
        ('{"action":"call","to":"Ana","too":"x"}', "too: Extra inputs"),
        ('{"action":"call","to":""}', "to: String should have at least 1"),
        ('{"action":"call","to":7}', "to: Input should be a valid string"),
        ('{"action":"call","to":"Ana","kind":"smoke"}', "kind: Input should be 'video'"),
        ('{"action":"call","to":"Ana","to":"Ben"}', "a key stands twice"),
        ('{"action":"add_to_list","items":[]}', "items: List should have at least 1"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(answer: str, says: str) -> None:
    with pytest.raises(AnswerError, match=says) as refused:
        read_answer("action", answer)
    assert "\n" not in str(refused.value)


def test_free_text_has_no_structured_answer() -> None:
    with pytest.raises(UnknownTaskError, match="the tasks are action, intent"):
        read_answer("title", "Lunch")


def test_open_values_are_told_from_closed_ones() -> None:
    photo = read_answer("action", '{"action":"edit_photo","change":"warmer","amount":"a bit","photo":"this one"}')
    assert photo.copied() == ["a bit", "this one"]
    listed = read_answer("action", '{"action":"add_to_list","items":["milk","eggs"],"list":"food"}')
    assert listed.copied() == ["milk", "eggs", "food"]
    assert Intent(intent="Ask", slots={"a": "x", "b": ["y", "z"]}).copied() == ["x", "y", "z"]


def test_the_schema_for_guided_output_names_every_action_and_allows_no_null() -> None:
    schema = action_schema()
    assert [part["$ref"].split("/")[-1] for part in schema["anyOf"]] == list(schema["$defs"]) == list(ACTIONS)
    assert "null" not in json.dumps(schema)
    for name, shape in schema["$defs"].items():
        assert next(iter(shape["properties"])) == shape["required"][0] == "action"
        assert shape["properties"]["action"]["const"] == name
        assert shape["additionalProperties"] is False
    assert schema["$defs"]["schedule_meeting"]["required"] == ["action", "with"]


def test_an_action_cannot_be_changed_after_it_was_checked() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        read_answer("action", MEETING).day = "Monday"  # type: ignore[union-attr]
