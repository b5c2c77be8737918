"""Any torch model trains privately: its per-example gradients are those of one backward an example, and of Opacus."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from opacus import GradSampleModule
from torch import Tensor, nn

from privacy import ClippedSum, DpSgd, DpSgdRun
from privacy.any_model import per_example_losses
from privacy.errors import LossShapeError, UnsupportedLayerError
from privacy.per_example import take_grad_sample


def image_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.GroupNorm(1, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, 5)
    ).double()  # fmt: skip


class Attentive(nn.Module):
    """A layer used twice, attention, and a parameter without a layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.shared = nn.Linear(8, 8)
        self.double()

    def forward(self, tokens: Tensor) -> Tensor:
        mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        mixed = self.shared(torch.tanh(self.shared(mixed))) * self.scale
        pooled: Tensor = mixed.mean(1)
        return pooled


MODELS: dict[str, tuple[Any, tuple[int, ...], int]] = {
    "convolution": (image_model, (1, 6, 6), 5),
    "attention": (Attentive, (4, 8), 8),
}
cross_entropy = nn.functional.cross_entropy


def batch_of(name: str, count: int = 6) -> tuple[nn.Module, Tensor, Tensor]:
    make, shape, classes = MODELS[name]
    draw = torch.Generator().manual_seed(2)
    return (
        make(),
        torch.randn(count, *shape, generator=draw, dtype=torch.float64),
        torch.randint(classes, (count,), generator=draw),
    )


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch maps its attention one by one.
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_one_backward_an_example(name: str) -> None:
    model, inputs, targets = batch_of(name)
    losses = per_example_losses(model, cross_entropy)(inputs, targets)
    torch.testing.assert_close(losses, cross_entropy(model(inputs), targets, reduction="none"))
    (2.0 * losses).sum().backward()
    held = {key: take_grad_sample(value) for key, value in model.named_parameters()}
    for row in range(len(inputs)):
        alone = torch.autograd.grad(2.0 * cross_entropy(model(inputs[[row]]), targets[[row]]), list(model.parameters()))
        for (key, gradients), wanted in zip(held.items(), alone, strict=True):
            assert gradients is not None
            torch.testing.assert_close(gradients[row], wanted, msg=key)


def test_clipped_sums_are_those_of_opacus() -> None:
    model, inputs, targets = batch_of("convolution")
    ours = ClippedSum(model.parameters(), 0.5)
    ours.add(per_example_losses(model, cross_entropy)(inputs, targets))
    theirs = GradSampleModule(image_model(), loss_reduction="sum")
    clipped = ClippedSum(theirs.parameters(), 0.5)
    clipped.add(cross_entropy(theirs(inputs.requires_grad_()), targets, reduction="none"))
    for one, other in zip(ours.sums, clipped.sums, strict=True):
        torch.testing.assert_close(one, other)


def test_any_model_learns_under_privacy_and_frozen_parts_stay() -> None:
    model, inputs, targets = batch_of("convolution", count=40)
    for value in model[0].parameters():  # type: ignore[index]
        value.requires_grad_(False)
    before = model[0].weight.clone()  # type: ignore[index]
    losses = per_example_losses(model, cross_entropy)
    trained = [value for value in model.parameters() if value.requires_grad]
    run = DpSgdRun(noise_multiplier=0.1, sampling_rate=1.0, steps=30, clip_norm=1.0)
    engine = DpSgd(run, records=40, parameters=trained)
    first = float(losses(inputs, targets).detach().mean())

    def losses_of(rows: Sequence[int]) -> Tensor:
        return losses(inputs[list(rows)], targets[list(rows)])

    for _ in range(run.steps):
        for value, gradient in zip(trained, engine.step(losses_of), strict=True):
            value.data -= 0.5 * gradient
    assert float(losses(inputs, targets).detach().mean()) < 0.8 * first
    assert torch.equal(model[0].weight, before)  # type: ignore[index]


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(3), nn.Dropout(0.5)])
def test_a_model_that_mixes_examples_or_draws_for_them_is_refused(layer: nn.Module) -> None:
    with pytest.raises(UnsupportedLayerError):
        per_example_losses(nn.Sequential(nn.Linear(3, 3), layer), cross_entropy)


def test_what_torch_cannot_map_is_refused_in_one_line() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, given: Tensor) -> Tensor:
            made: Tensor = self.layer(given)
            return made if given.sum().item() > 0 else -made  # A branch on the data.

    losses = per_example_losses(Counting(), cross_entropy)
    with pytest.raises(UnsupportedLayerError, match="cannot be mapped over examples") as refused:
        losses(torch.ones(2, 3), torch.zeros(2, dtype=torch.long))
    assert "\n" not in str(refused.value)


def test_wrong_shapes_are_refused() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(LossShapeError, match="must be one number"):
        per_example_losses(model, lambda made, target: made)(torch.ones(2, 3), torch.ones(2))
    with pytest.raises(LossShapeError, match="2 inputs but 3 targets"):
        per_example_losses(model, cross_entropy)(torch.ones(2, 3), torch.ones(3))
    with pytest.raises(UnsupportedLayerError, match="nothing to train"):
        per_example_losses(model.requires_grad_(False), cross_entropy)
