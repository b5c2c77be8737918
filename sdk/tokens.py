"""A tokenizer and words in, token ids out: plain text as text, a conversation with its markers.

A tokenizer remembers whether it reads `<|im_end|>` as a marker or as text. Whoever asks here gets what they asked for,
whatever was asked before, and leaves it reading markers. What somebody says never becomes a marker: nobody ends a turn
by writing so.
"""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["chat_tokens", "text_tokens"]

PLACE = "\ue000{}\ue001"  # Private-use characters around a number: where the words of a turn go.


def text_tokens(tokenizer: Any, text: str) -> list[int]:
    """Tokens of plain text: what spells a control marker stays text."""
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    try:
        return list(backend.encode(text, add_special_tokens=False).ids)
    finally:
        backend.encode_special_tokens = False


def chat_tokens(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Tokens of a conversation in the model's chat format, ending where the assistant begins to speak.

    Args:
        tokenizer: Has a chat template.
        messages: Turns, each with `role` and `content`.
    """
    markers = tokenizer.get_added_vocab()
    if not any(marker in message["content"] for message in messages for marker in markers):
        return _read(tokenizer, _written(tokenizer, messages))
    places = [{**message, "content": PLACE.format(turn)} for turn, message in enumerate(messages)]
    left, ids = _written(tokenizer, places), list[int]()
    for turn, message in enumerate(messages):
        before, place, left = left.partition(PLACE.format(turn))
        ids += _read(tokenizer, before)
        if place:  # A template may leave a turn out.
            ids += text_tokens(tokenizer, message["content"])
    return ids + _read(tokenizer, left)


def _written(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str:
    return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))


def _read(tokenizer: Any, text: str) -> list[int]:
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = False  # Transformers leave it as the last call wanted it.
    return list(backend.encode(text, add_special_tokens=False).ids)
