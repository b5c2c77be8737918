"""The numbers of each adapter kind, and their per-example gradients against two oracles: brute force and Opacus."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from peft import PeftModel
from torch import Tensor

from personalize import forward
from personalize.adapter import Adapter, attached, fresh
from personalize.errors import AdapterError
from personalize.forward import Batch, Encoded, collate, completion_losses
from personalize.trainable import KINDS, Basis, Trainable, trainable
from privacy import ClippedSum
from tests.brute_force import clip_and_add, factors_of, gradients_one_by_one, norm_of, relative_error
from tests.checks import require_each_record_moves_the_sum_by_at_most
from tests.nights import DIGEST, SPEC, after_frozen_layers, random_records, some_basis, warm_adapter
from tests.tiny import tiny_model

pytestmark = [
    # transformers renamed this property; peft still asks for the old name.
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    # Opacus hooks every adapted layer; the lowest one's inputs come from frozen layers and need no gradient.
    pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning"),
]

MODEL = tiny_model(dtype=torch.float64).requires_grad_(False)
RECORDS = random_records()
every_kind = pytest.mark.parametrize("kind", KINDS)


def parts_of(kind: str, *, stirred: bool = True, start: Adapter | None = None) -> Trainable:
    """Parameters in the middle of a night: away from where they began."""
    start = start or warm_adapter(MODEL)
    parts = trainable(kind, start, model=MODEL, basis=some_basis(start))
    if stirred:
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for parameter in parts.parameters:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return parts


def batch_of(records: Sequence[Encoded] = RECORDS) -> Batch:
    return collate(after_frozen_layers(MODEL, records))


def clipped_sum(parts: Trainable, clip_norm: float, *batches: Batch) -> list[Tensor]:
    """Through whatever loss is in place in personalize.forward, so that a mutant of it goes the same way."""
    clipped = ClippedSum(parts.parameters, clip_norm)
    with parts.attached(MODEL):
        for batch in batches:
            clipped.add(forward.completion_losses(MODEL, batch, cut=SPEC.cut))
    return clipped.sums


def one_by_one(parts: Trainable, records: Sequence[Encoded] = RECORDS) -> list[list[Tensor]]:
    basis = some_basis(parts.start)
    return gradients_one_by_one(MODEL, records, parts.start, parts.parameters, parts.kind, basis)


def middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


# Two oracles


@every_kind
def test_clipped_sums_equal_brute_force_one_by_one(kind: str) -> None:
    parts = parts_of(kind)
    gradients = one_by_one(parts)
    norms = [norm_of(gradient) for gradient in gradients]
    assert max(norms) > 4 * min(norms)
    for clip_norm in (middle(norms), 0.5 * min(norms), 2.0 * max(norms)):  # Some, all, none are clipped.
        ours = clipped_sum(parts, clip_norm, batch_of())
        assert relative_error(ours, clip_and_add(gradients, clip_norm)) < 1e-9


@every_kind
def test_the_norm_of_each_record_is_its_own(kind: str) -> None:
    parts = parts_of(kind)
    with parts.attached(MODEL):
        norms = ClippedSum(parts.parameters, 1.0).add(completion_losses(MODEL, batch_of(), cut=SPEC.cut))
    assert norms.tolist() == pytest.approx([norm_of(gradient) for gradient in one_by_one(parts)], rel=1e-9)


@every_kind
def test_microbatches_sum_to_the_full_batch(kind: str) -> None:
    parts = parts_of(kind)
    clip_norm = middle([norm_of(gradient) for gradient in one_by_one(parts)])
    whole = clipped_sum(parts, clip_norm, batch_of())
    for size in (1, 3, 4):
        groups = [batch_of(RECORDS[first : first + size]) for first in range(0, len(RECORDS), size)]
        assert relative_error(clipped_sum(parts, clip_norm, *groups), whole) < 1e-12


class Opacus:
    """Per-example gradients by Opacus' hooks on a peft LoRA model, and its own clipping, over the whole model."""

    def __init__(self, folder: Path, adapter: Adapter, clip_norm: float) -> None:
        adapter.save(folder)
        wrapped = PeftModel.from_pretrained(tiny_model(dtype=torch.float64), folder, is_trainable=True)
        self.model = GradSampleModule(wrapped.train(), loss_reduction="sum")
        named = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        prefix = "_module.base_model.model."
        self.a = {site: named[f"{prefix}{site}.lora_A.default.weight"] for site in adapter.a}
        self.b = {site: named[f"{prefix}{site}.lora_B.default.weight"] for site in adapter.b}
        optimizer = torch.optim.SGD([*self.a.values(), *self.b.values()], lr=1.0)
        self.optimizer = DPOptimizer(
            optimizer, noise_multiplier=0.0, max_grad_norm=clip_norm, expected_batch_size=1, loss_reduction="sum"
        )

    def backward(self, records: Sequence[Encoded]) -> None:
        """Leave `grad_sample` on the parameters."""
        length = max(len(record.ids) for record in records)
        ids = torch.zeros(len(records), length, dtype=torch.long)  # (batch, seq)
        labels = torch.full_like(ids, -100)
        for row, record in enumerate(records):
            ids[row, : len(record.ids)] = torch.tensor(record.ids)
            labels[row, record.completion - 1 : len(record.ids) - 1] = torch.tensor(record.ids[record.completion :])
        logits = self.model(input_ids=ids, use_cache=False).logits  # (batch, seq, vocab)
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        losses.sum().backward()

    def clipped_sum(self) -> list[Tensor]:
        """Sum over the batch by Opacus' optimizer, A before B."""
        self.optimizer.clip_and_accumulate()
        return [parameter.summed_grad for parameter in (*self.a.values(), *self.b.values())]


def test_opacus_clips_and_adds_the_same(tmp_path: Path) -> None:
    parts = parts_of("lora")
    clip_norm = middle([norm_of(gradient) for gradient in one_by_one(parts)])
    oracle = Opacus(tmp_path / "lora", parts.adapter(), clip_norm)
    oracle.backward(RECORDS)
    assert relative_error(clipped_sum(parts, clip_norm, batch_of()), oracle.clipped_sum()) < 1e-6


def test_opacus_hooks_can_feed_our_clipped_sum(tmp_path: Path) -> None:
    parts = parts_of("lora")
    clip_norm = middle([norm_of(gradient) for gradient in one_by_one(parts)])
    oracle = Opacus(tmp_path / "lora", parts.adapter(), clip_norm)
    clipped = ClippedSum([*oracle.a.values(), *oracle.b.values()], clip_norm)
    ids = torch.tensor([RECORDS[4].ids, RECORDS[4].ids])
    logits = oracle.model(input_ids=ids, use_cache=False).logits
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    norms = clipped.add(losses.sum(1))
    assert norms[0].item() == pytest.approx(norms[1].item())
    assert norm_of(clipped.sums) == pytest.approx(2 * min(clip_norm, norms[0].item()), rel=1e-6)


@pytest.mark.parametrize("kind", ["frozen-a", "xs", "basis"])
def test_opacus_gradients_of_b_project_to_the_gradients_of_fewer_numbers(kind: str, tmp_path: Path) -> None:
    """Opacus knows no such kinds; the chain rule from its gradient of B to our numbers is one product."""
    parts = parts_of(kind)
    gradients = one_by_one(parts)
    clip_norm = middle([norm_of(gradient) for gradient in gradients])
    oracle = Opacus(tmp_path / "start", parts.adapter(), clip_norm)
    oracle.backward(RECORDS)
    leaves = [parameter.detach().clone().requires_grad_(True) for parameter in parts.parameters]
    factors = factors_of(kind, MODEL, parts.start, some_basis(parts.start))(leaves)
    theirs = []
    for row in range(len(RECORDS)):
        meeting = sum((b * oracle.b[site].grad_sample[row]).sum() for site, (_, b) in factors.items())
        assert isinstance(meeting, Tensor)
        theirs.append(list(torch.autograd.grad(meeting, leaves, retain_graph=True)))
    assert relative_error(clipped_sum(parts, clip_norm, batch_of()), clip_and_add(theirs, clip_norm)) < 1e-6


# The neighbour test


def without(batch: Batch, row: int | None) -> Batch:
    """The zero-out neighbour: one record replaced by an empty one."""
    kept = torch.ones(len(batch.weights), dtype=batch.weights.dtype)
    if row is not None:
        kept[row] = 0
    return Batch(
        hidden=batch.hidden * kept[:, None, None], targets=batch.targets, weights=batch.weights * kept[:, None]
    )


def neighbours(kind: str) -> tuple[float, int, Callable[[int | None], list[Tensor]]]:
    """One long record among short ones that pull together; the long ones are clipped, the short ones are not."""
    parts, short = parts_of(kind), random_records([2])
    records = [*random_records([60, 25, 9]), *(12 * short)]
    with parts.attached(MODEL):
        whole = forward.completion_losses(MODEL, batch_of(records), cut=SPEC.cut)
        clip_norm = 2 * float(ClippedSum(parts.parameters, 1.0).add(whole)[-1])
    return clip_norm, len(records), lambda row: clipped_sum(parts, clip_norm, without(batch_of(records), row))


@every_kind
def test_no_record_moves_the_sum_by_more_than_the_clip_norm(kind: str) -> None:
    require_each_record_moves_the_sum_by_at_most(*neighbours(kind))


def pooled(real: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Hugging Face's reduction, a mean over the tokens of the whole batch, put so that it still looks like a vector."""

    def losses(model: Any, batch: Batch, *, cut: int) -> Tensor:
        return real(model, batch, cut=cut) / batch.weights.sum()

    return losses


@every_kind
def test_a_loss_pooled_over_the_batch_is_caught(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "completion_losses", pooled(completion_losses))
    with pytest.raises(AssertionError, match="moves the sum by"):
        require_each_record_moves_the_sum_by_at_most(*neighbours(kind))


@every_kind
def test_a_record_that_is_not_finite_contributes_zero(kind: str) -> None:
    parts, bad = parts_of(kind), 3
    others = [record for row, record in enumerate(RECORDS) if row != bad]
    wanted = clipped_sum(parts, 1.0, batch_of(others))
    for poison in (torch.nan, torch.inf, 1e200):
        batch = batch_of()
        batch.hidden[bad, 1] = poison
        sums = clipped_sum(parts, 1.0, batch)
        assert all(bool(part.isfinite().all()) for part in sums)
        if poison != 1e200:  # The norm at the end of a Llama makes a finite record of that one.
            assert relative_error(sums, wanted) < 1e-12


# What is trained and what is not


def digests(model: Any) -> dict[str, str]:
    """SHA-256 of every tensor of a model."""
    return {
        name: hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()
        for name, value in model.state_dict().items()
    }


@every_kind
def test_a_step_changes_every_trained_tensor_and_no_other(kind: str) -> None:
    parts = parts_of(kind, stirred=False)
    begun_at = [*parts.start.a.values(), *parts.start.b.values()]
    copies = [value.clone() for value in begun_at]
    before, frozen = [parameter.detach().clone() for parameter in parts.parameters], digests(MODEL)
    sums = clipped_sum(parts, 1.0, batch_of())
    with torch.no_grad():
        for parameter, gradient in zip(parts.parameters, sums, strict=True):
            parameter -= 0.01 * gradient
    assert not any(torch.equal(old, new) for old, new in zip(before, parts.parameters, strict=True))
    assert digests(MODEL) == frozen
    assert all(torch.equal(old, new) for old, new in zip(copies, begun_at, strict=True))
    made = parts.adapter()
    assert all(not torch.equal(made.b[site], parts.start.b[site]) for site in made.b)
    assert all(torch.equal(made.a[site], parts.start.a[site]) == (kind != "lora") for site in made.a)


@every_kind
def test_before_the_first_step_the_adapter_is_the_one_begun_at(kind: str) -> None:
    parts = parts_of(kind, stirred=False)
    made = parts.adapter()
    assert made.kind == kind
    assert made.fits_base == DIGEST
    for site in made.a:
        torch.testing.assert_close(made.a[site], parts.start.a[site])
        torch.testing.assert_close(made.b[site], parts.start.b[site])


@every_kind
def test_the_adapter_that_comes_out_says_what_the_training_saw(kind: str, tmp_path: Path) -> None:
    parts = parts_of(kind)
    with parts.attached(MODEL), torch.no_grad():
        seen = completion_losses(MODEL, batch_of(), cut=SPEC.cut)
    parts.adapter().save(tmp_path / "one")
    loaded = Adapter.load(tmp_path / "one", base_digest=DIGEST)
    with attached(MODEL, loaded), torch.no_grad():
        torch.testing.assert_close(completion_losses(MODEL, batch_of(), cut=SPEC.cut), seen)


@every_kind
def test_peft_says_what_the_training_saw(kind: str, tmp_path: Path) -> None:
    adapter, ids = parts_of(kind).adapter(), torch.arange(3, 60).view(1, -1)
    adapter.save(tmp_path / "one")
    with attached(MODEL, adapter), torch.no_grad():
        ours = MODEL(ids).logits
    theirs = PeftModel.from_pretrained(tiny_model(dtype=torch.float64), tmp_path / "one").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, ours)


@every_kind
def test_the_adapter_is_a_copy(kind: str) -> None:
    parts = parts_of(kind)
    made = parts.adapter()
    before = {site: value.clone() for site, value in made.b.items()}
    with torch.no_grad():
        for parameter in parts.parameters:
            parameter += 1
    assert all(torch.equal(before[site], value) for site, value in made.b.items())


@every_kind
def test_refresh_brings_changed_numbers_to_the_model(kind: str) -> None:
    parts = parts_of(kind, stirred=False)
    with parts.attached(MODEL), torch.no_grad():
        before = completion_losses(MODEL, batch_of(), cut=SPEC.cut)
        for parameter in parts.parameters:
            parameter += 0.1
        parts.refresh()
        after = completion_losses(MODEL, batch_of(), cut=SPEC.cut)
    assert not torch.isclose(before, after).any()
    with attached(MODEL, parts.adapter()), torch.no_grad():
        torch.testing.assert_close(completion_losses(MODEL, batch_of(), cut=SPEC.cut), after)


@every_kind
def test_summed_gradients_are_the_sum_of_the_single_ones(kind: str) -> None:
    parts = parts_of(kind)
    parts.summed = True
    with parts.attached(MODEL):
        for first in range(0, len(RECORDS), 4):
            completion_losses(MODEL, batch_of(RECORDS[first : first + 4]), cut=SPEC.cut).sum().backward()
    sums = [parameter.grad for parameter in parts.parameters if parameter.grad is not None]
    wanted = [torch.stack(column).sum(0) for column in zip(*one_by_one(parts), strict=True)]
    assert relative_error(sums, wanted) < 1e-12
    assert not any(getattr(parameter, "grad_sample", None) is not None for parameter in parts.parameters)


@every_kind
def test_the_model_is_free_again_after_an_error(kind: str) -> None:
    parts, modules = parts_of(kind), dict(MODEL.named_modules())
    with pytest.raises(KeyboardInterrupt), parts.attached(MODEL):
        raise KeyboardInterrupt
    assert dict(MODEL.named_modules()) == modules


def numbers(shapes: Iterator[torch.Size]) -> int:
    return sum(shape.numel() for shape in shapes)


@pytest.mark.parametrize(("kind", "count"), [("xs", 14 * 9), ("basis", 5)])
def test_few_numbers_are_few(kind: str, count: int) -> None:
    assert numbers(parameter.shape for parameter in parts_of(kind).parameters) == count


def test_from_a_fresh_adapter_the_first_gradient_reaches_b() -> None:
    start = fresh(MODEL, SPEC, fits_base=DIGEST)
    sums = clipped_sum(parts_of("lora", stirred=False, start=start), 1.0, batch_of())
    of_a, of_b = sums[: len(start.a)], sums[len(start.a) :]
    assert not any(part.any() for part in of_a)
    assert all(part.any() for part in of_b)


# Bad input


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(AdapterError, match="unknown adapter kind 'dora'; choose one of lora, frozen-a, xs, basis"):
        trainable("dora", warm_adapter(MODEL), model=MODEL)


def test_the_kind_basis_needs_directions() -> None:
    with pytest.raises(AdapterError, match="kind basis needs the directions that ship with the base; use kind xs"):
        trainable("basis", warm_adapter(MODEL), model=MODEL)


def test_directions_of_another_base_are_refused() -> None:
    start = warm_adapter(MODEL)
    other = {site.replace("layers", "blocks"): value for site, value in some_basis(start).directions.items()}
    with pytest.raises(AdapterError, match="other layers or targets than the adapter"):
        trainable("basis", start, model=MODEL, basis=Basis(directions=other, variance=torch.ones(5)))


def test_layers_without_directions_stay_as_they_are_and_cost_no_backward() -> None:
    start = warm_adapter(MODEL)
    whole = some_basis(start)
    top = max(site.split(".")[2] for site in start.b)
    some = Basis(
        directions={site: value for site, value in whole.directions.items() if site.split(".")[2] == top},
        variance=whole.variance,
    )
    parts = trainable("basis", start, model=MODEL, basis=some)
    with parts.attached(MODEL) as _, torch.no_grad():
        parts.parameters[0].fill_(0.5)
    moved = parts.adapter()
    for site in start.b:
        assert torch.equal(moved.b[site], start.b[site]) == (site.split(".")[2] != top)
