"""Divergences against sums over outcomes written out, in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sdk.build.losses import cross_entropy, divergence, forward_kl, jensen_shannon, reverse_kl

TEMPERATURES = (0.5, 1.0, 3.0)


def logits(seed: int, *shape: int, spread: float = 3.0) -> Tensor:
    return spread * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def written_out(student: Tensor, teacher: Tensor, temperature: float, beta: float) -> dict[str, list[float]]:
    """The three divergences of each row with Python floats."""

    def softened(row: list[float]) -> list[float]:
        weights = [math.exp(value / temperature) for value in row]
        return [weight / sum(weights) for weight in weights]

    def kl(first: list[float], second: list[float]) -> float:
        return sum(a * math.log(a / b) for a, b in zip(first, second, strict=True))

    made: dict[str, list[float]] = {"forward": [], "reverse": [], "jensen": []}
    for mine, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = softened(mine), softened(theirs)
        mixed = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
        made["forward"].append(temperature**2 * kl(p, q))
        made["reverse"].append(temperature**2 * kl(q, p))
        made["jensen"].append(temperature**2 * (beta * kl(p, mixed) + (1 - beta) * kl(q, mixed)))
    return made


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_divergences_are_the_sums_of_their_formulas(temperature: float, beta: float) -> None:
    student, teacher = logits(0, 6, 11), logits(1, 6, 11)
    wanted = written_out(student, teacher, temperature, beta)
    assert forward_kl(student, teacher, temperature).tolist() == pytest.approx(wanted["forward"], rel=1e-10)
    assert reverse_kl(student, teacher, temperature).tolist() == pytest.approx(wanted["reverse"], rel=1e-10)
    assert jensen_shannon(student, teacher, beta, temperature).tolist() == pytest.approx(wanted["jensen"], rel=1e-10)


def test_cross_entropy_is_minus_the_log_probability_of_the_target() -> None:
    student, targets = logits(0, 2, 3, 11), torch.arange(6).view(2, 3)
    wanted = [
        -(row[target] - math.log(sum(map(math.exp, row))))
        for row, target in zip(student.flatten(0, 1).tolist(), targets.flatten().tolist(), strict=True)
    ]
    assert cross_entropy(student, targets).flatten().tolist() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("loss", [forward_kl, reverse_kl, jensen_shannon])
def test_gradients_are_those_of_finite_differences(loss: object) -> None:
    student = logits(0, 3, 7).requires_grad_()
    for temperature in TEMPERATURES:
        options = {"temperature": temperature}
        assert torch.autograd.gradcheck(lambda z, o=options: loss(z, logits(1, 3, 7), **o), student)  # type: ignore[operator]


@given(st.integers(0, 10_000), st.sampled_from(TEMPERATURES), st.floats(0.05, 0.95))
def test_divergences_have_no_sign_no_offset_and_vanish_between_equals(
    seed: int, temperature: float, beta: float
) -> None:
    student, teacher = logits(seed, 4, 9), logits(seed + 1, 4, 9)
    losses: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
        lambda q, p: forward_kl(q, p, temperature),
        lambda q, p: reverse_kl(q, p, temperature),
        lambda q, p: jensen_shannon(q, p, beta, temperature),
    )
    for loss in losses:
        found = loss(student, teacher)
        assert bool((found >= 0).all())
        assert loss(student + 5.0, teacher - 7.0).tolist() == pytest.approx(found.tolist(), rel=1e-9)
        order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
        assert loss(student[:, order], teacher[:, order]).tolist() == pytest.approx(found.tolist(), rel=1e-9)
        assert loss(student, student + 2.0).abs().max() < 1e-12
    ceiling = -(temperature**2) * (beta * math.log(beta) + (1 - beta) * math.log(1 - beta))
    assert bool((jensen_shannon(student, teacher, beta, temperature) <= ceiling + 1e-12).all())
    swapped = jensen_shannon(teacher, student, 1 - beta, temperature)
    assert swapped.tolist() == pytest.approx(jensen_shannon(student, teacher, beta, temperature).tolist(), rel=1e-9)


def test_jensen_shannon_tends_to_either_kl() -> None:
    student, teacher, little = logits(0, 5, 9), logits(1, 5, 9), 1e-9
    near_forward = jensen_shannon(student, teacher, little) / little
    near_reverse = jensen_shannon(student, teacher, 1 - little) / little
    assert near_forward.tolist() == pytest.approx(forward_kl(student, teacher).tolist(), rel=1e-4)
    assert near_reverse.tolist() == pytest.approx(reverse_kl(student, teacher).tolist(), rel=1e-4)


def test_an_impossible_outcome_adds_nothing_and_no_nan() -> None:
    teacher = torch.tensor([[1.0, 2.0, float("-inf")]], dtype=torch.float64)
    student = logits(0, 1, 3).requires_grad_()
    losses = [forward_kl(student, teacher), reverse_kl(student, teacher), jensen_shannon(student, teacher)]
    (slope,) = torch.autograd.grad(torch.stack(losses).sum(), student)
    assert all(bool(loss.isfinite().all()) for loss in losses)
    assert bool(slope.isfinite().all())
    p = teacher.softmax(-1)[0, :2]
    wanted = (p * (p.log() - torch.log_softmax(student, -1)[0, :2])).sum().item()
    assert losses[0].item() == pytest.approx(wanted, rel=1e-12)


def slope_sizes() -> list[float]:
    """Size of the gradient at a high temperature over that at twice as high."""
    student, sizes = logits(0, 200, 50, spread=1.0).requires_grad_(), []
    for temperature in (20.0, 40.0):
        loss = forward_kl(student, logits(1, 200, 50, spread=1.0), temperature).sum()
        sizes.append(float(torch.autograd.grad(loss, student)[0].norm()))
    return sizes


def test_the_gradient_keeps_its_size_while_the_temperature_changes() -> None:
    warm, hot = slope_sizes()
    assert warm / hot == pytest.approx(1.0, rel=0.05)


def test_a_divergence_without_the_square_of_its_temperature_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = divergence._kl
    softened = divergence.tempered
    seen: list[float] = []

    def noted(values: Tensor, temperature: float) -> Tensor:
        seen.append(temperature)
        return softened(values, temperature)

    monkeypatch.setattr(divergence, "tempered", noted)
    monkeypatch.setattr(divergence, "_kl", lambda first, second: whole(first, second) / seen[-1] ** 2)
    warm, hot = slope_sizes()
    assert warm / hot == pytest.approx(4.0, rel=0.2)
    found = forward_kl(logits(0, 6, 11), logits(1, 6, 11), 3.0).tolist()
    assert found != pytest.approx(written_out(logits(0, 6, 11), logits(1, 6, 11), 3.0, 0.5)["forward"], rel=1e-3)
