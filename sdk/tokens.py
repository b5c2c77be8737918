"""A tokenizer and words in, token ids out: plain text as text, a conversation with its markers.

A tokenizer remembers whether it reads `<|im_end|>` as a marker or as text. Whoever asks here gets what they asked for,
whatever was asked before, and leaves it reading markers. That nobody ends a turn by writing so is the chat template's
doing, which sets such words apart.
"""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["chat_tokens", "text_tokens"]


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
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = False  # Transformers leave it as the last call wanted it.
    return list(backend.encode(text, add_special_tokens=False).ids)
