"""Attention of student and teacher in, how differently they look back out.

Off by default: at equal tokens it changed the divergence from the teacher by less than noise, and it needs attention
maps, which only the slow attention gives.
"""

import torch
from torch import Tensor

__all__ = ["attention_kl", "value_relations"]


def attention_kl(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """Σ over positions of weight · mean over heads of Σ a_t (log a_t - log a_s), a scalar in nats.

    Args:
        student: Attention maps, rows summing to 1, shape (batch, heads, seq, seq).
        teacher: The same of the teacher; no gradient flows into it.
        weights: How much each looking position counts, shape (batch, seq).

    Raises:
        ValueError: The numbers of heads differ; compare value_relations instead.

    Source: MiniLM, arXiv:2002.10957, equation 6.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"{student.shape[1]} heads cannot look like the teacher's {teacher.shape[1]}; compare value_relations"
        )
    theirs = teacher.detach()
    floor = torch.finfo(student.dtype).tiny  # The future has probability 0 in both and adds 0.
    apart: Tensor = torch.xlogy(theirs, theirs) - torch.xlogy(theirs, student.clamp_min(floor))
    return (apart.sum(-1).mean(1) * weights).sum()


def value_relations(values: Tensor, *, heads: int) -> Tensor:
    """How much positions' values resemble each other: softmax over the past of v_i · v_j / √d; for attention_kl.

    Student and teacher may differ in heads and width: each is cut into the same number of parts first.

    Args:
        values: Output of the value projection, shape (batch, seq, size).
        heads: Parts to cut size into; it must divide it.

    Returns:
        Shape (batch, heads, seq, seq), rows summing to 1.

    Source: MiniLM, arXiv:2002.10957, equation 7; parts as in MiniLMv2, arXiv:2012.15828, section 3.
    """
    parts = values.unflatten(-1, (heads, -1)).transpose(1, 2)  # (batch, heads, seq, part)
    scores = parts @ parts.transpose(-1, -2) / parts.shape[-1] ** 0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    relations: Tensor = scores.masked_fill(future, float("-inf")).softmax(-1)
    return relations
