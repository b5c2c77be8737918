"""One privatised step: what is clipped, what is noised, what divides; and mutants that the checks must catch."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from privacy import dp_sgd, noise
from privacy.dp_sgd import ClippedSum, DpSgd, require_independent_examples
from privacy.errors import EngineError, LossShapeError, StepsExhaustedError, UnsupportedLayerError
from privacy.events import DpSgdRun, Unit
from privacy.per_example import add_grad_sample
from tests.checks import (
    require_each_record_moves_the_sum_by_at_most,
    require_noise_of_the_run,
    require_poisson_batches,
    require_public_divisor,
)
from tests.privacy.linear import Linear, engine, run_of

SOME = Linear(torch.tensor([[3.0, 4.0], [0.3, 0.4], [-6.0, 8.0], [0.0, 0.0]], dtype=torch.float64))
"""Norms 5, 0.5, 10 and 0."""


def silence(shape: tuple[int, ...]) -> Tensor:
    """Noise turned off, so that what it is added to shows."""
    return torch.zeros(shape, dtype=torch.float64)


def sum_of(records: Linear, clip_norm: float, *groups: Sequence[int]) -> Tensor:
    clipped = ClippedSum([records.theta], clip_norm)
    for group in groups:
        clipped.add(records.losses_of(group))
    return clipped.sums[0]


# The clipped sum


def test_each_record_is_clipped_alone_and_a_small_one_not_at_all() -> None:
    norms = ClippedSum([SOME.theta], 2.0).add(SOME.losses_of(range(4)))
    assert norms.tolist() == [5.0, 0.5, 10.0, 0.0]
    wanted = torch.tensor([3 * 0.4 + 0.3 - 6 * 0.2, 4 * 0.4 + 0.4 + 8 * 0.2], dtype=torch.float64)
    torch.testing.assert_close(sum_of(SOME, 2.0, range(4)), wanted, rtol=1e-6, atol=0)


def test_the_norm_is_over_all_parameters_together() -> None:
    one, other = (torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    records = [Linear(torch.tensor([[value]], dtype=torch.float64)) for value in (3.0, 4.0)]
    records[0].theta, records[1].theta = one, other
    clipped = ClippedSum([one, other], 1.0)
    assert clipped.add(records[0].losses_of([0]) + records[1].losses_of([0])).item() == 5.0
    torch.testing.assert_close(
        torch.cat(clipped.sums), torch.tensor([0.6, 0.8], dtype=torch.float64), rtol=1e-6, atol=0
    )


@given(
    rows=st.lists(st.lists(st.integers(-9, 9), min_size=3, max_size=3), min_size=1, max_size=12),
    cuts=st.lists(st.integers(0, 12), max_size=4),
)
def test_microbatches_sum_to_exactly_the_full_batch(rows: list[list[int]], cuts: list[int]) -> None:
    records = Linear(torch.tensor(rows, dtype=torch.float64))
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    groups = [range(first, last) for first, last in pairwise(edges) if first < last]
    unclipped = 100.0  # Whole numbers and no clipping: no rounding anywhere, so equal means equal.
    assert torch.equal(sum_of(records, unclipped, *groups), sum_of(records, unclipped, range(len(rows))))
    torch.testing.assert_close(
        sum_of(records, 2.0, *groups), sum_of(records, 2.0, range(len(rows))), rtol=1e-13, atol=1e-13
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e200])  # The last one's square overflows.
def test_a_record_that_is_not_finite_contributes_zero_and_harms_no_other(bad: float) -> None:
    rows = SOME.rows.clone()
    rows[1] = torch.tensor([bad, 0.4])
    assert torch.equal(sum_of(Linear(rows), 2.0, range(4)), sum_of(SOME, 2.0, [0, 2, 3]))


def test_a_loss_that_is_not_finite_counts_as_a_record_that_is_not() -> None:
    losses = SOME.losses_of(range(4))
    clipped = ClippedSum([SOME.theta], 2.0)
    clipped.add(losses + torch.tensor([0.0, torch.inf, 0.0, 0.0]))
    assert torch.equal(clipped.sums[0], sum_of(SOME, 2.0, [0, 2, 3]))


def test_a_scalar_loss_is_refused_before_any_gradient() -> None:
    clipped = ClippedSum([SOME.theta], 2.0)
    with pytest.raises(LossShapeError, match=r"vector with one entry per example, got shape \(\); do not average"):
        clipped.add(SOME.losses_of(range(4)).mean())
    assert not clipped.sums[0].any()
    assert clipped.examples == 0


def test_a_loss_of_more_dimensions_is_refused() -> None:
    with pytest.raises(LossShapeError, match=r"shape \(2, 2\)"):
        ClippedSum([SOME.theta], 2.0).add(SOME.losses_of(range(4)).view(2, 2))


def test_fewer_losses_than_records_are_refused_and_leave_nothing_behind() -> None:
    clipped = ClippedSum([SOME.theta], 2.0)
    with pytest.raises(LossShapeError, match="2 losses but 4 per-example gradients"):
        clipped.add(SOME.losses_of(range(4)).view(2, 2).sum(1))
    assert not clipped.sums[0].any()
    clipped.add(SOME.losses_of([1]))
    assert clipped.sums[0].tolist() == [0.3, 0.4]


def test_gradients_left_over_from_elsewhere_are_not_added() -> None:
    SOME.losses_of(range(4)).sum().backward()
    add_grad_sample(SOME.theta, torch.full((1, 2), 7.0, dtype=torch.float64).expand(4, 2).clone())
    clipped = ClippedSum([SOME.theta], 2.0)
    clipped.add(SOME.losses_of([1]))
    assert clipped.sums[0].tolist() == [0.3, 0.4]


def test_a_parameter_without_per_example_gradients_is_refused() -> None:
    weight = torch.ones(2, dtype=torch.float64, requires_grad=True)  # Plain autograd: a sum over the batch at best.
    clipped = ClippedSum([weight], 2.0)
    with pytest.raises(UnsupportedLayerError, match=r"shape \(2,\) left no per-example gradient"):
        clipped.add(SOME.rows @ weight)
    assert weight.grad is None
    assert not clipped.sums[0].any()


@given(
    rows=st.lists(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=2), min_size=1, max_size=8),
    clip_norm=st.floats(1e-3, 1e3),
)
def test_no_record_moves_the_sum_by_more_than_the_clip_norm(rows: list[list[float]], clip_norm: float) -> None:
    whole = Linear(torch.tensor(rows, dtype=torch.float64))
    total = sum_of(whole, clip_norm, range(len(rows)))
    for row in range(len(rows)):
        without = Linear(whole.rows.clone())
        without.rows[row] = 0
        moved = (total - sum_of(without, clip_norm, range(len(rows)))).norm().item()
        assert moved <= clip_norm + 1e-12 * len(rows) * clip_norm


# The step


def test_a_step_is_the_noised_sum_over_the_public_batch() -> None:
    def tick(shape: tuple[int, ...]) -> Tensor:
        return torch.arange(1.0, shape[0] + 1, dtype=torch.float64)

    (gradient,) = engine(SOME, gaussian=tick).step(SOME.losses_of)
    wanted = (sum_of(SOME, 2.0, range(4)) + 1.5 * 2.0 * torch.tensor([1.0, 2.0], dtype=torch.float64)) / 4
    assert torch.equal(gradient, wanted)


def test_parameters_of_a_step_share_one_draw_and_keep_their_shapes_and_types() -> None:
    shapes, drawn = [(2, 3), (4,)], []

    def tick(shape: tuple[int, ...]) -> Tensor:
        drawn.append(shape)
        return torch.arange(float(shape[0]), dtype=torch.float64)

    parameters = [torch.zeros(shape, requires_grad=True) for shape in shapes]
    made = DpSgd(
        run_of(noise_multiplier=1.0, clip_norm=1.0), records=1, parameters=parameters, gaussian=tick, coins=never
    )
    gradients = made.step(lambda indices: pytest.fail("an empty batch has no losses"))
    assert drawn == [(10,)]
    assert [(tuple(part.shape), part.dtype) for part in gradients] == [(shape, torch.float32) for shape in shapes]
    assert torch.cat([part.flatten() for part in gradients]).tolist() == list(range(10))


def never(records: int, rate: float) -> list[int]:
    """An empty Poisson batch."""
    return []


def test_an_empty_batch_is_noised_and_counted() -> None:
    records = Linear(torch.ones(10, 50_000))
    made = engine(records, run_of(sampling_rate=0.1), coins=never)
    (gradient,) = made.step(records.losses_of)
    assert records.asked == []
    assert made.steps_drawn == 1
    assert gradient.std().item() == pytest.approx(1.5 * 2.0 / (0.1 * 10), rel=0.05)


def test_the_run_has_no_step_more_than_was_reserved() -> None:
    made = engine(SOME)
    for _ in range(3):
        made.step(SOME.losses_of)
    SOME.asked.clear()
    with pytest.raises(StepsExhaustedError, match="all 3 steps of this run are drawn; reserve another run"):
        made.step(SOME.losses_of)
    assert SOME.asked == []


def test_a_step_that_crashes_is_drawn_all_the_same() -> None:
    def crash(indices: Sequence[int]) -> Tensor:
        raise KeyboardInterrupt

    made = engine(SOME)
    with pytest.raises(KeyboardInterrupt):
        made.step(crash)
    assert made.steps_drawn == 1


@pytest.mark.parametrize("microbatch", [1, 2, 3, 4, 99])
def test_the_size_of_a_microbatch_changes_nothing_but_memory(microbatch: int) -> None:
    records = Linear(SOME.rows)
    (gradient,) = engine(records, gaussian=silence).step(records.losses_of, microbatch=microbatch)
    torch.testing.assert_close(gradient, sum_of(SOME, 2.0, range(4)) / 4, rtol=1e-14, atol=0)
    assert max(map(len, records.asked)) == min(microbatch, 4)


def test_a_run_over_no_records_is_refused() -> None:
    with pytest.raises(EngineError, match="at least one record"):
        DpSgd(run_of(), records=0, parameters=[SOME.theta])


# Units larger than a record

DAYS = (0, 1, 0, 2, 2, 2, 1, 0, 3)
"""Unit of each of nine records: three, two, three and one."""


def nine(seed: int = 5) -> Linear:
    """Nine records with norms from 0.2 to 20."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(9, 4, generator=draw, dtype=torch.float64), dim=1)
    return Linear(rows * torch.tensor([20.0, 5, 0.2, 3, 1, 7, 0.5, 2, 0.4], dtype=torch.float64)[:, None])


def by_hand(rows: Tensor, units: Sequence[int], clip_norm: float) -> Tensor:
    """The records of each unit added up, then clipped, then added up: no engine in sight."""
    total = torch.zeros(rows.shape[1], dtype=rows.dtype)
    for unit in set(units):
        whole = sum((rows[index] for index, other in enumerate(units) if other == unit), torch.zeros_like(total))
        total += whole * min(1.0, clip_norm / (float(whole.norm()) + 1e-6))
    return total


def days(records: Linear, run: DpSgdRun | None = None, **sources: Callable[..., Any]) -> DpSgd:
    run = run or run_of(unit=Unit.DAY)
    return DpSgd(run, records=len(records.rows), units=DAYS, parameters=[records.theta], **sources)


@pytest.mark.parametrize("microbatch", [1, 2, 3, 4, 5, 99])
def test_records_of_one_unit_make_one_clipped_contribution_whatever_the_microbatch(microbatch: int) -> None:
    records = nine()
    made = days(records, gaussian=silence)
    (gradient,) = made.step(records.losses_of, microbatch=microbatch)
    torch.testing.assert_close(gradient, by_hand(records.rows, DAYS, 2.0) / 4, rtol=1e-13, atol=1e-13)
    assert (made.units, made.expected_batch) == (4, 4.0)
    assert max(map(len, records.asked)) == min(microbatch, 9)


@given(
    units=st.lists(st.integers(0, 4), min_size=1, max_size=12),
    microbatch=st.integers(1, 13),
    clip_norm=st.floats(1e-2, 1e2),
    data=st.data(),
)
def test_no_unit_moves_the_sum_by_more_than_the_clip_norm(
    units: list[int], microbatch: int, clip_norm: float, data: st.DataObject
) -> None:
    numbers = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=2)
    rows = torch.tensor(data.draw(st.lists(numbers, min_size=len(units), max_size=len(units))), dtype=torch.float64)
    run = run_of(unit=Unit.CONVERSATION, clip_norm=clip_norm)

    def total(kept: Tensor) -> Tensor:
        records = Linear(kept)
        made = DpSgd(run, records=len(units), units=units, parameters=[records.theta], gaussian=silence)
        return made.step(records.losses_of, microbatch=microbatch)[0] * made.units

    whole = total(rows)
    for unit in set(units):
        gone = torch.tensor([other == unit for other in units])
        moved = (whole - total(rows.masked_fill(gone[:, None], 0.0))).norm().item()
        assert moved <= clip_norm * (1 + 1e-9) + 1e-9  # Sums of size 1e4 round.


def test_clipping_per_record_and_adding_up_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def influence() -> tuple[float, int, Callable[[int | None], list[Tensor]]]:
        def sum_without(unit: int | None) -> list[Tensor]:
            records = nine()
            records.rows[[index for index, other in enumerate(DAYS) if other == unit]] = 0
            return days(records, gaussian=silence).step(records.losses_of, microbatch=2)

        return 2.0 / 4, 4, sum_without

    require_each_record_moves_the_sum_by_at_most(*influence())
    real = ClippedSum.add
    monkeypatch.setattr(ClippedSum, "add", lambda self, losses, units=None: real(self, losses))
    with pytest.raises(AssertionError, match="record 2 moves the sum by"):
        require_each_record_moves_the_sum_by_at_most(*influence())


def test_units_are_drawn_whole_and_each_by_its_own_coin() -> None:
    records, asked = nine(), []

    def coins(units: int, rate: float) -> list[int]:
        asked.append((units, rate))
        return [1, 3]

    made = days(records, run_of(unit=Unit.DAY, sampling_rate=0.5), coins=coins, gaussian=silence)
    (gradient,) = made.step(records.losses_of, microbatch=2)
    assert asked == [(4, 0.5)]
    assert records.asked == [[1, 6], [8]]
    wanted = by_hand(records.rows[[1, 6, 8]], [1, 1, 3], 2.0) / 2  # Two of four units are expected.
    torch.testing.assert_close(gradient, wanted, rtol=1e-13, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1e200])
def test_a_record_that_is_not_finite_is_left_out_of_its_unit(bad: float) -> None:
    records, others = nine(), nine()
    records.rows[4] = torch.tensor([bad, 1.0, 0.0, 0.0])
    others.rows[4] = 0
    torch.testing.assert_close(
        days(records, gaussian=silence).step(records.losses_of, microbatch=2)[0],
        by_hand(others.rows, DAYS, 2.0) / 4,
        rtol=1e-13,
        atol=1e-13,
    )


def test_a_unit_that_comes_back_after_it_was_clipped_is_refused_and_changes_nothing() -> None:
    records = nine()
    clipped = ClippedSum([records.theta], 2.0)
    with pytest.raises(EngineError, match="unit 1 comes back after it was clipped; put its examples side by side"):
        clipped.add(records.losses_of([0, 1, 2]), [1, 2, 1])
    clipped.add(records.losses_of([0, 1]), [1, 1])
    clipped.add(records.losses_of([2]), [2])
    before = clipped.sums[0].clone()
    with pytest.raises(EngineError, match="unit 1 comes back"):
        clipped.add(records.losses_of([3]), [1])
    assert torch.equal(clipped.sums[0], before)
    clipped.close()
    with pytest.raises(EngineError, match="unit 2 comes back"):
        clipped.add(records.losses_of([4]), [2])


def test_norms_of_units_are_told_when_they_end() -> None:
    records = nine()
    clipped = ClippedSum([records.theta], 2.0)
    assert clipped.add(records.losses_of([0, 2]), [0, 0]).shape == (0,)
    assert clipped.add(records.losses_of([7, 1]), [0, 1]).tolist() == pytest.approx(
        [float((records.rows[0] + records.rows[2] + records.rows[7]).norm())]
    )
    assert clipped.close().tolist() == pytest.approx([5.0])
    assert clipped.close().shape == (0,)


def test_a_run_for_larger_units_needs_to_know_them() -> None:
    records = nine()
    with pytest.raises(EngineError, match="hides one day, and no record was given the number of its day"):
        DpSgd(run_of(unit=Unit.DAY), records=9, parameters=[records.theta])
    with pytest.raises(EngineError, match="9 records but 3 unit numbers"):
        DpSgd(run_of(unit=Unit.DAY), records=9, units=[0, 1, 2], parameters=[records.theta])
    with pytest.raises(LossShapeError, match="2 losses but 1 unit numbers"):
        ClippedSum([records.theta], 2.0).add(records.losses_of([0, 1]), [0])


# The healthy engine passes the checks


def healthy(records: Linear, run: DpSgdRun) -> DpSgd:
    """The engine as it is shipped."""
    return engine(records, run)


def without_noise(records: Linear, run: DpSgdRun) -> DpSgd:
    """The engine with its own coins, and noise turned off."""
    return engine(records, run, gaussian=silence)


def influence(clip_norm: float = 2.0) -> tuple[float, int, Callable[[int | None], list[Tensor]]]:
    """The neighbour test of records with norms from 0.1 to 300, through whatever ClippedSum is in place."""
    directions = torch.eye(6, dtype=torch.float64)
    rows = directions * torch.tensor([0.1, 300.0, 2.0, 2.1, 0.5, 40.0])[:, None]

    def sum_without(row: int | None) -> list[Tensor]:
        kept = rows.clone()
        if row is not None:
            kept[row] = 0
        records = Linear(kept)
        clipped = dp_sgd.ClippedSum([records.theta], clip_norm)
        clipped.add(records.losses_of(range(6)))
        return clipped.sums

    return clip_norm, len(rows), sum_without


def test_no_record_moves_a_very_unequal_batch_by_more_than_the_clip_norm() -> None:
    require_each_record_moves_the_sum_by_at_most(*influence())


def test_the_noise_of_a_step_is_what_the_accountant_was_told() -> None:
    require_noise_of_the_run(healthy)


def test_the_divisor_is_public() -> None:
    require_public_divisor(without_noise)


def test_records_join_by_independent_coins() -> None:
    require_poisson_batches(healthy)


# Mutants: a safeguard is taken away, and the same check must notice


def test_a_batch_that_is_clipped_as_a_whole_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def add_pooled(self: ClippedSum, losses: Tensor) -> Tensor:
        losses.sum().backward()
        (gradient,) = (parameter.grad_sample.sum(0) for parameter in self.parameters)  # type: ignore[attr-defined]
        self.parameters[0].grad_sample = None  # type: ignore[attr-defined]
        self.sums[0] += gradient * min(1.0, 6 * self.clip_norm / float(gradient.norm()))
        return losses

    monkeypatch.setattr(ClippedSum, "add", add_pooled)
    with pytest.raises(AssertionError, match="moves the sum by"):
        require_each_record_moves_the_sum_by_at_most(*influence())


def test_no_clipping_at_all_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ClippedSum.__init__
    monkeypatch.setattr(ClippedSum, "__init__", lambda self, parameters, clip_norm: real(self, parameters, 1e9))
    with pytest.raises(AssertionError, match="record 1 moves the sum by 300"):
        require_each_record_moves_the_sum_by_at_most(*influence())


@pytest.mark.parametrize("factor", [0.5, 0.0, 1.1])
def test_half_the_noise_and_other_wrong_amounts_are_caught(factor: float) -> None:
    def mutant(records: Linear, run: DpSgdRun) -> DpSgd:
        return engine(records, run, gaussian=lambda shape: factor * noise.gaussian(shape))

    with pytest.raises(AssertionError, match=f"noise is {factor:.1f} times what it should be"):
        require_noise_of_the_run(mutant)


def test_noise_that_a_seed_repeats_is_caught() -> None:
    def seeded(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    with pytest.raises(AssertionError, match="two steps share their noise"):
        require_noise_of_the_run(lambda records, run: engine(records, run, gaussian=seeded))


def test_noise_for_each_microbatch_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ClippedSum.add

    def add_noised(self: ClippedSum, losses: Tensor, units: Sequence[int] | None = None) -> Tensor:
        norms = real(self, losses, units)
        for total in self.sums:
            total += 1.5 * self.clip_norm * noise.gaussian(tuple(total.shape)).to(total.dtype)
        return norms

    monkeypatch.setattr(ClippedSum, "add", add_noised)
    with pytest.raises(AssertionError, match=r"noise is 2\.[23] times"):  # One draw of the step and four of its parts.
        require_noise_of_the_run(healthy, microbatch=4)


def test_the_realised_batch_as_divisor_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def mutant(records: Linear, run: DpSgdRun) -> DpSgd:
        realised = property(lambda self: sum(map(len, records.asked)) or 1)
        monkeypatch.setattr(DpSgd, "expected_batch", realised)
        return without_noise(records, run)

    with pytest.raises(AssertionError, match="records of gradient 1 came to"):
        require_public_divisor(mutant)


def test_shuffled_batches_are_caught() -> None:
    class Shuffled:
        """Batches of a fixed size, each record once an epoch: what a data loader does."""

        def __init__(self) -> None:
            self.waiting: list[int] = []

        def __call__(self, records: int, rate: float) -> list[int]:
            if not self.waiting:
                self.waiting = torch.randperm(records).tolist()
            size = round(records * rate)
            batch, self.waiting = self.waiting[:size], self.waiting[size:]
            return sorted(batch)

    with pytest.raises(AssertionError, match=r"joins more or less often|batch sizes are not binomial"):
        require_poisson_batches(lambda records, run: engine(records, run, coins=Shuffled()))


def test_batches_of_fixed_size_drawn_anew_are_caught() -> None:
    def fixed(records: int, rate: float) -> list[int]:
        return sorted(torch.randperm(records)[: round(records * rate)].tolist())

    with pytest.raises(AssertionError, match="batch sizes are not binomial"):
        require_poisson_batches(lambda records, run: engine(records, run, coins=fixed))


def test_a_higher_sampling_rate_than_reserved_is_caught() -> None:
    with pytest.raises(AssertionError, match="joins more or less often"):
        require_poisson_batches(
            lambda records, run: engine(records, run, coins=lambda count, rate: noise.coins(count, 1.5 * rate))
        )


# Models in which records are not independent


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


def test_a_model_that_mixes_the_records_of_a_batch_is_refused() -> None:
    with pytest.raises(UnsupportedLayerError, match=r"layer inner\.1 mixes the examples of a batch"):
        require_independent_examples(Normalised())


def test_dropout_is_refused_only_while_it_is_switched_on() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1), nn.Dropout(0.0))
    with pytest.raises(UnsupportedLayerError, match=r"layer 1 draws one dropout mask for a batch; call model\.eval"):
        require_independent_examples(model)
    require_independent_examples(model.eval())
