"""A tokenizer in, the bytes that each of its tokens stands for out: what two vocabularies can be compared by."""

import json
from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedTokenizerFast

from sdk.errors import VocabularyError

__all__ = ["bytes_of", "described", "spelled"]

SPACE = "▁"  # What SentencePiece writes for a space.


def described(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The whole tokenizer as its own JSON."""
    found: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return found


def bytes_of(tokenizer: PreTrainedTokenizerFast) -> dict[int, bytes]:
    """Id to bytes of every token that stands for text; control tokens stand for none and are left out.

    Raises:
        VocabularyError: Neither byte-level (GPT-2, Llama 3, Qwen, SmolLM) nor SentencePiece with byte fallback (Gemma,
            Phi-3): what its tokens stand for is not known for certain.
    """
    whole = described(tokenizer)
    read = {"bytes": _byte_level, "pieces": _sentence_piece}[_kind(whole["decoder"])]
    added = {token["id"]: token for token in whole["added_tokens"]}
    found = {}
    for token, row in tokenizer.get_vocab().items():
        if row not in added:
            found[row] = read(token)
        elif not added[row]["special"]:
            found[row] = token.encode()
    return found


def spelled(tokenizer: PreTrainedTokenizerFast, text: str, meanings: dict[int, bytes]) -> list[int]:
    """Ids of a text, proved to stand for exactly this text.

    Args:
        tokenizer: Cuts it, without adding anything.
        text: Plain text.
        meanings: Of `bytes_of`.

    Raises:
        VocabularyError: The tokenizer reads control tokens in the text, or changes it.
    """
    ids: list[int] = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    for row in ids:
        if row not in meanings:
            name = tokenizer.convert_ids_to_tokens(row)
            raise VocabularyError(f"the text holds {name!r}, which a tokenizer reads as control; leave such text out")
    if b"".join(meanings[row] for row in ids) != text.encode():
        raise VocabularyError("a tokenizer changes this text, so its tokens have no places in it; leave such text out")
    return ids


def _kind(decoder: dict[str, Any] | None) -> str:
    steps = [step["type"] for step in _steps(decoder)]
    if steps == ["ByteLevel"]:
        return "bytes"
    if steps and set(steps) <= {"Replace", "ByteFallback", "Fuse", "Strip"} and "ByteFallback" in steps:
        return "pieces"
    raise VocabularyError(
        f"a tokenizer decodes by {' + '.join(steps) or 'nothing'}, which is not understood here; "
        "byte-level and SentencePiece tokenizers are"
    )


def _steps(decoder: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if decoder is None:
        return
    if decoder["type"] == "Sequence":
        for step in decoder["decoders"]:
            yield from _steps(step)
    else:
        yield decoder


def _alphabet() -> dict[str, int]:
    """GPT-2's letters for bytes: printable ones stand for themselves, the others follow from 256 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


ALPHABET = _alphabet()


def _byte_level(token: str) -> bytes:
    if all(letter in ALPHABET for letter in token):
        return bytes(ALPHABET[letter] for letter in token)
    return token.encode()  # A word that was added as it is.


def _sentence_piece(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace(SPACE, " ").encode()
