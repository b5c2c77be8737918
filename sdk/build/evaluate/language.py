"""Held-out text in, bits per byte out: one figure that models with different tokenizers share.

    bits per byte = Σ −log2 p(token | tokens before) over all tokens / bytes of the text in UTF-8

Text is cut into passages by characters, never by tokens, so every model pays for the same bytes and sees as much of
them at a time. Each passage begins after the token that ends documents. A tokenizer that cannot give a passage back
letter by letter is refused: what it drops would be free.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from sdk.build.evaluate.card import Leg
from sdk.build.evaluate.interval import Estimate, ratio
from sdk.build.evaluate.likelihood import Scored, Told, nats, start_token
from sdk.errors import EvaluationError, NotRunError
from sdk.tokens import text_tokens

__all__ = ["bits_per_byte", "passages", "read_texts", "text_leg"]

PASSAGE_BYTES = 1024  # About 250 tokens: what a device's prompt has, and many enough for an interval.
PIECES = re.compile(r"\s*\S+|\s+")
SEED = 7


def bits_per_byte(model: Any, tokenizer: Any, texts: Sequence[str]) -> Estimate:
    """Bits per byte of texts, each cut into passages of at most 1,024 bytes where blanks allow it.

    Raises:
        EvaluationError: No text, a logit that is not a number, or a tokenizer that loses text.
    """
    made = text_leg(model, tokenizer, [piece for text in texts for piece in passages(text)])
    estimate = ratio(*made.scores["bits_per_byte"])
    if estimate is None:
        raise EvaluationError("there is no text to measure bits per byte on")
    return estimate


def text_leg(model: Any, tokenizer: Any, pieces: Sequence[str], told: Told = lambda done, total: None) -> Leg:
    """Bits and bytes of each passage."""
    start, sequences = start_token(tokenizer), []
    for piece in pieces:
        ids = text_tokens(tokenizer, piece)
        if tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) != piece:
            raise NotRunError(
                f"the tokenizer does not give a text back as it was ({piece[:30]!r}); bits per byte would be too low"
            )
        sequences.append(Scored(ids=(start, *ids)))
    bits = [loss / math.log(2) for loss in nats(model, sequences, told)]
    return Leg(
        ids=tuple(f"passage-{place}" for place in range(len(pieces))),
        groups=("text",) * len(pieces),
        scores={"bits_per_byte": (tuple(bits), tuple(float(len(piece.encode())) for piece in pieces))},
        facts={"tokens": sum(len(sequence.ids) - 1 for sequence in sequences)},
    )


def passages(text: str, most_bytes: int = PASSAGE_BYTES) -> Iterator[str]:
    """The text in pieces that end before a blank; together they are the text. A longer word stays whole."""
    held, size = "", 0
    for found in PIECES.finditer(text):
        piece = found[0]
        length = len(piece.encode())
        if held and size + length > most_bytes:
            yield held
            held, size = "", 0
        held, size = held + piece, size + length
    if held:
        yield held


def read_texts(path: Path, *, most_passages: int | None, most_bytes: int = PASSAGE_BYTES) -> list[str]:
    """Passages of a text file, or of the field `text` of a JSONL file; a seeded choice where there are too many.

    Raises:
        EvaluationError: The file cannot be read or holds no text.
    """
    try:
        content = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            texts = [str(json.loads(line)["text"]) for line in content.splitlines() if line.strip()]
        else:
            texts = [content]
    except OSError as cause:
        raise EvaluationError(f"cannot read the text {path}: {cause.strerror}") from cause
    except (ValueError, KeyError, TypeError) as cause:
        raise EvaluationError(f"{path} is neither UTF-8 text nor lines of JSON with a field `text`") from cause
    found = [piece for text in texts for piece in passages(text, most_bytes) if piece.strip()]
    if not found:
        raise EvaluationError(f"{path} holds no text")
    if most_passages is None or len(found) <= most_passages:
        return found
    return [found[place] for place in sorted(Random(SEED).sample(range(len(found)), most_passages))]
