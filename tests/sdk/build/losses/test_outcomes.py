"""Top-k with a rest: the same number as all outcomes where k is all, never more, and never without the rest."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sdk.build.losses import TopK, coarse_student, coarse_teacher, forward_kl, jensen_shannon, outcomes, reverse_kl

VOCABULARY = 13


def logits(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def top(values: Tensor, k: int) -> TopK:
    log_probs, ids = torch.log_softmax(values, -1).topk(k, -1)
    return TopK(ids=ids, log_probs=log_probs, rest=1 - log_probs.exp().sum(-1))


def coarse(student: Tensor, teacher: TopK) -> tuple[Tensor, Tensor]:
    return coarse_student(student, teacher.ids)[0], coarse_teacher(teacher, student.shape[-1])


@pytest.mark.parametrize("loss", [forward_kl, reverse_kl, jensen_shannon])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_all_outcomes_listed_are_the_dense_divergence(loss: object, temperature: float) -> None:
    student, teacher = logits(0, 5, VOCABULARY), logits(1, 5, VOCABULARY)
    ours, theirs = coarse(student, top(teacher, VOCABULARY))
    found = loss(ours, theirs, temperature=temperature)  # type: ignore[operator]
    dense = loss(student, teacher, temperature=temperature)  # type: ignore[operator]
    assert found.tolist() == pytest.approx(dense.tolist(), rel=1e-10)


@given(st.integers(0, 10_000))
def test_merging_outcomes_never_raises_a_divergence(seed: int) -> None:
    student, teacher = logits(seed, 4, VOCABULARY), logits(seed + 1, 4, VOCABULARY)
    for loss in (forward_kl, reverse_kl, jensen_shannon):
        found = [loss(*coarse(student, top(teacher, k))) for k in (1, 4, 8, VOCABULARY)]
        for fewer, more in pairwise(found):
            assert bool((fewer <= more + 1e-12).all())


def test_the_student_is_merged_as_a_sum_over_the_rest_says() -> None:
    student, ids = logits(0, 2, 3, VOCABULARY), top(logits(1, 2, 3, VOCABULARY), 4).ids
    q = student.softmax(-1)
    listed = q.gather(-1, ids)
    wanted = torch.cat([listed, 1 - listed.sum(-1, keepdim=True)], -1).log()
    found, total = coarse_student(student, ids)
    assert torch.allclose(found, wanted, atol=1e-9)
    assert torch.allclose(total, student.logsumexp(-1), atol=1e-12)


def test_the_rest_of_a_sure_student_keeps_its_digits_in_float32() -> None:
    student = torch.tensor([[40.0, 0.0, -1.0, 1.0]])
    ids = torch.tensor([[0]])
    found = coarse_student(student, ids)[0][0, 1].item()
    exact = coarse_student(student.double(), ids)[0][0, 1].item()
    assert found == pytest.approx(exact, rel=1e-6)
    assert 1 - student.softmax(-1)[0, 0].item() == 0.0  # What subtraction would have made of it.


@pytest.mark.parametrize("k", [1, 4, VOCABULARY])
def test_gradients_are_those_of_finite_differences(k: int) -> None:
    teacher = top(logits(1, 3, VOCABULARY), k)

    def loss(student: Tensor) -> Tensor:
        ours, theirs = coarse(student, teacher)
        return forward_kl(ours, theirs) + reverse_kl(ours, theirs, 2.0) + jensen_shannon(ours, theirs)

    assert torch.autograd.gradcheck(loss, logits(0, 3, VOCABULARY).requires_grad_())


def test_a_cache_in_fp16_and_int16_sums_to_one_again() -> None:
    teacher = top(logits(1, 5, VOCABULARY), 4)
    cached = TopK(ids=teacher.ids.short(), log_probs=teacher.log_probs.half(), rest=teacher.rest.half())
    told = coarse_teacher(cached, VOCABULARY)
    assert told.dtype == torch.float32
    assert told.exp().sum(-1).tolist() == pytest.approx([1.0] * 5, abs=1e-6)
    assert torch.equal(coarse_student(logits(0, 5, VOCABULARY), cached.ids)[0], coarse(logits(0, 5, 13), teacher)[0])


def test_a_rest_of_zero_is_an_outcome_that_costs_nothing() -> None:
    teacher = top(logits(1, 3, VOCABULARY), 4)
    sure = TopK(ids=teacher.ids, log_probs=torch.log_softmax(teacher.log_probs, -1), rest=torch.zeros(3).double())
    student = logits(0, 3, VOCABULARY).requires_grad_()
    loss = forward_kl(*coarse(student, sure)).sum()
    (slope,) = torch.autograd.grad(loss, student)
    assert bool(loss.isfinite())
    assert bool(slope.isfinite().all())


def leak(student: Tensor, teacher: TopK) -> float:
    """How much the loss rises where a student moves mass from the listed tokens to others."""
    away = student.clone().scatter_add_(-1, teacher.ids, torch.full_like(teacher.log_probs, -2.0))
    return float((forward_kl(*coarse(away, teacher)) - forward_kl(*coarse(student, teacher))).sum())


def test_mass_outside_the_listed_tokens_is_seen() -> None:
    teacher = top(logits(1, 5, VOCABULARY), 4)
    assert leak(logits(1, 5, VOCABULARY), teacher) > 0.1


def test_a_dropped_rest_lets_mass_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = top(logits(1, 5, VOCABULARY), 4)
    monkeypatch.setattr("sdk.build.losses.outcomes.coarse_teacher", _without_rest_teacher)
    monkeypatch.setitem(globals(), "coarse_teacher", outcomes.coarse_teacher)
    monkeypatch.setitem(globals(), "coarse_student", _without_rest_student)
    assert abs(leak(logits(1, 5, VOCABULARY), teacher)) < 1e-9


def _without_rest_teacher(teacher: TopK, _: int) -> Tensor:
    return torch.log_softmax(teacher.log_probs, -1)


def _without_rest_student(student: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    return torch.log_softmax(student.gather(-1, ids), -1), student.logsumexp(-1)
