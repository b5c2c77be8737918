"""What a teacher tells in, distributions over the same outcomes for teacher and student out.

A teacher that tells k log-probabilities and the mass of the rest is compared over k + 1 outcomes: the k tokens, and
"any other token". Merging outcomes can only lower a divergence (data processing inequality), so nothing is invented;
leaving the rest out instead would drop 13 % of the mass at k = 64 (measured on SmolLM2-135M over mixed English) and
would reward a student that puts its own mass nowhere else. With k = vocab both are the same number.

A temperature softens these k + 1 outcomes, since what is inside the rest is not known.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Dense", "TopK", "coarse_student", "coarse_teacher"]


@dataclass(frozen=True, kw_only=True)
class TopK:
    """A teacher's k likeliest next tokens at each position."""

    ids: Tensor
    """Token ids in the student's vocabulary, all different at one position, shape (..., k)."""
    log_probs: Tensor
    """Their log-probabilities in nats, shape (..., k)."""
    rest: Tensor
    """Probability of all other tokens together, in [0, 1), shape (...)."""


@dataclass(frozen=True, kw_only=True)
class Dense:
    """A teacher at hand: its logits are made a chunk at a time, so that they never stand in memory whole."""

    hidden: Tensor
    """What goes into its head (after the final norm), shape (..., teacher width); or its logits, where head is None."""
    head: Tensor | None = None
    """Rows of its head for the student's vocabulary, in the student's order, shape (vocab, teacher width)."""

    def logits(self, part: slice | Tensor) -> Tensor:
        """Logits of some positions, shape (positions, vocab), without gradient."""
        rows = self.hidden[part].detach()
        return rows if self.head is None else rows @ self.head.detach().t()


def coarse_teacher(teacher: TopK, vocabulary: int) -> Tensor:
    """Log-probabilities over k + 1 outcomes (k where k is the whole vocabulary), shape (..., outcomes), summing to 1.

    They are normalised here, because a cache in fp16 sums to 1 only nearly.
    """
    log_probs = teacher.log_probs.float() if teacher.log_probs.dtype == torch.float16 else teacher.log_probs
    if log_probs.shape[-1] < vocabulary:
        rest = teacher.rest.to(log_probs.dtype).clamp_min(torch.finfo(log_probs.dtype).tiny).log()
        log_probs = torch.cat([log_probs, rest[..., None]], -1)
    return torch.log_softmax(log_probs, -1)


def coarse_student(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The student over the teacher's outcomes.

    The rest is a log-sum over the other logits themselves: 1 - Σ q over the k tokens would lose all its digits where
    the student is sure. It is also the only pass over the vocabulary; the whole sum follows from it.

    Args:
        logits: Shape (..., vocab).
        ids: The teacher's tokens, shape (..., k).

    Returns:
        Log-probabilities of shape (..., outcomes) as coarse_teacher has them, and log Σ exp(logits), shape (...).
    """
    ids = ids.long()
    outcomes = logits.gather(-1, ids)  # (..., k)
    if ids.shape[-1] < logits.shape[-1]:
        others = logits.scatter(-1, ids, float("-inf"))  # (..., vocab)
        outcomes = torch.cat([outcomes, others.logsumexp(-1, keepdim=True)], -1)
    total = outcomes.logsumexp(-1)
    return outcomes - total[..., None], total
