"""Autograd functions that leave one gradient per example, against torch's own autograd one example at a time."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from privacy.per_example import add_grad_sample, frozen_head_loss, low_rank_linear, take_grad_sample

BATCH, SEQ, IN, OUT, RANK, VOCAB = 3, 5, 7, 6, 2, 11


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def route_to(a: Tensor, b: Tensor) -> Callable[[Tensor, Tensor, Tensor], None]:
    """Per-example gradients of A and B, as plain LoRA has them."""

    def route(inputs: Tensor, projected: Tensor, upstream: Tensor) -> None:
        add_grad_sample(a, torch.bmm((upstream @ b.detach()).transpose(1, 2), inputs))
        add_grad_sample(b, torch.bmm(upstream.transpose(1, 2), projected))

    return route


def test_the_low_rank_map_is_w_x_plus_b_a_x_with_the_gradient_of_its_inputs() -> None:
    weight, a, b = numbers(OUT, IN), numbers(RANK, IN, seed=1), numbers(OUT, RANK, seed=2)
    inputs = numbers(BATCH, SEQ, IN, seed=3).requires_grad_(True)

    def mapped(value: Tensor) -> Tensor:
        return low_rank_linear(value, weight, a, b, lambda *pieces: None, ())

    torch.testing.assert_close(mapped(inputs), inputs @ (weight + b @ a).t())
    assert torch.autograd.gradcheck(mapped, inputs)


@pytest.mark.parametrize("calls", [1, 2])  # A layer used twice in one step adds up before any norm is taken.
def test_each_example_leaves_the_gradient_it_has_alone(calls: int) -> None:
    weight = numbers(IN, IN)
    a, b = numbers(RANK, IN, seed=1).requires_grad_(True), numbers(IN, RANK, seed=2).requires_grad_(True)
    inputs, upstream = numbers(BATCH, SEQ, IN, seed=3), numbers(BATCH, SEQ, IN, seed=4)
    hidden = inputs
    for _ in range(calls):
        hidden = low_rank_linear(hidden, weight, a.detach(), b.detach(), route_to(a, b), (a, b))
    (hidden * upstream).sum().backward()
    for row in range(BATCH):
        alone = inputs[row]
        for _ in range(calls):
            alone = alone @ (weight + b @ a).t()
        wanted = torch.autograd.grad((alone * upstream[row]).sum(), (a, b))
        for parameter, gradient in zip((a, b), wanted, strict=True):
            torch.testing.assert_close(parameter.grad_sample[row], gradient)  # type: ignore[attr-defined]
    assert a.grad is None, "nothing summed over the batch is left where an optimizer would find it"
    assert b.grad is None


def test_taking_a_gradient_clears_it() -> None:
    parameter = torch.zeros(2)
    assert take_grad_sample(parameter) is None
    add_grad_sample(parameter, torch.ones(3, 2))
    add_grad_sample(parameter, torch.ones(3, 2))
    taken = take_grad_sample(parameter)
    assert taken is not None
    assert torch.equal(taken, torch.full((3, 2), 2.0))
    assert take_grad_sample(parameter) is None


def test_gradients_per_example_cost_the_flops_of_summed_ones() -> None:
    weight, a, b = numbers(64, 64), numbers(4, 64), numbers(64, 4)
    inputs = numbers(8, 32, 64).requires_grad_(True)

    def flops(left: Callable[[Tensor, Tensor], Tensor]) -> int:
        def route(seen: Tensor, projected: Tensor, upstream: Tensor) -> None:
            left(upstream, projected)
            left(upstream @ b, seen)

        with FlopCounterMode(display=False) as counter:
            low_rank_linear(inputs, weight, a, b, route, ()).sum().backward()
        return int(counter.get_total_flops())

    each = flops(lambda one, other: torch.bmm(one.transpose(1, 2), other))
    assert each == flops(lambda one, other: one.flatten(0, 1).t() @ other.flatten(0, 1))


def head_case(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, head, targets and weights with whole rows, single positions and one empty record."""
    targets = torch.randint(0, VOCAB, (BATCH, SEQ), generator=torch.Generator().manual_seed(5))
    weights = torch.tensor([[0, 1, 1, 0.5, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]], dtype=torch.float32)
    return numbers(BATCH, SEQ, IN, dtype=dtype), numbers(VOCAB, IN, seed=6, dtype=dtype), targets, weights


def plain_loss(hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The same by torch: all logits at once."""
    losses = cross_entropy((hidden @ head.t()).transpose(1, 2), targets, reduction="none")
    return (losses * weights.to(losses.dtype)).sum(1)


@given(chunk=st.integers(1, 40))
def test_the_chunked_head_is_cross_entropy_for_any_chunk(chunk: int) -> None:
    hidden, head, targets, weights = head_case()
    hidden.requires_grad_(True)
    losses = frozen_head_loss(hidden, head, targets, weights, chunk=chunk)
    wanted = plain_loss(hidden, head, targets, weights)
    torch.testing.assert_close(losses, wanted, rtol=1e-12, atol=1e-12)
    upstream = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    (ours,) = torch.autograd.grad(losses @ upstream, hidden)
    (theirs,) = torch.autograd.grad(wanted @ upstream, hidden)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_the_chunked_head_passes_the_gradient_check() -> None:
    hidden, head, targets, weights = head_case()
    assert torch.autograd.gradcheck(
        lambda value: frozen_head_loss(value, head, targets, weights, chunk=3), hidden.requires_grad_(True)
    )


def test_a_loss_in_single_precision_stays_in_it() -> None:
    hidden, head, targets, weights = head_case(torch.float32)
    losses = frozen_head_loss(hidden, head, targets, weights, chunk=2)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, plain_loss(hidden, head, targets, weights))


def test_an_empty_record_has_loss_and_gradient_zero() -> None:
    hidden, head, targets, weights = head_case()
    losses = frozen_head_loss(hidden.requires_grad_(True), head, targets, weights)
    (gradient,) = torch.autograd.grad(losses.sum(), hidden)
    assert losses[2] == 0
    assert not gradient[2].any()
    assert not gradient[weights == 0].any()


def test_confident_logits_neither_overflow_nor_vanish() -> None:
    hidden, head, targets, weights = head_case(torch.float32)
    losses = frozen_head_loss(1e4 * hidden, head, targets, weights)
    assert losses.isfinite().all()
    torch.testing.assert_close(losses, plain_loss(1e4 * hidden, head, targets, weights))


class LargestTensor(TorchDispatchMode):
    """Notes the largest tensor that any operation makes, forward or backward."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in made if isinstance(made, tuple | list) else (made,):
            if isinstance(value, Tensor):
                self.numbers = max(self.numbers, value.numel(), value.untyped_storage().nbytes() // value.itemsize)
        return made


def largest_in(loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> tuple[int, int]:
    """Largest tensor of a loss and its backward, beside batch times seq times vocab."""
    batch, seq, width, vocab = 4, 32, 8, 500
    hidden = numbers(batch, seq, width).requires_grad_(True)
    targets = torch.zeros(batch, seq, dtype=torch.long)
    with LargestTensor() as largest:
        loss(hidden, numbers(vocab, width), targets, torch.ones(batch, seq)).sum().backward()
    return largest.numbers, batch * seq * vocab


def test_no_tensor_of_batch_times_seq_times_vocab_ever_exists() -> None:
    largest, all_logits = largest_in(lambda *case: frozen_head_loss(*case, chunk=16))
    assert largest == 16 * 500
    assert largest < all_logits


def test_a_loss_over_all_logits_is_caught_by_the_same_check() -> None:
    largest, all_logits = largest_in(plain_loss)
    assert largest >= all_logits
