"""Sequences in; what the student's frozen layers and the teacher make of them out, on disk, in shards.

Both stay the same for the whole training, so they are computed once: the hidden states where training begins, in
float16, and the teacher's `top_k` commonest tokens with their log-probabilities. A shard appears whole or not at all,
and a build that was stopped goes on at the first that is missing. Per token: 2 bytes for each number of the width, and
for each counted one 6 bytes for each of `top_k`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from personalize.forward import decoder_layers
from sdk.build.many import ALONE, Group
from sdk.build.sequences import TokenSequence, side_by_side
from sdk.build.worked import Worked

__all__ = ["Lesson", "lessons", "multiplied_in"]

PER_SHARD = 32  # Sequences of a shard: some 12 MB, half a minute of work that a kill can cost.
FORWARD_TOKENS = 2_048  # Tokens of a forward pass.


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """One sequence, ready to learn."""

    sequence: TokenSequence
    """What is learned."""
    hidden: Tensor
    """Input of the first trained layer, shape (seq, width), float16."""
    top_ids: Tensor | None
    """The teacher's commonest next tokens at each counted position, shape (counted, top_k), int32; None: no teacher."""
    top_logs: Tensor | None
    """Their log-probabilities, shape (counted, top_k), float16, over the student's whole vocabulary."""


def lessons(
    sequences: Sequence[TokenSequence],
    *,
    student: LlamaForCausalLM,
    frozen: int,
    teacher: LlamaForCausalLM | None,
    top_k: int,
    worked: Worked,
    name: str,
    progress: Callable[[str, int, int], None],
    group: Group = ALONE,
    precision: str = "float32",
) -> list[Lesson]:
    """Compute, or read back, what is fixed about each sequence.

    Args:
        sequences: In a fixed order.
        student: Its first `frozen` layers and its embedding stay as they are.
        frozen: Layers below the first trained one.
        teacher: A Llama of the same vocabulary; None: only the student's hidden states.
        top_k: Tokens of the teacher's distribution to keep.
        worked: Where shards are kept.
        name: Prefix of their names; another teacher or other frozen layers need another one.
        progress: Told (what, tokens done, tokens in all).
        group: The processes that work together: each computes some shards, all read all of them.
        precision: What the frozen layers multiply in; the teacher always in float32.
    """
    total = sum(len(one.ids) for one in sequences)
    made: list[Lesson] = []
    done = 0
    parts = {
        f"{name}-{start // PER_SHARD:05d}": sequences[start : start + PER_SHARD]
        for start in range(0, len(sequences), PER_SHARD)
    }
    if group.size > 1:
        for key in group.shard(list(parts)):
            if worked.read(key) is None:
                worked.keep(key, _shard(parts[key], student, frozen, teacher, top_k, precision))
        group.wait()
    for key, part in parts.items():
        kept = worked.read(key)
        if kept is None:
            kept = _shard(part, student, frozen, teacher, top_k, precision)
            worked.keep(key, kept)
        made += _apart(part, kept)
        done += sum(len(one.ids) for one in part)
        progress(f"read {name}", done, total)
    return made


def multiplied_in(precision: str) -> torch.autocast:
    """A context in which products of matrices are rounded to `precision`, "float32" or "bfloat16"."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16")


@torch.no_grad()
def _shard(
    group: Sequence[TokenSequence],
    student: LlamaForCausalLM,
    frozen: int,
    teacher: LlamaForCausalLM | None,
    top_k: int,
    precision: str,
) -> dict[str, Tensor]:
    hidden: list[Tensor] = [torch.empty(0)] * len(group)
    tops: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * len(group)
    for indices in _alike(group):
        rows = torch.zeros(len(indices), max(len(group[index].ids) for index in indices), dtype=torch.long)
        for row, index in enumerate(indices):
            rows[row, : len(group[index].ids)] = torch.tensor(group[index].ids)
        with multiplied_in(precision):
            states = decoder_layers(student, student.model.embed_tokens(rows), 0, frozen)
        for row, index in enumerate(indices):
            hidden[index] = states[row, : len(group[index].ids)].half()
        if teacher is not None:
            taught = teacher.model.norm(
                decoder_layers(teacher, teacher.model.embed_tokens(rows), 0, len(teacher.model.layers))
            )
            for row, index in enumerate(indices):
                one = group[index]
                logs = torch.log_softmax(taught[row, one.first - 1 : len(one.ids) - 1] @ teacher.lm_head.weight.t(), 1)
                values, ids = logs.topk(top_k, dim=1)  # (counted, top_k)
                tops[index] = (ids.int(), values.half())
    shard = {"hidden": torch.cat(hidden)}
    if teacher is not None:
        shard |= {"top_ids": torch.cat([ids for ids, _ in tops]), "top_logs": torch.cat([logs for _, logs in tops])}
    return shard


def _alike(group: Sequence[TokenSequence]) -> list[list[int]]:
    lengths = [len(one.ids) for one in group]
    return side_by_side(sorted(range(len(group)), key=lengths.__getitem__), lengths, tokens=FORWARD_TOKENS)


def _apart(group: Sequence[TokenSequence], shard: dict[str, Tensor]) -> list[Lesson]:
    hidden = shard["hidden"].split([len(one.ids) for one in group])
    if "top_ids" not in shard:
        return [
            Lesson(sequence=one, hidden=states, top_ids=None, top_logs=None)
            for one, states in zip(group, hidden, strict=True)
        ]
    counted = [one.counted for one in group]
    parts = zip(group, hidden, shard["top_ids"].split(counted), shard["top_logs"].split(counted), strict=True)
    return [Lesson(sequence=one, hidden=states, top_ids=ids, top_logs=logs) for one, states, ids, logs in parts]
