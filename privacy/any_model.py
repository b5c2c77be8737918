"""Any torch model and a loss in, per-example losses whose backward leaves per-example gradients out.

The model is run as a function of its parameters and differentiated one example at a time (torch.func), so no layer
needs a hook. That costs memory for a gradient of each example, and more time than the hand-written layers of
`privacy.per_example`; in return it takes whatever torch can map over examples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from privacy.dp_sgd import require_independent_examples
from privacy.errors import LossShapeError, UnsupportedLayerError
from privacy.per_example import add_grad_sample

__all__ = ["per_example_losses"]

Loss = Callable[[Any, Tensor], Tensor]
"""What the model made of a batch of one, and its target of shape (1, …), in; one number out."""


class _Losses(torch.autograd.Function):
    """Hands the gradients that came with the losses to the parameters, each scaled by what comes from above."""

    @staticmethod
    def forward(ctx: Any, losses: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients, ctx.parameters = gradients, parameters
        return losses.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, ...]:
        for parameter, gradient in zip(ctx.parameters, ctx.gradients, strict=True):
            scale = upstream.to(gradient.dtype).view(-1, *([1] * (gradient.dim() - 1)))
            add_grad_sample(parameter, scale * gradient)
        return (None,) * (2 + len(ctx.parameters))


def per_example_losses(model: nn.Module, loss: Loss) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function from inputs and targets, both (batch, …), to losses (batch,), as `DpSgd.step` needs them.

    Every parameter that requires a gradient is trained; freeze the others.

    Args:
        model: Any module that takes one tensor. Randomness inside it, such as dropout that is switched on, is refused.
        loss: Of a batch of one; must not look at anything but its arguments.

    Raises:
        UnsupportedLayerError: A layer mixes examples, nothing can be trained, or torch cannot map a layer over
            examples; the last is found at the first call.
        LossShapeError: The loss of one example is not one number; found at the first call.

    Source: torch.func; the same gradients as one backward for each example.
    """
    require_independent_examples(model)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if not trained:
        raise UnsupportedLayerError("no parameter of the model requires a gradient, so there is nothing to train")

    def one(numbers: dict[str, Tensor], given: Tensor, target: Tensor) -> Tensor:
        made = functional_call(model, numbers, (given[None],))
        value = loss(made, target[None])
        if value.numel() != 1:
            raise LossShapeError(f"the loss of one example must be one number, got shape {tuple(value.shape)}")
        return value.reshape(())

    mapped = vmap(grad_and_value(one), in_dims=(None, 0, 0), randomness="error")

    def losses_of(inputs: Tensor, targets: Tensor) -> Tensor:
        if len(inputs) != len(targets):
            raise LossShapeError(f"{len(inputs)} inputs but {len(targets)} targets; give one for each example")
        try:
            gradients, losses = mapped({name: value.detach() for name, value in trained.items()}, inputs, targets)
        except RuntimeError as cause:
            raise UnsupportedLayerError(
                f"a layer cannot be mapped over examples ({str(cause)[:80]}); freeze it, or give its gradients yourself"
            ) from cause
        ordered = [gradients[name] for name in trained]
        found: Tensor = _Losses.apply(losses.detach(), ordered, *trained.values())  # type: ignore[no-untyped-call]
        return found

    return losses_of
