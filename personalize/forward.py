"""Texts in, losses out, in two parts: the frozen lower layers, and the upper layers that adapters touch.

The lower layers carry no adapter, so what they make of a record is the same at every step of a night: it is computed
once (`prefixes`) and all steps start from there (`collate`, `completion_losses`). It is personal data like the record
itself; where it is kept for another night, it is sealed and deleted with the record (personalize/prefix_cache.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from personalize.errors import TrainingError
from privacy.per_example import frozen_head_loss

__all__ = [
    "Batch",
    "Encoded",
    "Prefix",
    "bare_states",
    "choice_logits",
    "collate",
    "completion_losses",
    "decoder_layers",
    "encode",
    "kl_losses",
    "prefixes",
    "token_scores",
    "upper_states",
]

MAX_TOKENS = 48  # Completion tokens of a record that are learned, so that no record costs a night; the rest is cut.
MAX_PROMPT_TOKENS = 32  # A longer prompt loses its head: the end of a prompt says more about the answer.
HEAD_CHUNK = 256  # Positions that meet the head at once: 256 rows of 49,152 logits are 50 MB.


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One record as tokens."""

    ids: tuple[int, ...]
    """Prompt tokens, then completion tokens."""
    completion: int
    """Index of the first completion token, ≥ 1."""
    characters: int
    """Characters of the completion that its tokens stand for: the divisor of bits per character."""


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """One record after the frozen layers."""

    hidden: Tensor
    """Shape (seq, width)."""
    record: Encoded


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A few records side by side, padded on the right, where causal attention never looks."""

    hidden: Tensor
    """Shape (batch, seq, width)."""
    targets: Tensor
    """Next token of each position, shape (batch, seq)."""
    weights: Tensor
    """Shape (batch, seq): 1 at positions whose next token belongs to the completion."""


def encode(tokenizer: Any, prompt: str, answer: str, *, max_tokens: int = MAX_TOKENS) -> Encoded:
    """A record as the model will be asked for it: a chat turn, or plain text where there is no prompt.

    The chat markers are written here, not by the template, because that adds a system prompt of its own.

    Args:
        tokenizer: A Hugging Face tokenizer with ChatML markers.
        prompt: What was asked; may be empty.
        answer: The completion, cut at `max_tokens` tokens. Its end is learned only where nothing was cut.
        max_tokens: Largest number of completion tokens.
    """

    def tokens(text: str) -> list[int]:
        # A person's text that spells a control marker stays text: it can neither end a turn nor begin one.
        return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def marker(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    if prompt:
        before = marker("<|im_start|>user\n") + tokens(prompt)[-MAX_PROMPT_TOKENS:]
        before += marker("<|im_end|>\n<|im_start|>assistant\n")
    else:
        before = marker("<|endoftext|>")  # What separates documents in the pre-training text.
    full = tokens(answer)
    end = marker("<|im_end|>")  # Also where it is not used: the tokenizer must be left reading markers as markers.
    kept = full[:max_tokens]
    whole = len(kept) == len(full)
    characters = len(answer) if whole else len(tokenizer.decode(kept))
    return Encoded(
        ids=(*before, *kept, *(end if whole else ())),
        completion=len(before),
        characters=max(1, characters),
    )


@torch.no_grad()
def prefixes(model: Any, records: Sequence[Encoded], *, cut: int, batch: int = 16) -> Iterator[Prefix]:
    """Run the frozen layers once over all records, in their order.

    Args:
        model: A Hugging Face causal language model of the Llama family.
        records: Any number.
        cut: Number of layers below the first adapted one.
        batch: Records at a time.
    """
    for start in range(0, len(records), batch):
        group = records[start : start + batch]
        ids = torch.zeros(len(group), max(len(record.ids) for record in group), dtype=torch.long)  # (batch, seq)
        for row, record in enumerate(group):
            ids[row, : len(record.ids)] = torch.tensor(record.ids)
        hidden = decoder_layers(model, model.model.embed_tokens(ids), 0, cut)  # (batch, seq, width)
        for row, record in enumerate(group):
            yield Prefix(hidden=hidden[row, : len(record.ids)].clone(), record=record)


def collate(group: Sequence[Prefix]) -> Batch:
    """Records side by side."""
    length, width = max(len(prefix.hidden) for prefix in group), group[0].hidden.shape[-1]
    hidden = group[0].hidden.new_zeros(len(group), length, width)
    targets = torch.zeros(len(group), length, dtype=torch.long)
    weights = torch.zeros(len(group), length, dtype=hidden.dtype)
    for row, prefix in enumerate(group):
        ids, first = prefix.record.ids, prefix.record.completion
        hidden[row, : len(ids)] = prefix.hidden
        targets[row, : len(ids) - 1] = torch.tensor(ids[1:])
        weights[row, first - 1 : len(ids) - 1] = 1.0
    return Batch(hidden=hidden, targets=targets, weights=weights)


def decoder_layers(model: Any, hidden: Tensor, first: int, last: int) -> Tensor:
    """Run layers first to last − 1 of a Llama over hidden states, shape (batch, seq, width), causally.

    Raises:
        TrainingError: An attention that would see the future without a mask; nothing was computed.
    """
    if model.config._attn_implementation != "sdpa":  # Others see the future where no mask is given.
        raise TrainingError("the model's attention is not causal without a mask; call set_attn_implementation('sdpa')")
    positions = torch.arange(hidden.shape[1])[None]
    angles = model.model.rotary_emb(hidden, positions)
    for layer in model.model.layers[first:last]:
        made = layer(hidden, attention_mask=None, position_ids=positions, position_embeddings=angles)
        hidden = made[0] if isinstance(made, tuple) else made
    return hidden


def _suffix(model: Any, hidden: Tensor, cut: int) -> Tensor:
    final: Tensor = model.model.norm(decoder_layers(model, hidden, cut, len(model.model.layers)))
    return final  # (batch, seq, width)


def completion_losses(model: Any, batch: Batch, *, cut: int, head_rows: int | None = None) -> Tensor:
    """Loss of each record in nats, shape (batch,): the sum over its completion tokens.

    Args:
        model: The base, with or without adapters.
        batch: Records after the frozen layers.
        cut: Number of frozen layers.
        head_rows: Look only at the first so many tokens of the vocabulary, which are its commonest because merges are
            numbered in the order they were learned; positions whose next token is another count nothing. A public
            choice that makes a training step cheaper; None, for every measurement, looks at all.
    """
    hidden, head, weights = _suffix(model, batch.hidden, cut), model.lm_head.weight, batch.weights
    if head_rows is not None and head_rows < len(head):
        head, weights = head[:head_rows], weights * (batch.targets < head_rows)
    return frozen_head_loss(hidden, head, batch.targets, weights, chunk=HEAD_CHUNK)


@torch.no_grad()
def token_scores(model: Any, batch: Batch, *, cut: int) -> tuple[Tensor, Tensor]:
    """Of each completion token: loss in nats, and 1 where the most likely token was the true one.

    Returns:
        Two tensors of shape (batch, seq), zero outside completions.
    """
    hidden, counted = _suffix(model, batch.hidden, cut), batch.weights > 0
    rows, targets = hidden[counted], batch.targets[counted]
    losses, right = rows.new_zeros(len(rows)), rows.new_zeros(len(rows))
    for start in range(0, len(rows), HEAD_CHUNK):
        chunk = slice(start, start + HEAD_CHUNK)
        logits = rows[chunk] @ model.lm_head.weight.t()  # (chunk, vocab)
        losses[chunk] = torch.nn.functional.cross_entropy(logits, targets[chunk], reduction="none")
        right[chunk] = (logits.argmax(1) == targets[chunk]).to(rows.dtype)
    empty = torch.zeros_like(batch.weights)
    return empty.masked_scatter(counted, losses), empty.masked_scatter(counted, right)


def upper_states(model: Any, batch: Batch, *, cut: int) -> Tensor:
    """What the upper layers make of a batch, ready for the head, shape (batch, seq, width); keeps gradients."""
    return _suffix(model, batch.hidden, cut)


@torch.no_grad()
def bare_states(model: Any, batch: Batch, *, cut: int) -> Tensor:
    """What the upper layers make of a batch with whatever adapter is attached, shape (batch, seq, width): see
    kl_losses."""
    return _suffix(model, batch.hidden, cut)


def kl_losses(model: Any, batch: Batch, bare: Tensor, *, cut: int, head_rows: int | None = None) -> Tensor:
    """Distance of each record's next-token distributions from the bare base's, in nats, shape (batch,).

    The sum over completion positions of the Kullback-Leibler divergence of the model from the base, exact over the
    tokens looked at: 0 where no adapter has changed anything, and it pulls back to there.

    Args:
        model: The base with an adapter.
        batch: Public records after the frozen layers.
        bare: `bare_states` of the same batch without an adapter, or with one that changes nothing.
        cut: Number of frozen layers.
        head_rows: As in completion_losses; both distributions are over these tokens then.

    Source: learning without forgetting, arXiv:1606.09282, with the teacher's whole distribution.
    """
    counted, head = batch.weights > 0, model.lm_head.weight[:head_rows]
    mine, theirs = _suffix(model, batch.hidden, cut)[counted], bare[counted]  # (positions, width)
    rows = counted.nonzero()[:, 0]  # (positions,)
    found = mine.new_zeros(len(batch.hidden))
    for start in range(0, len(rows), HEAD_CHUNK):
        chunk = slice(start, start + HEAD_CHUNK)
        wanted = torch.log_softmax(theirs[chunk] @ head.t(), 1)  # (chunk, vocab)
        given = torch.log_softmax(mine[chunk] @ head.t(), 1)
        found = found.index_add(0, rows[chunk], (wanted.exp() * (wanted - given)).sum(1))
    return found


@torch.no_grad()
def choice_logits(model: Any, batch: Batch, tokens: Tensor, *, cut: int) -> Tensor:
    """Logits of a few tokens at the one counted position of each record; the rest of the head is not computed.

    Args:
        model: The base, with or without adapters.
        batch: Records whose completion is one token.
        tokens: Token ids to look at, shape (batch, choices).
        cut: Number of frozen layers.

    Returns:
        Shape (batch, choices).
    """
    hidden = _suffix(model, batch.hidden, cut)[batch.weights > 0]  # (batch, width)
    return torch.einsum("bw,bcw->bc", hidden, model.lm_head.weight[tokens])
