"""A client's messages and tools in, turns that a small chat model was trained on out: system, user, assistant."""

import json
from collections.abc import Mapping
from typing import Any

from sdk.device.chat import Message
from sdk.device.server.answering import Ask

__all__ = ["conversation"]

CALLING = 'To call a tool, answer with {"name": ..., "arguments": {...}} and nothing else. Tools and their arguments:'


def conversation(ask: Ask) -> list[Message]:
    """The turns to be continued; tools and their results are told in words, since the model knows no role for them."""
    names = {call["id"]: call["name"] for turn in ask.messages for call in turn.get("calls", ())}
    turns: list[Message] = []
    for turn in ask.messages:
        match turn["role"]:
            case "tool":
                name = names.get(turn["call"], "the tool")
                turns.append({"role": "user", "content": f"Result of {name}: {turn['content']}"})
            case "assistant" if turn.get("calls"):
                said = [f'{{"name":"{call["name"]}","arguments":{call["arguments"]}}}' for call in turn["calls"]]
                turns.append({"role": "assistant", "content": "\n".join(filter(None, [turn["content"], *said]))})
            case role:
                turns.append({"role": role, "content": turn["content"]})
    if ask.tools:
        listed = [f"{tool.name}: {tool.description} {_compact(tool.parameters)}" for tool in ask.tools]
        told = "\n".join([CALLING, *listed])
        if turns[0]["role"] == "system":
            told = f"{turns.pop(0)['content']}\n\n{told}"
        turns.insert(0, {"role": "system", "content": told})
    return turns


def _compact(schema: Mapping[str, Any]) -> str:
    return json.dumps(dict(schema), separators=(",", ":"))
