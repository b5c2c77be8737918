"""The chunked head against the same loss with all logits at once."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sdk.build.losses import (
    Dense,
    HeadLoss,
    LossWeights,
    TopK,
    cross_entropy,
    forward_kl,
    head,
    head_loss,
    jensen_shannon,
    reverse_kl,
    self_distillation,
)

BATCH, SEQ, WIDTH, VOCABULARY = 2, 7, 5, 12
ALL = LossWeights(cross_entropy=0.5, forward_kl=1.0, reverse_kl=0.25, jensen_shannon=2.0, beta=0.3, temperature=2.0)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


HIDDEN, HEAD = normal(0, BATCH, SEQ, WIDTH), normal(1, VOCABULARY, WIDTH)
TEACHER = Dense(hidden=normal(2, BATCH, SEQ, 3), head=2 * normal(3, VOCABULARY, 3))
TARGETS = torch.arange(BATCH * SEQ).view(BATCH, SEQ) % VOCABULARY
WEIGHTS = torch.tensor([[0.0, 1, 1, 1, 0, 0, 0], [1, 0.5, 1, 2, 1, 1, 0]]).double()


def top(k: int) -> TopK:
    log_probs, ids = torch.log_softmax(TEACHER.logits(slice(None)), -1).topk(k, -1)
    return TopK(ids=ids, log_probs=log_probs, rest=1 - log_probs.exp().sum(-1))


def at_once(hidden: Tensor, head_rows: Tensor) -> Tensor:
    """The loss of ALL with all logits in memory."""
    ours, theirs = hidden @ head_rows.t(), TEACHER.logits(slice(None))
    made = 0.5 * cross_entropy(ours, TARGETS) + forward_kl(ours, theirs, 2.0) + 0.25 * reverse_kl(ours, theirs, 2.0)
    return ((made + 2.0 * jensen_shannon(ours, theirs, 0.3, 2.0)) * WEIGHTS).sum()


def chunked(hidden: Tensor, head_rows: Tensor, **options: Any) -> HeadLoss:
    given: dict[str, Any] = {"mix": ALL, "weights": WEIGHTS, "targets": TARGETS, "teacher": TEACHER} | options
    return head_loss(hidden, head_rows, **given)


@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("teacher", [TEACHER, top(VOCABULARY), Dense(hidden=TEACHER.logits(slice(None)))])
def test_chunks_give_the_value_and_the_gradients_of_all_at_once(chunk: int, teacher: TopK | Dense) -> None:
    hidden, rows = HIDDEN.clone().requires_grad_(), HEAD.clone().requires_grad_()
    wanted = at_once(hidden, rows)
    found = chunked(hidden, rows, teacher=teacher, chunk=chunk)
    assert found.total.item() == pytest.approx(wanted.item(), rel=1e-10)
    assert found.count.item() == WEIGHTS.sum().item()
    for mine, theirs in zip(
        torch.autograd.grad(found.total, (hidden, rows)), torch.autograd.grad(wanted, (hidden, rows)), strict=True
    ):
        assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("teacher", [TEACHER, top(4)])
def test_gradients_are_those_of_finite_differences(teacher: TopK | Dense) -> None:
    def loss(hidden: Tensor, rows: Tensor) -> Tensor:
        return 3 * chunked(hidden, rows, teacher=teacher, chunk=4).total

    assert torch.autograd.gradcheck(loss, (HIDDEN.clone().requires_grad_(), HEAD.clone().requires_grad_()))


def test_parts_add_up_to_the_total_under_their_weights() -> None:
    found = chunked(HIDDEN, HEAD, teacher=top(4))
    assert list(found.parts) == list(head.HEAD_TERMS)
    total = sum(getattr(ALL, name) * part for name, part in found.parts.items())
    assert found.total.item() == pytest.approx(float(total), rel=1e-12)


def test_cross_entropy_is_the_same_beside_top_k_and_alone() -> None:
    alone = chunked(HIDDEN, HEAD, mix=LossWeights(cross_entropy=1, forward_kl=0), teacher=None).total.item()
    assert chunked(HIDDEN, HEAD, teacher=top(4)).parts["cross_entropy"].item() == pytest.approx(alone, rel=1e-12)
    assert chunked(HIDDEN, HEAD).parts["cross_entropy"].item() == pytest.approx(alone, rel=1e-12)


def test_a_position_of_weight_zero_changes_nothing_and_gets_no_gradient() -> None:
    hidden = HIDDEN.clone().requires_grad_()
    other = torch.where(WEIGHTS[..., None] > 0, HIDDEN, 100.0).requires_grad_()
    first, second = chunked(hidden, HEAD), chunked(other, HEAD)
    assert first.total.item() == second.total.item()
    (slope,) = torch.autograd.grad(first.total, hidden)
    assert bool((slope[WEIGHTS == 0] == 0).all())
    assert bool((slope[WEIGHTS > 0].abs().sum(-1) > 0).all())


def test_a_batch_split_in_two_adds_up() -> None:
    whole = chunked(HIDDEN, HEAD)
    halves = [
        head_loss(
            HIDDEN[row], HEAD, mix=ALL, weights=WEIGHTS[row], targets=TARGETS[row],
            teacher=Dense(hidden=TEACHER.hidden[row], head=TEACHER.head),
        )
        for row in range(BATCH)
    ]  # fmt: skip
    assert sum(half.total.item() for half in halves) == pytest.approx(whole.total.item(), rel=1e-12)
    assert sum(half.count.item() for half in halves) == whole.count.item()


def test_a_batch_where_nothing_counts_is_zero_with_a_gradient_of_zero() -> None:
    hidden = HIDDEN.clone().requires_grad_()
    found = chunked(hidden, HEAD, weights=torch.zeros(BATCH, SEQ))
    (slope,) = torch.autograd.grad(found.total, hidden)
    assert found.total.item() == found.count.item() == 0.0
    assert bool((slope == 0).all())


def test_a_frozen_head_gets_no_gradient_and_no_gradient_is_made_without_learning() -> None:
    hidden = HIDDEN.clone().requires_grad_()
    loss = chunked(hidden, HEAD).total
    loss.backward()
    assert hidden.grad is not None
    assert not HEAD.requires_grad
    with torch.no_grad():
        assert not chunked(hidden, HEAD).total.requires_grad


def largest(monkeypatch: pytest.MonkeyPatch, positions: int) -> int:
    """Numbers in the largest tensor that the loss looks at on the way."""
    seen: list[int] = []
    whole = head._terms

    def noted(logits: Tensor, *rest: Any) -> dict[str, Tensor]:
        seen.append(logits.numel())
        return whole(logits, *rest)

    monkeypatch.setattr(head, "_terms", noted)
    hidden = torch.randn(positions, WIDTH).requires_grad_()
    mix = LossWeights(cross_entropy=1, forward_kl=0)
    targets, weights = torch.zeros(positions, dtype=torch.long), torch.ones(positions)
    loss = head_loss(hidden, HEAD.float(), mix=mix, weights=weights, targets=targets, chunk=16)
    loss.total.backward()
    return max(seen)


def test_logits_at_once_do_not_grow_with_the_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert largest(monkeypatch, 32) == largest(monkeypatch, 500) == 16 * VOCABULARY


def test_half_precision_is_summed_in_float32() -> None:
    hidden = HIDDEN.bfloat16().requires_grad_()
    teacher = Dense(hidden=TEACHER.logits(slice(None)).float())
    found = chunked(hidden, HEAD.bfloat16(), teacher=teacher)
    assert found.total.dtype == torch.float32
    (slope,) = torch.autograd.grad(found.total, hidden)
    assert slope.dtype == torch.bfloat16
    assert found.total.item() == pytest.approx(at_once(HIDDEN, HEAD).item(), rel=0.03)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"targets": None}, "there are no targets"),
        ({"teacher": None}, "there is no teacher"),
        ({"teacher": Dense(hidden=torch.zeros(BATCH, SEQ, 9))}, "tells 9 tokens, the student has 12"),
        ({"mix": LossWeights(cross_entropy=0, forward_kl=0, features=1)}, "no term of the head"),
    ],
)
def test_a_term_without_its_input_is_refused(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        chunked(HIDDEN, HEAD, **options)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"forward_kl": -1.0}, "forward_kl must be at least 0"),
        ({"features": float("nan")}, "features must be at least 0"),
        ({"cross_entropy": 0.0, "forward_kl": 0.0}, "nothing to learn from"),
        ({"beta": 1.0}, "beta must be in"),
        ({"temperature": 0.0}, "temperature must be in"),
    ],
)
def test_weights_out_of_range_are_refused(options: dict[str, float], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        LossWeights(**options)


def exits() -> tuple[dict[int, Tensor], Tensor, Tensor]:
    shallow = {layer: normal(layer, BATCH, SEQ, WIDTH).requires_grad_() for layer in (4, 5)}
    return shallow, HIDDEN.clone().requires_grad_(), HEAD.clone().requires_grad_()


def test_self_distillation_is_the_mean_over_exits_of_the_divergence_from_the_last_layer() -> None:
    shallow, final, rows = exits()
    found = self_distillation(shallow, final, rows, weights=WEIGHTS, temperature=2.0, chunk=3)
    sums = [(forward_kl(state @ rows.t(), final @ rows.t(), 2.0) * WEIGHTS).sum() for state in shallow.values()]
    assert found.total.item() == pytest.approx(torch.stack(sums).mean().item(), rel=1e-10)
    assert {name: part.item() for name, part in found.parts.items()} == pytest.approx(
        {"4": sums[0].item(), "5": sums[1].item()}, rel=1e-10
    )


def test_the_last_layer_is_not_taught_by_its_pupils() -> None:
    shallow, final, rows = exits()
    loss = self_distillation(shallow, final, rows, weights=WEIGHTS).total
    slopes = torch.autograd.grad(loss, [*shallow.values(), rows, final], allow_unused=True)
    held = final.detach() @ HEAD.t()  # The head learns from the pupils only: its part in the teacher is held too.
    wanted = torch.stack([(forward_kl(state @ rows.t(), held) * WEIGHTS).sum() for state in shallow.values()]).mean()
    for mine, theirs in zip(slopes[:-1], torch.autograd.grad(wanted, [*shallow.values(), rows]), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-11)
    assert slopes[-1] is None


def test_a_teacher_with_a_gradient_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the stop, a head that learns on both sides gets another gradient."""
    shallow, final, rows = exits()
    stopped = torch.autograd.grad(self_distillation(shallow, final, rows, weights=WEIGHTS).total, rows)[0]
    both = torch.stack([(forward_kl(s @ rows.t(), final @ rows.t()) * WEIGHTS).sum() for s in shallow.values()]).mean()
    slopes = torch.autograd.grad(both, (rows, final))
    assert not torch.allclose(stopped, slopes[0], rtol=1e-3)
    assert slopes[1].abs().max() > 0.01
