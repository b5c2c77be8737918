"""Which layers are compared and how, on a teacher whose layers were really taken out."""

import pytest
import torch
from torch import Tensor

from sdk.build.losses import LayerPair, feature_mse, features, layer_pairs
from tests.tiny import tiny_model

KEPT, TEACHER_LAYERS = (0, 1, 4, 5, 8), 9


def states(seed: int, width: int = 6) -> Tensor:
    return torch.randn(2, 5, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


WEIGHTS = torch.tensor([[1.0, 1, 1, 0, 0], [1, 0.5, 2, 1, 1]]).double()


def test_a_student_layer_is_paired_with_the_input_of_the_next_kept_one() -> None:
    assert layer_pairs(KEPT, TEACHER_LAYERS) == ((1, 1), (2, 4), (3, 5), (4, 8), (5, 9))


def test_points_spread_evenly_and_end_with_the_last() -> None:
    kept = (*range(12), 16, *range(18, 25), *range(26, 30))
    pairs = layer_pairs(kept, 30, points=5)
    assert pairs == ((4, 4), (9, 9), (14, 19), (19, 24), (24, 30))
    assert layer_pairs(kept, 30, points=24) == layer_pairs(kept, 30)


@pytest.mark.parametrize(
    ("kept", "points", "line"),
    [
        ((), None, "must rise"),
        ((0, 2, 2), None, "must rise"),
        ((0, 9), None, r"within 0\.\.8"),
        ((-1, 3), None, "must rise"),
        (KEPT, 0, r"points must be in 1\.\.5"),
        (KEPT, 6, r"points must be in 1\.\.5"),
    ],
)
def test_impossible_maps_are_refused(kept: tuple[int, ...], points: int | None, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        layer_pairs(kept, TEACHER_LAYERS, points=points)


def test_features_are_the_mean_square_of_scaled_states_without_the_first_position() -> None:
    student, teacher, wanted = states(0), states(1), 0.0
    for row in range(2):
        for place in range(1, 5):
            s, t = student[row, place], teacher[row, place]
            s, t = s / s.square().mean().sqrt(), t / t.square().mean().sqrt()
            wanted += float(WEIGHTS[row, place] * (s - t).square().mean())
    assert feature_mse(student, teacher, WEIGHTS).item() == pytest.approx(wanted, rel=1e-9)


def test_the_gradient_is_that_of_finite_differences_and_the_teacher_gets_none() -> None:
    student, teacher = states(0).requires_grad_(), states(1, 4).requires_grad_()
    projection = torch.randn(6, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, p: feature_mse(s, teacher, WEIGHTS, projection=p), (student, projection))
    loss = feature_mse(student, teacher, WEIGHTS, projection=projection)
    assert torch.autograd.grad(loss, teacher, allow_unused=True)[0] is None


def test_size_does_not_matter_and_the_first_position_neither() -> None:
    student, teacher = states(0), states(1)
    found = feature_mse(student, teacher, WEIGHTS).item()
    loud = torch.cat([1e4 * student[:, :1], student[:, 1:]], 1)
    assert feature_mse(loud, teacher, WEIGHTS).item() == found
    assert feature_mse(100 * student, 0.01 * teacher, WEIGHTS).item() == pytest.approx(found, rel=1e-6)
    assert feature_mse(student, student.clone(), WEIGHTS).item() == 0.0


def test_a_state_of_zeros_has_a_finite_gradient() -> None:
    student = torch.zeros(2, 5, 6).requires_grad_()
    (slope,) = torch.autograd.grad(feature_mse(student, states(1).float(), WEIGHTS.float()), student)
    assert bool(slope.isfinite().all())


def test_other_widths_need_a_projection() -> None:
    with pytest.raises(ValueError, match="give a projection"):
        feature_mse(states(0), states(1, 4), WEIGHTS)


def apart_by_pair() -> list[float]:
    """How unlike paired states are in a student that computes exactly what its teacher does with one layer less.

    The teacher's layer 0 only attends and its layer 1 only feeds forward; the student's layer 0 does both.
    """
    teacher, student = tiny_model(layers=4), tiny_model(layers=3)
    first, second, *others = teacher.model.layers
    with torch.no_grad():
        first.mlp.down_proj.weight.zero_()
        second.self_attn.o_proj.weight.zero_()
    student.model.embed_tokens.load_state_dict(teacher.model.embed_tokens.state_dict())
    for mine, theirs in zip(student.model.layers, (first, *others), strict=True):
        mine.load_state_dict(theirs.state_dict())
    student.model.layers[0].mlp.load_state_dict(second.mlp.state_dict())
    tokens = torch.arange(12).view(2, 6)
    with torch.no_grad():
        told, ours = (model(tokens, output_hidden_states=True).hidden_states for model in (teacher, student))
    pairs = features.layer_pairs((0, 2, 3), 4)
    return [feature_mse(ours[pair.student], told[pair.teacher], torch.ones(2, 6)).item() for pair in pairs]


def test_a_student_that_computes_what_its_teacher_does_has_no_distance() -> None:
    assert max(apart_by_pair()) < 1e-9


@pytest.mark.parametrize(
    "wrong",
    [
        lambda kept, layers: tuple(LayerPair(place + 1, layer + 1) for place, layer in enumerate(kept)),
        lambda kept, layers: tuple(LayerPair(p, round(p * layers / len(kept))) for p in range(1, len(kept) + 1)),
    ],
    ids=["output of the same layer", "evenly"],
)
def test_wrong_pairs_are_caught(monkeypatch: pytest.MonkeyPatch, wrong: object) -> None:
    monkeypatch.setattr(features, "layer_pairs", wrong)
    assert max(apart_by_pair()) > 0.01
