"""A device task and a text in, the model's prompt out; its answer in, the checked action out.

Rules: a prompt is one instruction line that names the task, a line break and the person's text, nothing else; it is the
whole user turn. A structured answer is one line of compact JSON: keys in the order of the fields below, absent fields
left out, every open value copied from the text as the person wrote it. What build trains and what devices ask are the
same bytes, because both come from here.
"""

import json
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sdk.errors import AnswerError, UnknownTaskError

__all__ = [
    "ACTIONS",
    "INSTRUCTIONS",
    "STRUCTURED",
    "TASKS",
    "Action",
    "Intent",
    "action_schema",
    "as_answer",
    "fits",
    "prompt",
    "read_answer",
    "text_of",
]

INSTRUCTIONS: Mapping[str, str] = MappingProxyType(
    {
        "action": "Turn this request into an action.",
        "intent": "Name the intent and slots of this request.",
        "summary": "Summarize this in one sentence.",
        "shorter": "Make this shorter.",
        "politer": "Make this more polite.",
        "formal": "Make this more formal.",
        "reply": "Write a short reply to this message.",
        "title": "Give this a short title.",
        "commit": "Write a commit message for this change.",
        "proofread": "Correct the mistakes in this.",
    }
)
"""Task to the one line that names it; these bytes are trained, so a change here asks for a new model."""
TASKS = tuple(INSTRUCTIONS)
STRUCTURED = ("action", "intent")
"""Tasks whose answer is JSON."""

Words = Annotated[str, Field(min_length=1, max_length=300)]
"""An open value: copied from the request."""
Change = Literal[
    "warmer", "cooler", "brighter", "darker", "sharper", "softer", "more contrast", "less contrast", "more colorful",
    "less colorful", "black and white", "sepia", "cropped", "straightened", "rotated", "mirrored",
]  # fmt: skip
Setting = Literal[
    "volume", "brightness", "wifi", "bluetooth", "airplane mode", "dark mode", "do not disturb", "flashlight", "hotspot"
]


class Action(BaseModel):
    """One thing that an app can do; fields without a default must be in the request."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True)

    def copied(self) -> list[str]:
        """The open values, in order: each stands in the request, where "on" may begin a sentence as "On"."""
        fields = type(self).model_fields
        values = {name: getattr(self, name) for name, field in fields.items() if "Literal" not in str(field.annotation)}
        return [part for value in values.values() if value for part in ([value] if isinstance(value, str) else value)]


class ScheduleMeeting(Action):
    """Meet somebody."""

    action: Literal["schedule_meeting"] = "schedule_meeting"
    with_: Words = Field(alias="with")
    day: Words | None = None
    time: Words | None = None
    place: Words | None = None
    about: Words | None = None


class CreateEvent(Action):
    """Put something into the calendar."""

    action: Literal["create_event"] = "create_event"
    title: Words
    day: Words | None = None
    time: Words | None = None
    place: Words | None = None


class SetReminder(Action):
    """Be reminded of something."""

    action: Literal["set_reminder"] = "set_reminder"
    about: Words
    day: Words | None = None
    time: Words | None = None


class SetTimer(Action):
    """Count down."""

    action: Literal["set_timer"] = "set_timer"
    duration: Words
    label: Words | None = None


class SetAlarm(Action):
    """Ring at a time."""

    action: Literal["set_alarm"] = "set_alarm"
    time: Words
    day: Words | None = None


class EditPhoto(Action):
    """Change how a photo looks."""

    action: Literal["edit_photo"] = "edit_photo"
    change: Change
    amount: Words | None = None
    photo: Words | None = None


class FindPhotos(Action):
    """Look for photos."""

    action: Literal["find_photos"] = "find_photos"
    of: Words
    place: Words | None = None
    when: Words | None = None


class PlayMusic(Action):
    """Play something."""

    action: Literal["play_music"] = "play_music"
    title: Words | None = None
    artist: Words | None = None
    genre: Words | None = None
    playlist: Words | None = None


class SendMessage(Action):
    """Send a short message."""

    action: Literal["send_message"] = "send_message"
    to: Words
    text: Words


class SendEmail(Action):
    """Begin an e-mail."""

    action: Literal["send_email"] = "send_email"
    to: Words
    about: Words | None = None


class Call(Action):
    """Call somebody."""

    action: Literal["call"] = "call"
    to: Words
    kind: Literal["video"] | None = None


class Navigate(Action):
    """Show the way."""

    action: Literal["navigate"] = "navigate"
    to: Words
    by: Literal["car", "foot", "bike", "bus", "train"] | None = None


class FindPlace(Action):
    """Look for a place of some kind."""

    action: Literal["find_place"] = "find_place"
    kind: Words
    near: Words | None = None


class AddToList(Action):
    """Put items on a list."""

    action: Literal["add_to_list"] = "add_to_list"
    items: list[Words] = Field(min_length=1, max_length=8)
    list_: Words | None = Field(default=None, alias="list")


class TakeNote(Action):
    """Keep a note."""

    action: Literal["take_note"] = "take_note"
    text: Words


class GetWeather(Action):
    """Say the weather."""

    action: Literal["get_weather"] = "get_weather"
    place: Words | None = None
    day: Words | None = None


class OpenApp(Action):
    """Open an app."""

    action: Literal["open_app"] = "open_app"
    app: Words


class ChangeSetting(Action):
    """Change a setting of the device."""

    action: Literal["change_setting"] = "change_setting"
    setting: Setting
    to: Words | None = None
    """"on", "off", "up", "down", or a level as the person wrote it."""


class ControlHome(Action):
    """Switch or set something at home."""

    action: Literal["control_home"] = "control_home"
    device: Words
    room: Words | None = None
    to: Words


class Translate(Action):
    """Say something in another language."""

    action: Literal["translate"] = "translate"
    text: Words
    language: Words


class SearchWeb(Action):
    """Look something up."""

    action: Literal["search_web"] = "search_web"
    query: Words


class SendMoney(Action):
    """Pay somebody."""

    action: Literal["send_money"] = "send_money"
    amount: Words
    to: Words
    for_: Words | None = Field(default=None, alias="for")


class Nothing(Action):
    """The text asks for none of the others."""

    action: Literal["none"] = "none"


class Intent(BaseModel):
    """What a request wants and the words that say so, slots in the order of the request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    intent: Words
    slots: dict[str, Words | list[Words]]
    """Name to words of the request; a list where one slot occurs twice."""

    def copied(self) -> list[str]:
        """The slots' values, in order: each stands in the request."""
        return [part for value in self.slots.values() for part in ([value] if isinstance(value, str) else value)]


ACTIONS: Mapping[str, type[Action]] = MappingProxyType(
    {get_args(kind.model_fields["action"].annotation)[0]: kind for kind in Action.__subclasses__()}
)
"""Name of each action to its fields."""


def prompt(task: str, text: str) -> str:
    """The user turn that asks for `task` on `text`.

    Raises:
        UnknownTaskError: There is no such task.
    """
    return f"{_instruction(task)}\n{text}"


def text_of(task: str, asked: str) -> str:
    """The person's text in a prompt of `task`.

    Raises:
        UnknownTaskError: There is no such task.
        ValueError: It is no prompt of this task.
    """
    start = f"{_instruction(task)}\n"
    if not asked.startswith(start):
        raise ValueError(f"no prompt of {task}: it must begin with {start.strip()!r} and a line break")
    return asked.removeprefix(start)


def as_answer(structured: Action | Intent) -> str:
    """The answer's bytes: compact JSON, fixed order, absent fields left out."""
    return json.dumps(
        structured.model_dump(by_alias=True, exclude_none=True), ensure_ascii=False, separators=(",", ":")
    )


def read_answer(task: str, answer: str) -> Action | Intent:
    """Read a structured answer.

    Args:
        task: One of STRUCTURED.
        answer: What the model wrote.

    Raises:
        AnswerError: It is no JSON of this task's schema; nothing was done.
        UnknownTaskError: The task has no structured answer.
    """
    if task not in STRUCTURED:
        raise UnknownTaskError(task, known=STRUCTURED)
    try:
        fields = json.loads(answer, object_pairs_hook=_once)
        if task == "intent":
            return Intent.model_validate(fields, strict=True)
        return _action(fields).model_validate(fields, strict=True)
    except ValidationError as wrong:
        first = wrong.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or task
        raise AnswerError(f"answer does not fit: {place}: {first['msg']}") from wrong
    except (ValueError, RecursionError) as wrong:
        raise AnswerError(f"answer is no JSON: {wrong}") from wrong


@cache
def action_schema() -> dict[str, Any]:
    """JSON Schema of any action, for guided output: the action's name comes first, an absent field is left out."""
    shapes = {name: _shape(kind) for name, kind in ACTIONS.items()}
    return {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in shapes], "$defs": shapes}


def _shape(kind: type[Action]) -> dict[str, Any]:
    """A model's schema without null for absent fields, which answers leave out, and with "action" required."""
    shape = kind.model_json_schema(by_alias=True)
    for name, field in shape["properties"].items():
        field.pop("default", None)
        for part in field.pop("anyOf", ()):
            if part.get("type") != "null":
                field.update(part)
        if name == "action":
            shape["required"] = ["action", *shape.get("required", ())]
    return shape


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's fields; a small model's typical slip, the same key again, is not passed over."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key stands twice")
    return fields


def _action(fields: Any) -> type[Action]:
    name = fields.get("action") if isinstance(fields, dict) else None
    if not isinstance(name, str) or name not in ACTIONS:
        raise AnswerError(f"answer names no known action: {str(name)[:40]}")
    return ACTIONS[name]


def _instruction(task: str) -> str:
    if task not in INSTRUCTIONS:
        raise UnknownTaskError(task, known=TASKS)
    return INSTRUCTIONS[task]


def fits(task: str, answer: str) -> bool:
    """Whether a structured answer is one line that `read_answer` takes."""
    try:
        read_answer(task, answer.strip())
    except AnswerError:
        return False
    return True
