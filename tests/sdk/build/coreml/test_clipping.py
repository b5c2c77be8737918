"""No norm is reported too small by the worst unit of float32 or float16, and the program finds out which it has."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sdk.build.coreml import clipping
from sdk.build.coreml.clipping import FLOOR, SLACK, clipped_sums, norm_bounds, tight_bounds, wide_bounds

LIMIT = torch.tensor([0.5])
SMALLEST_NORMAL = {torch.float16: 2.0**-14, torch.float32: 2.0**-126}


class WorstUnit(TorchFunctionMode):
    """Computes in `kind` at its worst: truncates every result, adds one by one, flushes subnormal numbers to zero."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.kind = kind

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.sum, Tensor.mean):
            values, axis = args
            total = torch.zeros_like(values.select(axis, 0))
            for column in values.unbind(axis):
                total = self.cut(total.double() + column.double())
            return self.cut(total.double() / values.shape[axis]) if func is Tensor.mean else total
        wide = [arg.double() if isinstance(arg, Tensor) and arg.is_floating_point() else arg for arg in args]
        found = func(*wide, **(kwargs or {})) if func in EXACT else func(*args, **(kwargs or {}))
        return self.cut(found) if isinstance(found, Tensor) and found.is_floating_point() else found

    def cut(self, exact: Tensor) -> Tensor:
        """Float64 in, the next number of the kind towards zero out, as float32."""
        near = exact.to(self.kind)
        lower = torch.where(near.double().abs() > exact.abs(), torch.nextafter(near, torch.zeros_like(near)), near)
        return torch.where(lower.abs() < SMALLEST_NORMAL[self.kind], torch.zeros_like(lower), lower).float()


EXACT: set[Callable[..., Any]] = {
    Tensor.mul, Tensor.__mul__, Tensor.__rmul__, Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.sub,
    Tensor.__sub__, Tensor.div, Tensor.__truediv__, Tensor.pow, Tensor.__pow__, Tensor.sqrt, torch.sqrt,
}  # fmt: skip
"""What is computed in float64 before it is cut."""

HARD = {
    "all equal": torch.ones(1, 40_000),
    "one large among small": torch.cat((torch.ones(1, 1), torch.full((1, 40_000), 7e-3)), 1),
    "just under what is flushed": torch.cat((torch.ones(1, 1), torch.full((1, 1_000_000), 4.8e-4)), 1),
    "a slow fall": torch.logspace(0, -4, 40_000)[None],
    "largest numbers": torch.full((1, 4_000), 900.0),
    "tiny": torch.full((1, 5_000), 1e-5),
    "odd squares": torch.full((1, 33_000), 1.0009765625),
    "gaussian": torch.randn(1, 40_000, generator=torch.Generator().manual_seed(0)),
}
"""Gradients of one record, float16 numbers, that a norm in low precision gets wrong."""
HARD = {name: values.half().float() for name, values in HARD.items()}


def short(bounds: Callable[[Tensor], Tensor], kind: torch.dtype) -> list[str]:
    """Gradients whose norm is reported too small."""
    found = []
    for name, values in HARD.items():
        with WorstUnit(kind):
            bound = bounds(values)
        if float(bound.double()) < float(values.double().norm()):
            found.append(name)
    return found


def chosen(values: Tensor) -> Tensor:
    return norm_bounds(values, LIMIT)


@pytest.mark.parametrize("kind", [torch.float16, torch.float32])
def test_no_norm_is_reported_too_small_by_the_worst_unit(kind: torch.dtype) -> None:
    assert short(chosen, kind) == []


def test_the_tight_bound_alone_is_not_enough_in_float16() -> None:
    assert short(tight_bounds, torch.float16)


def test_the_program_finds_out_how_it_is_computed() -> None:
    values = HARD["gaussian"]
    assert torch.equal(chosen(values), tight_bounds(values))
    with WorstUnit(torch.float16):
        assert torch.equal(chosen(values), wide_bounds(values))
    for limit in (0.0, float("inf"), float("nan")):  # Whoever gives no limit gets the bound that holds everywhere.
        assert torch.equal(norm_bounds(values, torch.tensor([limit])), wide_bounds(values))


@pytest.mark.parametrize(
    ("part", "nothing", "kind"),
    [("FLUSHED", 0.0, torch.float16), ("LOST", 0.0, torch.float16), ("SLACK", 0.0, torch.float32)],
)
def test_each_part_of_the_bounds_is_needed(
    part: str, nothing: float, kind: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clipping, "RESERVE", 1.0)  # It is for what comes after the norm.
    monkeypatch.setattr(clipping, "FLOOR", 0.0)
    monkeypatch.setattr(clipping, part, nothing)
    assert short(chosen, kind)


def test_the_bounds_lose_little() -> None:
    for name, values in HARD.items():
        exact = float(values.double().norm())
        assert float(tight_bounds(values)) <= exact * (1 + 2 * SLACK) + 2 * FLOOR
        if name not in ("tiny", "just under what is flushed"):
            assert float(wide_bounds(values)) <= 1.35 * exact  # Costs utility, never privacy.


@pytest.mark.parametrize("kind", [torch.float16, torch.float32])
@pytest.mark.parametrize("name", [name for name, values in HARD.items() if values.numel() < 100_000])
def test_eight_equal_records_move_the_sum_by_no_more_than_eight_limits(name: str, kind: torch.dtype) -> None:
    """The worst for a sum: all point the same way, so no rounding is made up for by another."""
    values = HARD[name].expand(8, -1)
    with WorstUnit(kind):
        total, _ = clipped_sums(values, LIMIT)
    assert float(total.double().norm()) <= 8 * float(LIMIT)


def test_a_clip_by_a_norm_that_is_too_small_turns_that_test_red(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clipping, "wide_bounds", tight_bounds)
    with WorstUnit(torch.float16):
        total, _ = clipped_sums(HARD["one large among small"].expand(8, -1), LIMIT)
    assert float(total.double().norm()) > 8 * float(LIMIT)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e25])
def test_a_record_without_a_finite_norm_is_left_out(bad: float) -> None:
    rows = torch.ones(3, 100)
    rows[1, 7] = bad
    total, norms = clipped_sums(rows, torch.tensor([1.0]))
    alone, _ = clipped_sums(rows[[0, 2]], torch.tensor([1.0]))
    assert torch.equal(total, alone)
    assert float(norms[0]) == float(norms[2])


def test_a_gradient_of_zeros_stays_zero() -> None:
    total, norms = clipped_sums(torch.zeros(2, 50), LIMIT)
    assert torch.equal(total, torch.zeros(50))
    assert bool((norms > 0).all())
