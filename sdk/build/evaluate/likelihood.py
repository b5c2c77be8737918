"""Token sequences and a model in, the nats that their tokens cost out; the head runs only where it counts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdk.errors import EvaluationError, NotRunError

__all__ = ["Scored", "Told", "batches", "finite_logits", "hidden_states", "nats", "start_token"]

BATCH_TOKENS = 4096  # Positions run at once, padding included: 10 MB of hidden states at width 576.
HEAD_ROWS = 256  # Positions that meet the head at once: 256 rows of 49,152 logits are 50 MB.

Told = Callable[[int, int], None]
"""Told (items done, items in all)."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A sequence and which of its tokens are to be paid for."""

    ids: tuple[int, ...]
    """Token ids, the first of them given for free."""
    first: int = 1
    """Index of the first token that counts, ≥ 1."""


def start_token(tokenizer: Any) -> int:
    """What stands before a text: the token that ends documents, else the one that begins them.

    Raises:
        EvaluationError: The tokenizer has neither.
    """
    known = tokenizer.get_vocab()
    for token in ("<|endoftext|>", tokenizer.bos_token, tokenizer.eos_token):
        if token in known:
            return int(known[token])
    raise NotRunError("the tokenizer has no token that begins or ends a document; text cannot be scored with it")


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of sequences that run together, longest first: alike in length, and at most BATCH_TOKENS with padding."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    while order:
        count = max(1, BATCH_TOKENS // max(1, lengths[order[0]]))
        yield order[:count]
        order = order[count:]


@torch.no_grad()
def nats(model: Any, sequences: Sequence[Scored], told: Told = lambda done, total: None) -> list[float]:
    """Sum of −log p(token | tokens before) over the counted tokens of each sequence, in nats, in their order.

    Raises:
        EvaluationError: A logit is not a finite number: the weights are damaged.
    """
    found, done = [0.0] * len(sequences), 0
    for rows in batches([len(sequence.ids) for sequence in sequences]):
        group = [sequences[row] for row in rows]
        hidden = hidden_states(model, [sequence.ids for sequence in group])  # (batch, seq, width)
        places = [(row, at) for row, one in enumerate(group) for at in range(one.first - 1, len(one.ids) - 1)]
        for start in range(0, len(places), HEAD_ROWS):
            chunk = places[start : start + HEAD_ROWS]
            logits = finite_logits(model, hidden[[row for row, _ in chunk], [at for _, at in chunk]])  # (chunk, vocab)
            targets = torch.tensor([group[row].ids[at + 1] for row, at in chunk])
            losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none").double()
            for (row, _), loss in zip(chunk, losses.tolist(), strict=True):
                found[rows[row]] += loss
        done += len(rows)
        told(done, len(sequences))
    return found


def hidden_states(model: Any, sequences: Sequence[Sequence[int]]) -> Tensor:
    """The last hidden states, ready for the head, shape (batch, seq, width); padded on the right, where none looks."""
    ids = torch.zeros(len(sequences), max(len(sequence) for sequence in sequences), dtype=torch.long)  # (batch, seq)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
    hidden: Tensor = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return hidden


def finite_logits(model: Any, hidden: Tensor) -> Tensor:
    """Logits of some positions in float32, shape (positions, vocab), or a refusal where one is not a number.

    Raises:
        EvaluationError: A logit is not finite.
    """
    logits: Tensor = model.get_output_embeddings()(hidden).float()
    if not bool(torch.isfinite(logits).all()):
        raise EvaluationError("the model's logits are not finite numbers (NaN or infinite); its weights are damaged")
    return logits
