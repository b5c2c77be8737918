"""One night of steps: what is private is clipped and noised alone, what is public is added afterwards."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from personalize import train as night
from personalize.adapter import Adapter
from personalize.errors import TrainingError
from personalize.forward import Encoded, Prefix, collate, completion_losses
from personalize.plan import NightPlan
from personalize.train import Adam, DampedStep, train, update_for
from personalize.trainable import KINDS, Trainable, trainable
from privacy import (
    ClippedSum,
    DpSgd,
    DpSgdRun,
    EngineError,
    ReceiptError,
    StepsExhaustedError,
    Unit,
    UnsupportedLayerError,
)
from tests.brute_force import clip_and_add, factors_of, gradients_one_by_one, loss_of, norm_of, relative_error
from tests.checks import require_private_part_is_clipped_alone
from tests.nights import SPEC, after_frozen_layers, random_records, some_basis, warm_adapter
from tests.tiny import tiny_model

MODEL = tiny_model(dtype=torch.float64).requires_grad_(False)
RECORDS = random_records((9, 2, 25, 3, 4, 2, 12, 2))
PUBLIC = random_records((6, 7, 3, 9, 4), seed=8)
PLAN = NightPlan(kind="xs", steps=3, clip_norm=0.5, step_size=1e-3, rehearsal_weight=0.5, rehearsal_per_step=2)
RUN = DpSgdRun(noise_multiplier=0.7, sampling_rate=1.0, steps=3, clip_norm=0.5)
every_kind = pytest.mark.parametrize("kind", KINDS)


def parts_of(kind: str) -> Trainable:
    start = warm_adapter(MODEL)
    return trainable(kind, start, model=MODEL, basis=some_basis(start))


def held(records: Sequence[Encoded]) -> list[Prefix]:
    return after_frozen_layers(MODEL, records)


def trained(parts: Trainable, plan: NightPlan = PLAN, run: DpSgdRun | None = RUN, **more: Any) -> Adapter:
    return train(MODEL, parts, held(RECORDS), held(PUBLIC), plan, run=run, **more)


def silence(shape: tuple[int, ...]) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)


@pytest.fixture
def noiseless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise turned off, so that what it is added to shows."""
    monkeypatch.setattr(night, "DpSgd", partial(DpSgd, gaussian=silence))


@pytest.fixture
def gradients(monkeypatch: pytest.MonkeyPatch) -> list[list[Tensor]]:
    """The gradients of every step; the parameters stay where they are."""
    seen: list[list[Tensor]] = []

    class Noted(DampedStep):
        def __init__(self) -> None:
            pass

        def __call__(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
            seen.append([gradient.clone() for gradient in gradients])

    monkeypatch.setattr(night, "update_for", lambda parts, plan, **facts: Noted())
    return seen


def one_by_one(parts: Trainable, records: Sequence[Encoded]) -> list[list[Tensor]]:
    basis = some_basis(parts.start)
    return gradients_one_by_one(MODEL, records, parts.start, parts.parameters, parts.kind, basis)


def mean(single: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [torch.stack(column).mean(0) for column in zip(*single, strict=True)]


def require_clipped_alone(kind: str, gradients: list[list[Tensor]]) -> None:
    """Every step of a noiseless night is the clipped private sum, and the public gradient beside it."""
    parts = parts_of(kind)
    trained(parts)
    clipped = clip_and_add(one_by_one(parts, RECORDS), RUN.clip_norm)
    assert len(gradients) == 3
    for step, made in enumerate(gradients):
        texts = [PUBLIC[(2 * step + index) % 5] for index in range(2)]
        public = mean(one_by_one(parts, texts))
        assert norm_of(public) > RUN.clip_norm, "the public gradient must be too long for the clip, or nothing shows"
        require_private_part_is_clipped_alone(made, clipped, len(RECORDS), public, PLAN.rehearsal_weight)


@every_kind
@pytest.mark.usefixtures("noiseless")
def test_the_public_gradient_is_added_after_the_clip_and_the_noise(kind: str, gradients: list[list[Tensor]]) -> None:
    require_clipped_alone(kind, gradients)


@every_kind
def test_a_public_gradient_mixed_into_the_clipped_sum_is_caught(
    kind: str, gradients: list[list[Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mixed(DpSgd):
        """Takes public texts for records: they are clipped with the rest."""

        def step(self, losses_of: Any, *, microbatch: int = 16) -> list[Tensor]:
            clipped = ClippedSum(self.parameters, self.run.clip_norm)
            clipped.add(losses_of(range(self.records)))
            texts = [held(PUBLIC)[(2 * self.steps_drawn + index) % 5] for index in range(2)]
            share = PLAN.rehearsal_weight * self.records / len(texts)  # Were nothing clipped, the step would be right.
            clipped.add(share * completion_losses(MODEL, collate(texts), cut=SPEC.cut))
            self.steps_drawn += 1
            return self._privatise(clipped.sums)

    monkeypatch.setattr(night, "DpSgd", partial(Mixed, gaussian=silence))
    monkeypatch.setattr(
        night, "_rehearsed", lambda model, parts, *rest: [torch.zeros_like(p) for p in parts.parameters]
    )
    with pytest.raises(AssertionError, match="public and private gradients met before the clip"):
        require_clipped_alone(kind, gradients)


def distance_gradient(parts: Trainable, records: Sequence[Encoded], weight: float) -> list[Tensor]:
    """Mean gradient of loss + weight x distance to the bare base, by plain autograd on changed weights."""
    numbers = [parameter.detach().clone().requires_grad_() for parameter in parts.parameters]
    factors = factors_of(parts.kind, MODEL, parts.start, some_basis(parts.start))(numbers)
    total = torch.zeros((), dtype=torch.float64)
    for record in records:
        answer = slice(record.completion - 1, len(record.ids) - 1)
        base = torch.log_softmax(logits_of(record, {})[answer], 1).detach()
        mine = torch.log_softmax(logits_of(record, factors)[answer], 1)
        total = total + loss_of(MODEL, record, factors)
        total = total + weight * (base.exp() * (base - mine)).sum()
    return list(torch.autograd.grad(total / len(records), numbers))


def logits_of(record: Encoded, factors: Any) -> Tensor:
    weights = {f"{name}.weight": MODEL.get_submodule(name).weight + b @ a for name, (a, b) in factors.items()}
    inputs = {"input_ids": torch.tensor([record.ids]), "use_cache": False}
    logits: Tensor = functional_call(MODEL, weights, (), inputs).logits[0]
    return logits


@every_kind
def test_a_plan_may_pull_the_public_texts_toward_the_base(kind: str) -> None:
    parts, plan = parts_of(kind), replace(PLAN, rehearsal_kl=3.0, rehearsal_per_step=5)
    with parts.attached(MODEL):
        made = night._rehearsed(MODEL, parts, held(PUBLIC), plan, 0)
        plain = night._rehearsed(MODEL, parts, held(PUBLIC), replace(plan, rehearsal_kl=0.0), 0)
    wanted = distance_gradient(parts, PUBLIC, 3.0)
    assert relative_error(made, wanted) < 1e-6  # The library's norms are single precision: two passes, two roundings.
    assert relative_error(plain, distance_gradient(parts, PUBLIC, 0.0)) < 1e-6
    assert relative_error(made, plain) > 1e-3, "the distance must weigh something, or nothing shows"


@pytest.mark.parametrize(("kind", "steps"), [("lora", 4), ("frozen-a", 4), ("xs", 40), ("basis", 200)])
def test_the_noise_of_a_night_is_that_of_its_run(kind: str, steps: int, gradients: list[list[Tensor]]) -> None:
    parts, plan = parts_of(kind), NightPlan(kind=kind, steps=steps, clip_norm=2.0, rehearsal_weight=0.0)
    run = DpSgdRun(noise_multiplier=0.7, sampling_rate=1.0, steps=steps, clip_norm=2.0)
    train(MODEL, parts, held(RECORDS[:1]), [], plan, run=run)
    clipped = clip_and_add(one_by_one(parts, RECORDS[:1]), 2.0)
    noise = torch.stack(
        [torch.cat([(g - c).flatten() for g, c in zip(made, clipped, strict=True)]) for made in gradients]
    )
    ratio = float((noise / (0.7 * 2.0)).square().mean())
    assert abs(ratio - 1) < 6.2 * (2 / noise.numel()) ** 0.5
    assert (noise[0] != noise[1]).all()


@pytest.mark.usefixtures("noiseless")
def test_without_rehearsal_only_records_are_learned(gradients: list[list[Tensor]]) -> None:
    parts = parts_of("xs")
    for plan in (
        NightPlan(**{**vars(PLAN), "rehearsal_weight": 0.0}),
        NightPlan(**{**vars(PLAN), "rehearsal_per_step": 0}),
    ):
        trained(parts, plan)
    train(MODEL, parts, held(RECORDS), [], PLAN, run=RUN)
    clipped = [part / len(RECORDS) for part in clip_and_add(one_by_one(parts, RECORDS), RUN.clip_norm)]
    assert len(gradients) == 9
    assert all(relative_error(made, clipped) < 1e-9 for made in gradients)


def test_the_comparison_without_privacy_is_the_plain_mean(gradients: list[list[Tensor]]) -> None:
    parts = parts_of("xs")
    trained(parts, run=None)
    wanted = mean(one_by_one(parts, RECORDS))
    public = mean(one_by_one(parts, PUBLIC[:2]))
    assert relative_error(gradients[0], [one + 0.5 * other for one, other in zip(wanted, public, strict=True)]) < 1e-9


@pytest.mark.usefixtures("noiseless")
@pytest.mark.parametrize("microbatch", [1, 3, 8])
def test_neither_microbatches_nor_the_order_of_records_change_the_night(
    microbatch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(parts_of("lora"))
    monkeypatch.setattr(night, "MICROBATCH", microbatch)
    again = train(MODEL, parts_of("lora"), held(RECORDS)[::-1], held(PUBLIC), PLAN, run=RUN)
    # Adam turns a gradient near zero into a step by its sign alone, so rounding may show there.
    assert relative_error(list(again.b.values()), list(whole.b.values())) < 1e-6


@every_kind
def test_a_night_without_privacy_learns_its_records(kind: str) -> None:
    def loss(adapter: Adapter) -> float:
        parts = trainable("frozen-a", adapter, model=MODEL)
        with parts.attached(MODEL), torch.no_grad():
            return float(completion_losses(MODEL, collate(held(RECORDS)), cut=SPEC.cut).sum())

    size = 0.3 if kind == "basis" else 3e-3
    plan = NightPlan(kind=kind, steps=8, step_size=size, rehearsal_weight=0.0)
    parts = parts_of(kind)
    if kind == "basis":  # Random directions are not whitened, so a damped step would not be one.
        assert isinstance(update_for(parts, plan, records=8, noise=0.0), DampedStep)
        plan = NightPlan(kind=kind, steps=8, step_size=1e-3, rehearsal_weight=0.0)
    assert loss(train(MODEL, parts, held(RECORDS), [], plan, run=None)) < loss(parts.start)


@pytest.mark.usefixtures("noiseless")
def test_a_night_looks_at_as_much_of_the_vocabulary_as_its_plan_says(gradients: list[list[Tensor]]) -> None:
    parts = parts_of("xs")
    for rows in (320, 100):
        trained(parts, NightPlan(**{**vars(PLAN), "head_rows": rows, "steps": 1}))
    whole, some = gradients
    private, public = clip_and_add(one_by_one(parts, RECORDS), RUN.clip_norm), mean(one_by_one(parts, PUBLIC[:2]))
    require_private_part_is_clipped_alone(whole, private, len(RECORDS), public, PLAN.rehearsal_weight)
    assert relative_error(some, whole) > 0.01


@every_kind
def test_each_step_is_drawn_before_its_first_loss_and_reported_after(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def losses(*args: Any, **more: Any) -> Tensor:
        told.append("loss")
        return completion_losses(*args, **more)

    monkeypatch.setattr(night, "completion_losses", losses)
    plan = NightPlan(**{**vars(PLAN), "kind": kind, "rehearsal_weight": 0.0})
    trained(
        parts_of(kind),
        plan,
        draw=lambda: told.append("draw"),
        progress=lambda done, steps: told.append(f"{done}/{steps}"),
    )
    assert told == ["draw", "loss", "1/3", "draw", "loss", "2/3", "draw", "loss", "3/3"]


def test_a_receipt_that_refuses_a_step_stops_the_night_before_any_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise ReceiptError("receipt 1 is closed")

    monkeypatch.setattr(night, "completion_losses", lambda *args, **more: pytest.fail("a loss was computed"))
    modules = dict(MODEL.named_modules())
    with pytest.raises(ReceiptError):
        trained(parts_of("xs"), draw=refuse)
    assert dict(MODEL.named_modules()) == modules


def test_a_plan_with_more_steps_than_the_run_is_stopped_by_the_engine() -> None:
    with pytest.raises(StepsExhaustedError, match="all 3 steps of this run are drawn"):
        trained(parts_of("xs"), NightPlan(**{**vars(PLAN), "steps": 4}))


@every_kind
def test_two_nights_from_one_state_differ_in_their_noise_only(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = NightPlan(**{**vars(PLAN), "kind": kind})
    one, other = (trained(parts_of(kind), plan) for _ in range(2))
    assert all(not torch.equal(one.b[site], other.b[site]) for site in one.b)
    monkeypatch.setattr(night, "DpSgd", partial(DpSgd, gaussian=silence))
    one, other = (trained(parts_of(kind), plan) for _ in range(2))
    assert all(torch.equal(one.b[site], other.b[site]) for site in one.b)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # What overflows here is the point.
def test_numbers_that_are_no_longer_finite_end_the_night(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = dict(MODEL.named_modules())
    with pytest.raises(TrainingError, match="step 1 of 3 left numbers that are not finite; the old adapter stays"):
        trained(parts_of("lora"), NightPlan(**{**vars(PLAN), "step_size": float("inf")}))
    assert dict(MODEL.named_modules()) == modules


def test_a_model_with_dropout_on_is_refused() -> None:
    model = tiny_model(dtype=torch.float64).requires_grad_(False)
    model.model.layers[3].mlp.act_fn = nn.Sequential(model.model.layers[3].mlp.act_fn, nn.Dropout(0.1))
    with pytest.raises(UnsupportedLayerError, match="draws one dropout mask for a batch"):
        train(model, parts_of("xs"), held(RECORDS), [], PLAN, run=RUN)


def require_that_only_steps_are_told(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    told: list[tuple[int, int]] = []
    with caplog.at_level(0):
        trained(parts_of("xs"), progress=lambda done, steps: told.append((done, steps)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    said = capsys.readouterr()
    assert (said.out, said.err, caplog.messages) == ("", "", []), "something of the records was told"


def test_a_night_tells_its_steps_and_nothing_of_its_records(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    require_that_only_steps_are_told(capsys, caplog)


@pytest.mark.parametrize("tell", [print, logging.getLogger("night").debug])
def test_a_loss_in_a_log_is_caught(
    tell: Any, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chatty(*rest: Any, **more: Any) -> Tensor:
        losses = completion_losses(*rest, **more)
        tell(f"loss {losses.detach().mean():.3f}")
        return losses

    monkeypatch.setattr(night, "completion_losses", chatty)
    with pytest.raises(AssertionError, match="something of the records was told"):
        require_that_only_steps_are_told(capsys, caplog)


# Units larger than a record

DAYS = (7, 3, 7, 7, 3, 5, 7, 9)
"""Day of each record: four, two, one and one. Powers of two: the norms of the model round what others divide."""
DAY_RUN = DpSgdRun(**{**vars(RUN), "unit": Unit.DAY})


def require_days_are_clipped_whole(kind: str, gradients: list[list[Tensor]]) -> None:
    """Every step of a noiseless night is the sum of its days' mean gradients, each day clipped once."""
    parts = parts_of(kind)
    alone = NightPlan(**{**vars(PLAN), "kind": kind, "rehearsal_weight": 0.0, "unit": Unit.DAY})
    trained(parts, alone, DAY_RUN, units=DAYS)
    single = one_by_one(parts, RECORDS)
    means = [mean([made for made, day in zip(single, DAYS, strict=True) if day == one]) for one in (7, 3, 5, 9)]
    wanted = [part / 4 for part in clip_and_add(means, RUN.clip_norm)]
    off = max(relative_error(made, wanted) for made in gradients)
    assert off < 1e-9, f"a day was not clipped as a whole: off by {off:.2g}"


@every_kind
@pytest.mark.usefixtures("noiseless")
@pytest.mark.parametrize("microbatch", [2, 16])
def test_the_records_of_a_unit_are_averaged_and_clipped_together(
    kind: str, microbatch: int, gradients: list[list[Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(night, "MICROBATCH", microbatch)
    require_days_are_clipped_whole(kind, gradients)


@pytest.mark.usefixtures("noiseless")
def test_a_night_that_clips_each_record_of_a_day_is_caught(
    gradients: list[list[Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    add = ClippedSum.add
    monkeypatch.setattr(ClippedSum, "add", lambda self, losses, units=None: add(self, losses))
    with pytest.raises(AssertionError, match="a day was not clipped as a whole"):
        require_days_are_clipped_whole("xs", gradients)


@pytest.mark.usefixtures("noiseless")
def test_one_whole_day_moves_a_step_by_at_most_its_share(gradients: list[list[Tensor]]) -> None:
    """An empty day stands where it stood: its records have no token to learn."""
    plan = NightPlan(**{**vars(PLAN), "steps": 1, "rehearsal_weight": 0.0, "unit": Unit.DAY})
    run, moved = DpSgdRun(**{**vars(DAY_RUN), "steps": 1}), []
    for gone in (None, 7, 3, 5, 9):
        kept = [
            Encoded(ids=one.ids, completion=len(one.ids), characters=1) if day == gone else one
            for one, day in zip(RECORDS, DAYS, strict=True)
        ]
        train(MODEL, parts_of("xs"), held(kept), [], plan, run=run, units=DAYS)
        moved.append(norm_of([one - other for one, other in zip(gradients[0], gradients[-1], strict=True)]))
    assert moved[0] == 0
    assert max(moved) <= RUN.clip_norm / 4 * (1 + 1e-9)
    assert min(moved[1:]) > 0.2 * RUN.clip_norm / 4


def test_units_count_as_records_for_the_step_and_for_the_comparison(
    gradients: list[list[Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = night.update_for

    def update_for(parts: Trainable, plan: NightPlan, **facts: Any) -> Any:
        seen.append(facts["records"])
        return real(parts, plan, **facts)

    monkeypatch.setattr(night, "update_for", update_for)
    parts = parts_of("xs")
    trained(parts, NightPlan(**{**vars(PLAN), "rehearsal_weight": 0.0}), None, units=DAYS)
    single = one_by_one(parts, RECORDS)
    means = [mean([made for made, day in zip(single, DAYS, strict=True) if day == one]) for one in (7, 3, 5, 9)]
    assert seen == [4]
    assert relative_error(gradients[0], mean(means)) < 1e-9


def test_a_night_for_days_without_days_is_refused() -> None:
    with pytest.raises(EngineError, match="hides one day"):
        trained(parts_of("xs"), run=DAY_RUN)
    with pytest.raises(TrainingError, match="8 private records but 2 unit numbers"):
        trained(parts_of("xs"), run=DAY_RUN, units=(0, 1))


# Update rules


def test_a_damped_step_is_the_best_linear_guess_of_a_coordinate() -> None:
    """For a coordinate seen through n unit records and noise s, a full step goes to n / (n + 1/e + s²/(n e)) of it."""
    variance = torch.tensor([2.0, 0.5, 0.01], dtype=torch.float64)
    records, std = 50, 30.0
    true = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    theta = torch.zeros(3, dtype=torch.float64)
    DampedStep(variance, records=records, noise_std=std, step_size=1.0)([theta], [-true])
    wanted = true * records / (records + 1 / variance + std**2 / (records * variance))
    torch.testing.assert_close(theta, wanted)
    assert theta[2].abs() < 0.05 * true[2].abs(), "a weak coordinate switches itself off"


def test_damped_steps_without_noise_settle_at_the_ridge_solution() -> None:
    variance, records = torch.tensor([0.2, 0.02], dtype=torch.float64), 25
    seen, theta = torch.tensor([1.0, -1.0], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    step = DampedStep(variance, records=records, noise_std=0.0, step_size=0.5)
    for _ in range(200):
        step([theta], [theta - seen])
    torch.testing.assert_close(theta, seen * records * variance / (records * variance + 1))


@pytest.mark.parametrize(("noise", "clip_norm", "rate"), [(0.0, 1.0, 1.0), (2.0, 5.0, 0.5)])
def test_coefficients_step_with_the_noise_and_records_of_the_plan(noise: float, clip_norm: float, rate: float) -> None:
    parts, plan = parts_of("basis"), NightPlan(clip_norm=clip_norm, sampling_rate=rate, step_size=0.3)
    update = update_for(parts, plan, records=40, noise=noise)
    assert isinstance(update, DampedStep)
    variance = some_basis(parts.start).variance
    n = 40 * rate
    torch.testing.assert_close(update.gain, 0.3 / (1 + 1 / (n * variance) + (noise * clip_norm / n) ** 2 / variance))


def test_other_kinds_step_with_adam() -> None:
    parts = parts_of("xs")
    update, twins = update_for(parts, PLAN, records=8, noise=1.0), [p.detach().clone() for p in parts.parameters]
    assert isinstance(update, Adam)
    optimizer = torch.optim.Adam([twin.requires_grad_(True) for twin in twins], lr=PLAN.step_size)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        made = [torch.randn(twin.shape, generator=generator, dtype=twin.dtype) for twin in twins]
        with torch.no_grad():
            update(parts.parameters, [value.clone() for value in made])
        for twin, value in zip(twins, made, strict=True):
            twin.grad = value.clone()
        optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(parts.parameters, twins, strict=True))
    assert all(parameter.grad is None for parameter in parts.parameters)
