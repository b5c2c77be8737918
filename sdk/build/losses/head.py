"""Hidden states and a head in, the weighted loss out, without ever holding all logits.

The head's logits of a batch are the largest tensor of a distillation step: 8 × 512 positions of 16,384 tokens are 268
MB, several times over with gradients. Here a chunk of positions meets the head, its loss is computed and differentiated
at once, and only the gradients of hidden states and head are kept: memory does not grow with the number of positions,
and nothing is computed twice. Source: fused linear cross-entropy of Liger Kernel, arXiv:2410.10989, section 3.2.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sdk.build.losses.divergence import cross_entropy, forward_kl, jensen_shannon, reverse_kl
from sdk.build.losses.outcomes import Dense, TopK, coarse_student, coarse_teacher

__all__ = ["HEAD_TERMS", "HeadLoss", "LossWeights", "head_loss", "self_distillation"]

CHUNK = 256  # Positions that meet the head at once: 256 rows of 16,384 logits are 17 MB.
HEAD_TERMS = ("cross_entropy", "forward_kl", "reverse_kl", "jensen_shannon")


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """How much of each technique; the loss is their weighted sum."""

    cross_entropy: float = 0.5
    """On the text itself, ≥ 0."""
    forward_kl: float = 1.0
    """Teacher's logits, covering, ≥ 0."""
    reverse_kl: float = 0.0
    """Teacher's logits, seeking, ≥ 0."""
    jensen_shannon: float = 0.0
    """Teacher's logits, between the two, ≥ 0."""
    features: float = 0.0
    """Teacher's hidden states, ≥ 0."""
    attention: float = 0.0
    """Teacher's attention maps, ≥ 0."""
    self_distillation: float = 0.0
    """The student's own deeper layers, ≥ 0."""
    beta: float = 0.5
    """Weight of the teacher inside jensen_shannon, in (0, 1)."""
    temperature: float = 1.0
    """Of the three divergences, in (0, 100]; their sums are multiplied by its square."""

    def __post_init__(self) -> None:
        """Refuse a weight below zero, or nothing to learn from."""
        terms = (*HEAD_TERMS, "features", "attention", "self_distillation")
        below = [name for name in terms if not 0 <= getattr(self, name) < float("inf")]
        if below:
            raise ValueError(f"the weight of {below[0]} must be at least 0, got {getattr(self, below[0])}")
        if not any(getattr(self, name) for name in terms):
            raise ValueError("all loss weights are 0, so there is nothing to learn from; set one above 0")
        if not 0 < self.beta < 1:
            raise ValueError(f"beta must be in (0, 1), got {self.beta}; its ends are forward_kl and reverse_kl")
        if not 0 < self.temperature <= 100:
            raise ValueError(f"temperature must be in (0, 100], got {self.temperature}")


@dataclass(frozen=True, kw_only=True)
class HeadLoss:
    """The loss of a batch at the head."""

    total: Tensor
    """Weighted sum over terms and positions, in nats, a scalar with gradient."""
    parts: Mapping[str, Tensor]
    """Sum over positions of each term that has a weight, in nats, unweighted and without gradient."""
    count: Tensor
    """Sum of the position weights: what to divide by for a mean."""


def head_loss(
    hidden: Tensor,
    head: Tensor,
    *,
    mix: LossWeights,
    weights: Tensor,
    targets: Tensor | None = None,
    teacher: TopK | Dense | None = None,
    chunk: int = CHUNK,
) -> HeadLoss:
    """The head's share of the loss: cross-entropy and divergences from the teacher.

    Args:
        hidden: What goes into the student's head (after the final norm), shape (..., width).
        head: The student's head, shape (vocab, width).
        mix: Weights; only cross_entropy and the three divergences are looked at here.
        weights: How much each position counts, shape (...); positions of weight 0 cost nothing.
        targets: True next tokens, shape (...); needed where cross_entropy has a weight.
        teacher: What the teacher says at the same positions; needed where a divergence has a weight.
        chunk: Positions at once: memory is about 4 × chunk × vocab numbers.

    Raises:
        ValueError: A term has a weight but not its input, or vocabularies differ.
    """
    _check(mix, head, targets, teacher)
    counted = weights.flatten().nonzero()[:, 0]  # (positions,)
    rows = hidden.flatten(0, -2)[counted]  # (positions, width)
    scale = weights.flatten()[counted].to(torch.promote_types(rows.dtype, torch.float32))  # (positions,)
    wanted = None if targets is None else targets.flatten()[counted]
    told = _picked(teacher, counted)
    names = [name for name in HEAD_TERMS if getattr(mix, name)]

    def sums(logits: Tensor, part: slice) -> Tensor:
        terms = _terms(logits, mix, None if wanted is None else wanted[part], told, part)
        return torch.stack([(terms[name] * scale[part]).sum() for name in names])

    shares = scale.new_tensor([getattr(mix, name) for name in names])
    total, parts = _HeadSum.apply(rows, head, sums, shares, chunk, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return HeadLoss(total=total, parts=dict(zip(names, parts, strict=True)), count=scale.sum())


def self_distillation(
    exits: Mapping[int, Tensor],
    final: Tensor,
    head: Tensor,
    *,
    weights: Tensor,
    temperature: float = 1.0,
    chunk: int = CHUNK,
) -> HeadLoss:
    """The last layer teaches shallower ones through the shared head: mean over exits of forward_kl(exit, last).

    The last layer's own distribution is taken as given (no gradient), so it cannot come down to meet its pupils.

    Args:
        exits: Layer to its hidden state after the shared final norm, shape (..., width); at least one.
        final: The last layer's hidden state after the final norm, shape (..., width).
        head: The shared head, shape (vocab, width).
        weights: Shape (...).
        temperature: As in forward_kl.
        chunk: As in head_loss.

    Returns:
        The loss, and in parts the sum of each layer under its number.

    Source: Be Your Own Teacher, arXiv:1905.08094, with one shared head as in LayerSkip, arXiv:2404.16710.
    """
    mix = LossWeights(cross_entropy=0, forward_kl=1, temperature=temperature)
    teacher = Dense(hidden=final.detach(), head=head.detach())
    taught = {
        layer: head_loss(hidden, head, mix=mix, weights=weights, teacher=teacher, chunk=chunk)
        for layer, hidden in exits.items()
    }
    return HeadLoss(
        total=torch.stack([loss.total for loss in taught.values()]).mean(),
        parts={str(layer): loss.parts["forward_kl"] for layer, loss in taught.items()},
        count=next(iter(taught.values())).count,
    )


def _check(mix: LossWeights, head: Tensor, targets: Tensor | None, teacher: TopK | Dense | None) -> None:
    if not any(getattr(mix, name) for name in HEAD_TERMS):
        raise ValueError("no term of the head has a weight; leave the head out")
    if mix.cross_entropy and targets is None:
        raise ValueError("cross_entropy has a weight but there are no targets")
    if (mix.forward_kl or mix.reverse_kl or mix.jensen_shannon) and teacher is None:
        raise ValueError("a divergence has a weight but there is no teacher")
    if isinstance(teacher, Dense):
        told = teacher.hidden.shape[-1] if teacher.head is None else teacher.head.shape[0]
        if told != head.shape[0]:
            raise ValueError(f"the teacher tells {told} tokens, the student has {head.shape[0]}; align them first")


def _picked(teacher: TopK | Dense | None, counted: Tensor) -> TopK | Dense | None:
    """The teacher at the counted positions."""
    if isinstance(teacher, TopK):
        ids, log_probs = (part.flatten(0, -2)[counted] for part in (teacher.ids, teacher.log_probs))
        return TopK(ids=ids, log_probs=log_probs, rest=teacher.rest.flatten()[counted])
    if isinstance(teacher, Dense):
        return Dense(hidden=teacher.hidden.flatten(0, -2)[counted], head=teacher.head)
    return None


def _terms(
    logits: Tensor, mix: LossWeights, targets: Tensor | None, teacher: TopK | Dense | None, part: slice
) -> dict[str, Tensor]:
    """Each term that has a weight, shape (positions,) each."""
    terms, ours, theirs, total = {}, logits, None, None
    if isinstance(teacher, TopK):
        told = TopK(ids=teacher.ids[part], log_probs=teacher.log_probs[part], rest=teacher.rest[part])
        theirs = coarse_teacher(told, logits.shape[-1])  # (positions, k + 1)
        ours, total = coarse_student(logits, told.ids)
    elif isinstance(teacher, Dense):
        theirs = teacher.logits(part).to(logits.dtype)  # (positions, vocab)
        ours = torch.log_softmax(logits, -1)
    if mix.cross_entropy and targets is not None:
        if total is not None:  # The pass over the vocabulary is already made.
            terms["cross_entropy"] = total - logits.gather(-1, targets[:, None])[:, 0]
        else:
            terms["cross_entropy"] = cross_entropy(ours, targets)
    if theirs is not None:
        if mix.forward_kl:
            terms["forward_kl"] = forward_kl(ours, theirs, mix.temperature)
        if mix.reverse_kl:
            terms["reverse_kl"] = reverse_kl(ours, theirs, mix.temperature)
        if mix.jensen_shannon:
            terms["jensen_shannon"] = jensen_shannon(ours, theirs, mix.beta, mix.temperature)
    return terms


class _HeadSum(torch.autograd.Function):
    """Σ over positions of shares · terms(rows @ headᵀ), chunk by chunk, with the gradient taken on the way."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        head: Tensor,
        sums: Callable[[Tensor, slice], Tensor],
        shares: Tensor,
        chunk: int,
        learning: bool,
    ) -> tuple[Tensor, Tensor]:
        wants_rows, wants_head = (learning and needed for needed in ctx.needs_input_grad[:2])
        grad_rows = torch.empty_like(rows) if wants_rows else None
        grad_head = torch.zeros_like(head) if wants_head else None
        parts = torch.zeros_like(shares)  # (terms,)
        for start in range(0, len(rows), chunk):
            part = slice(start, start + chunk)
            logits = (rows[part] @ head.t()).to(shares.dtype)  # (chunk, vocab)
            with torch.set_grad_enabled(wants_rows or wants_head):
                made = sums(logits.requires_grad_(wants_rows or wants_head), part)
                total = shares @ made
            parts += made.detach()
            if total.requires_grad:
                slope = torch.autograd.grad(total, logits)[0].to(rows.dtype)  # (chunk, vocab)
                if grad_rows is not None:
                    torch.mm(slope, head, out=grad_rows[part])
                if grad_head is not None:
                    grad_head.addmm_(slope.t(), rows[part])
        ctx.save_for_backward(grad_rows, grad_head)
        ctx.mark_non_differentiable(parts)
        return shares @ parts, parts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (None if kept is None else kept * slope.to(kept.dtype) for kept in ctx.saved_tensors)
        return (*scaled, None, None, None, None)
