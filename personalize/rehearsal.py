"""Public texts of a base bundle in, the rehearsal part of a night's training mix out.

Only public text is rehearsed: old private records would be charged again each time (at epsilon 2, twelve times come to
8.6), and their gradient would join the clipped sum. What is rehearsed here costs no privacy.
"""

from collections.abc import Iterable, Mapping
from random import Random
from typing import Any

from personalize.errors import TrainingError
from personalize.forward import Encoded, encode

__all__ = ["anchors"]

FORMAT = "rehearsal/1"


def anchors(rows: Iterable[Mapping[str, Any]], tokenizer: Any, *, count: int, seed: int = 0) -> list[Encoded]:
    """Draw public texts in an order that depends on `seed` only, never on private records.

    Args:
        rows: Objects of `rehearsal.jsonl`.
        tokenizer: Of the base.
        count: Largest number of texts, ≥ 0.
        seed: Another seed, another draw.

    Raises:
        TrainingError: A row of another format or without a field; nothing was trained.
    """
    texts = list(rows)
    for row in texts:
        if row.get("format") != FORMAT or not {"prompt", "answer"} <= row.keys():
            raise TrainingError(
                f"rehearsal text {row.get('id')} has format {row.get('format')!r}, not {FORMAT}, or lacks a field; "
                "update limbeck or rebuild the base bundle"
            )
    Random(seed).shuffle(texts)
    return [encode(tokenizer, str(row["prompt"]), str(row["answer"])) for row in texts[:count]]
