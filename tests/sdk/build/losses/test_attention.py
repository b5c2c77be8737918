"""Attention transfer against sums written out, and on a real model's maps."""

import math

import pytest
import torch
from torch import Tensor

from sdk.build.losses import attention_kl, value_relations
from tests.tiny import tiny_model

WEIGHTS = torch.tensor([[1.0, 1, 0, 2], [1, 0.5, 1, 1]]).double()


def values(seed: int, size: int = 6) -> Tensor:
    return 2 * torch.randn(2, 4, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_relations_and_their_divergence_are_the_sums_of_their_formulas() -> None:
    student, teacher = (value_relations(values(seed), heads=3) for seed in (0, 1))
    first = values(0)[0, 2]  # The first part's scores of position 2 at positions 0 to 2.
    scores = [
        math.exp(sum((values(0)[0, 2, :2] * values(0)[0, past, :2]).tolist()) / math.sqrt(2)) for past in range(3)
    ]
    assert first.shape == (6,)
    assert student[0, 0, 2].tolist() == pytest.approx([*(score / sum(scores) for score in scores), 0.0], rel=1e-9)
    wanted = 0.0
    for row in range(2):
        for head in range(3):
            for place in range(4):
                for past in range(place + 1):
                    a, b = teacher[row, head, place, past].item(), student[row, head, place, past].item()
                    wanted += WEIGHTS[row, place].item() * a * math.log(a / b) / 3
    assert attention_kl(student, teacher, WEIGHTS).item() == pytest.approx(wanted, rel=1e-9)


def test_the_gradient_is_that_of_finite_differences_and_the_teacher_gets_none() -> None:
    teacher = value_relations(values(1), heads=2).requires_grad_()

    def loss(made: Tensor) -> Tensor:
        return attention_kl(value_relations(made, heads=2), teacher, WEIGHTS)

    student = values(0).requires_grad_()
    assert torch.autograd.gradcheck(loss, student)
    assert torch.autograd.grad(loss(student), teacher, allow_unused=True)[0] is None


def test_equal_attention_costs_nothing_and_other_attention_something() -> None:
    one, other = (value_relations(values(seed), heads=2) for seed in (0, 1))
    assert attention_kl(one, one, WEIGHTS).item() == pytest.approx(0.0, abs=1e-12)
    assert attention_kl(one, other, WEIGHTS).item() > 0.1


def test_relations_let_models_of_other_widths_and_heads_be_compared() -> None:
    student, teacher = value_relations(values(0, 6), heads=2), value_relations(values(1, 16), heads=2)
    assert attention_kl(student, teacher, WEIGHTS).isfinite()


def test_other_numbers_of_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="2 heads cannot look like the teacher's 3"):
        attention_kl(value_relations(values(0), heads=2), value_relations(values(1), heads=3), WEIGHTS)


def test_a_real_models_maps_have_a_finite_gradient() -> None:
    student, teacher = tiny_model(seed=0), tiny_model(seed=1)
    for model in (student, teacher):
        model.set_attn_implementation("eager")
    tokens = torch.arange(8).view(2, 4)
    mine, theirs = (model(tokens, output_attentions=True).attentions[-1] for model in (student, teacher))
    loss = attention_kl(mine, theirs, WEIGHTS.float())
    loss.backward()
    slope = student.model.layers[-1].self_attn.q_proj.weight.grad
    assert slope is not None
    assert bool(slope.isfinite().all())
    assert slope.abs().max() > 0
    assert teacher.model.layers[-1].self_attn.q_proj.weight.grad is None
