"""Templates of requests and word lists in, requests with their checked actions out."""

from collections.abc import Mapping
from functools import cache
from random import Random
from typing import Any, NamedTuple

from sdk.build.curriculum.examples import Example, template_id
from sdk.build.curriculum.grammar import fill, pick
from sdk.build.curriculum.home import HOME, PHOTOS, SETTINGS
from sdk.build.curriculum.split import Side, of_side
from sdk.build.curriculum.wording import entries, sections
from sdk.build.curriculum.words import WORDS
from sdk.tasks import ACTIONS, as_answer, prompt

__all__ = ["action"]

NONE_SHARE = 0.06  # Of all requests: text that asks for no action, so that the model can say so.
OPENINGS = ("<ask>", "<want>", "<end>")
LIST_SIZES = (1, 1, 2, 2, 3, 4)
QUESTIONS = (
    "any ", "are ", "can ", "could ", "did ", "do ", "does ", "how", "is ", "should ", "what", "where", "which", "who",
    "why", "will ", "would ",
)  # fmt: skip


class Request(NamedTuple):
    """One way to ask for an action."""

    template: str
    fixed: Mapping[str, str]
    """Fields that the wording itself decides."""


def action(side: Side, rng: Random) -> Example:
    """Make one request with its action, all actions but "none" equally often."""
    names = [name for name in ACTIONS if name != "none"]
    name = "none" if rng.random() < NONE_SHARE else rng.choice(names)
    request = rng.choice(_requests(name, side))
    text, fields = _typed(*_filled(name, request, side, rng), rng)
    made = ACTIONS[name].model_validate({"action": name, **fields, **request.fixed}, strict=True)
    return Example(
        task="action",
        prompt=prompt("action", text),
        answer=as_answer(made),
        template=template_id(name, request.template),
        schema=name,
    )


@cache
def _requests(name: str, side: Side) -> list[Request]:
    built = {"edit_photo": PHOTOS, "change_setting": SETTINGS, "control_home": HOME}
    every = [Request(*pair) for pair in built.get(name, ())]
    if name not in built:
        every = [Request(wording, _fixed(fields)) for wording, fields in entries("requests", name)]
    kept = of_side(tuple(request.template for request in every), side)
    return [request for request in every if request.template in kept]


def _fixed(fields: str) -> dict[str, str]:
    """Read "kind=video"."""
    return dict(field.split("=") for field in fields.split(", ")) if fields else {}


def _filled(name: str, request: Request, side: Side, rng: Random) -> tuple[str, dict[str, Any]]:
    """The request's text and the action's fields."""
    template, fields = request.template, dict[str, Any]()
    for mark in OPENINGS:
        template = template.replace(mark, sections("requests")[mark][0])
    if "{items}" in template:
        fields["items"] = _items(side, rng)
        template = template.replace("{items}", _listed(fields["items"], rng))
    filled = fill(template, WORDS, side if name != "none" else None, rng)
    known = {field.alias or name for name, field in ACTIONS[name].model_fields.items()}
    fields |= {slot: value for slot, value in filled.slots.items() if slot in known}
    return " ".join(filled.text.split()), fields


def _items(side: Side, rng: Random) -> list[str]:
    items: list[str] = []
    for _ in range(rng.choice(LIST_SIZES)):
        items.append(pick("item", WORDS, side, rng, frozenset(items))[1])
    return items


def _listed(items: list[str], rng: Random) -> str:
    """The items as people say them."""
    *first, last = items
    if not first:
        return last
    return rng.choice(
        (
            ", ".join(first) + f" and {last}",
            ", ".join(first) + f", and {last}" if first[1:] else f"{first[0]} and {last}",
            ", ".join(items),
        )
    )


def _typed(text: str, fields: dict[str, Any], rng: Random) -> tuple[str, dict[str, Any]]:
    """The request as somebody types it: with or without capitals and a mark at its end; open values follow."""
    question = text.lower().startswith(QUESTIONS)
    if not text.endswith(("?", ".", "!")):
        text += rng.choice(("?", "?", "")) if question else rng.choice((".", "", ""))
    manner = rng.random()
    if manner < 0.3:
        text = text.lower()
    elif manner < 0.8:
        text = text[0].upper() + text[1:]
    return text, {name: _as_typed(value, text) for name, value in fields.items()}


def _as_typed(value: Any, text: str) -> Any:
    if isinstance(value, list):
        return [_as_typed(part, text) for part in value]
    at = text.lower().find(value.lower())
    return value if value in text or at < 0 else text[at : at + len(value)]
