"""Public texts of a base bundle in, the rehearsal part of a night's training mix out.

Only public text is rehearsed: old private records would be charged again each time (at epsilon 2, twelve times come to
8.6), and their gradient would join the clipped sum. What is rehearsed here costs no privacy: anchors and texts of the
base are public, and what an admitted adapter wrote to public prompts is post-processing.

Rule: anchors are the bundle's own texts, for ever. What a model wrote is mixed in beside them and is never taken for
one.
"""

from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any

from personalize.errors import TrainingError
from personalize.forward import Encoded, encode
from personalize.plan import Mix
from personalize.written import BY_BASE, Written

__all__ = ["anchors", "mixed", "prompts"]

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


def mixed(
    mix: Mix,
    rows: Iterable[Mapping[str, Any]],
    written: Sequence[Written],
    tokenizer: Any,
    *,
    count: int,
    seed: int = 0,
) -> list[Encoded]:
    """Draw a night's public texts: anchors, texts of the base, texts of admitted adapters, in a mixed order.

    Args:
        mix: Public shares.
        rows: Objects of `rehearsal.jsonl`.
        written: What models wrote; where there is too little of it, anchors take its place.
        tokenizer: Of the base.
        count: Largest number of texts, ≥ 0.
        seed: Another seed, another draw; it must not depend on private records.

    Raises:
        TrainingError: A row of another format or without a field; nothing was trained.
    """
    rng = Random(f"{seed} mix")
    chosen: list[Written] = []
    for wanted, by_base in zip(mix.counts(count), (True, False), strict=True):
        there = [text for text in written if (text.writer == BY_BASE) == by_base]
        chosen += rng.sample(there, min(wanted, len(there)))
    texts = anchors(rows, tokenizer, count=count - len(chosen), seed=seed)
    texts += [encode(tokenizer, text.prompt, text.answer) for text in chosen]
    rng.shuffle(texts)
    return texts


def prompts(rows: Iterable[Mapping[str, Any]], *, count: int, seed: int = 0) -> list[str]:
    """Draw public prompts for a model to answer, each once; the order depends on `seed` only."""
    there = sorted({str(row["prompt"]) for row in rows if row.get("prompt")})
    return Random(f"{seed} prompts").sample(there, min(count, len(there)))
