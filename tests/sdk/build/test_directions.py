"""Directions are checked on made-up people whose differences are known."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from personalize.trainable import Basis
from sdk.build import directions as module
from sdk.build.directions import Seen, directions_of
from sdk.errors import BasisError

PEOPLE, RECORDS, NUMBERS, DIFFERENCES = 40, 24, 2000, 5
SHAPES = {"site": torch.Size([40, 50])}


def crowd(*, apart: float = 1.0) -> list[Seen]:
    """People who differ along five directions of two thousand, seen through noisy records."""
    generator = torch.Generator().manual_seed(0)
    ways = 3 * torch.linalg.qr(torch.randn(NUMBERS, DIFFERENCES, generator=generator))[0].t()
    people = []
    for _ in range(PEOPLE):
        person = apart * torch.randn(1, DIFFERENCES, generator=generator) @ ways
        rows = person + 0.1 * torch.randn(RECORDS, NUMBERS, generator=generator)
        people.append(Seen(first=rows[0::2].mean(0), second=rows[1::2].mean(0), singles=rows[:12].half()))
    return people


def singles_of(people: list[Seen]) -> Tensor:
    return torch.cat([person.singles.float() for person in people])


def found(count: int = 20) -> Basis:
    return directions_of(crowd(), SHAPES, count=count)


def test_as_many_directions_stand_out_as_people_differ_in() -> None:
    basis = found()
    assert bool((basis.variance[:-1] >= basis.variance[1:]).all())
    assert float(basis.variance[DIFFERENCES - 1] / basis.variance[DIFFERENCES]) > 20


def most_found_where_nobody_differs() -> float:
    alike = crowd(apart=0.0)
    return float(module._apart(module._axes(singles_of(alike), 40), *module._halves(alike)).max())


def test_the_noise_of_records_does_not_pass_for_people() -> None:
    assert most_found_where_nobody_differs() < 0.05


def test_one_half_alone_would_let_it_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_apart", lambda axes, first, second: ((first @ axes.t()) ** 2).mean(0))
    assert most_found_where_nobody_differs() > 0.05


def test_halves_that_agree_along_nothing_are_refused() -> None:
    torn = [replace(person, second=-person.first) for person in crowd()]
    with pytest.raises(BasisError, match="no public person agree"):
        directions_of(torn, SHAPES, count=20)


def test_axes_that_judge_the_people_who_made_them_are_scaled_down() -> None:
    """Each person has a way of their own, which nobody else moves along: nothing is learned of the next person."""
    generator = torch.Generator().manual_seed(1)
    people = []
    for own in torch.linalg.qr(torch.randn(NUMBERS, PEOPLE, generator=generator))[0].t():
        rows = 3 * own + 0.1 * torch.randn(RECORDS, NUMBERS, generator=generator)
        people.append(Seen(first=rows[0::2].mean(0), second=rows[1::2].mean(0), singles=rows[:12].half()))
    assert module._kindness(people, 40) < 0.1
    assert module._kindness(crowd(), 40) > 0.8


def test_a_record_moves_a_coefficient_by_about_one_unit() -> None:
    basis = found(4)
    seen = singles_of(crowd()) @ basis.directions["site"].flatten(1).t()  # (records, count)
    assert seen.square().mean().sqrt().item() == pytest.approx(1.0, rel=0.05)


def test_no_more_directions_than_asked_for() -> None:
    assert len(found(3)) == 3
