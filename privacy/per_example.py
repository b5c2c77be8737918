"""Autograd functions whose backward leaves one gradient per example.

A parameter that takes part carries `grad_sample`, shape (batch, *parameter.shape): the convention of Opacus, so that
`privacy.dp_sgd` clips what these functions leave and what Opacus' hooks leave alike.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["add_grad_sample", "frozen_head_loss", "low_rank_linear", "take_grad_sample"]

Route = Callable[[Tensor, Tensor, Tensor], None]
"""Receives (inputs, projected, upstream) of one layer: (batch, seq, in), (batch, seq, rank), (batch, seq, out)."""


def add_grad_sample(parameter: Tensor, gradients: Tensor) -> None:
    """Add per-example gradients to `parameter.grad_sample`; a layer used twice in one step adds up, before any norm.

    Args:
        parameter: The trainable tensor.
        gradients: Shape (batch, *parameter.shape).
    """
    held: Tensor | None = getattr(parameter, "grad_sample", None)
    parameter.grad_sample = gradients if held is None else held.add_(gradients)  # type: ignore[attr-defined]


def take_grad_sample(parameter: Tensor) -> Tensor | None:
    """Return `parameter.grad_sample` and clear it; None where no backward reached the parameter."""
    held: Tensor | None = getattr(parameter, "grad_sample", None)
    parameter.grad_sample = None  # type: ignore[attr-defined]
    return held


class _LowRankLinear(torch.autograd.Function):
    """y = x Wᵀ + (x aᵀ) bᵀ with W frozen; the route turns (x, x aᵀ, upstream) into gradients of what is trained."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, a: Tensor, b: Tensor, route: Route, *trained: Tensor
    ) -> Tensor:
        flat = inputs.reshape(-1, inputs.shape[-1])  # (batch * seq, in)
        projected = flat @ a.t()  # (batch * seq, rank)
        outputs = flat @ weight.t()  # (batch * seq, out)
        outputs.addmm_(projected, b.t())
        ctx.route, ctx.trained = route, len(trained)
        ctx.save_for_backward(inputs, weight, a, b, projected)
        return outputs.view(*inputs.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, a, b, projected = ctx.saved_tensors
        batch, seq = inputs.shape[:2]
        ctx.route(inputs, projected.view(batch, seq, -1), upstream)
        grad_inputs = None
        if ctx.needs_input_grad[0]:
            flat = upstream.reshape(batch * seq, -1)  # (batch * seq, out)
            grad_inputs = flat @ weight  # (batch * seq, in)
            grad_inputs.addmm_(flat @ b, a)
            grad_inputs = grad_inputs.view_as(inputs)
        return (grad_inputs, *([None] * (4 + ctx.trained)))


def low_rank_linear(
    inputs: Tensor, weight: Tensor, a: Tensor, b: Tensor, route: Route, trained: Sequence[Tensor]
) -> Tensor:
    """A frozen linear map with a low-rank correction; its backward hands the pieces of each example to `route`.

    Per-example gradients cost what the summed ones cost: one batched product of rank columns instead of one plain
    product (measured 1.00003 times the FLOPs; docs/benchmarks.md). Gram products, as in ghost clipping, would be dearer
    here because the rank is far below the sequence length.

    Args:
        inputs: Shape (batch, seq, in).
        weight: Frozen, shape (out, in).
        a: Shape (rank, in).
        b: Shape (out, rank).
        route: Called once in backward with (inputs, inputs aᵀ, upstream).
        trained: The tensors that `route` writes gradients of; they keep the graph alive.

    Returns:
        Shape (batch, seq, out).

    Source: LoRA, arXiv:2106.09685, section 4.1.
    """
    result: Tensor = _LowRankLinear.apply(inputs, weight, a, b, route, *trained)  # type: ignore[no-untyped-call]
    return result


class _FrozenHeadLoss(torch.autograd.Function):
    """Per-example cross-entropy against a frozen head, `chunk` positions at a time; the gradient is made in forward."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor, chunk: int) -> Tensor:
        flat, wanted = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)  # (batch * seq, width)
        scale = weights.to(hidden.dtype).reshape(-1)  # Loss dtype: fp32 weights would round an fp64 check.
        counted = scale.nonzero().squeeze(1)  # Only completion positions ever meet the head.
        losses = torch.zeros_like(scale)
        gradient = torch.zeros_like(flat) if ctx.needs_input_grad[0] else None
        for start in range(0, counted.numel(), chunk):
            rows = counted[start : start + chunk]
            logits = flat[rows] @ head.t()  # (chunk, vocab): the only logits that exist
            log_total = torch.logsumexp(logits, dim=1)
            losses[rows] = (log_total - logits.gather(1, wanted[rows, None]).squeeze(1)) * scale[rows]
            if gradient is not None:
                logits.sub_(log_total[:, None]).exp_()
                logits[torch.arange(rows.numel()), wanted[rows]] -= 1
                gradient[rows] = (logits @ head).mul_(scale[rows, None])
        if gradient is not None:
            ctx.save_for_backward(gradient.view_as(hidden))
        return losses.view(targets.shape).sum(dim=1)  # (batch,)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[:, None, None], None, None, None, None


def frozen_head_loss(hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor, *, chunk: int = 256) -> Tensor:
    """Weighted cross-entropy of each example against a frozen output head, in nats.

    No (batch, seq, vocab) tensor is ever held: positions of weight zero never meet the head, the others meet it `chunk`
    at a time, and their gradient is formed at once.

    Args:
        hidden: Final hidden states, shape (batch, seq, width).
        head: Frozen output matrix, shape (vocab, width).
        targets: Next token of each position, shape (batch, seq).
        weights: Weight of each position, shape (batch, seq); 0 leaves it out.
        chunk: Positions a block; memory is chunk times vocab numbers.

    Returns:
        Shape (batch,): the sum over positions of weight times loss. Never reduced over the batch: a mean over the batch
        lets one example rescale its neighbours before clipping (docs/sharp_edges.md).
    """
    result: Tensor = _FrozenHeadLoss.apply(hidden, head, targets, weights, chunk)  # type: ignore[no-untyped-call]
    return result
