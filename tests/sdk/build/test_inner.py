"""Inner states of a teacher at hand: the maps are the model's own, and a student is drawn to the right layers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from personalize.forward import decoder_layers
from sdk.build import inner as module
from sdk.build.distill import Recipe, train
from sdk.build.inner import InnerTeacher, attention_maps
from sdk.build.losses import LossWeights, layer_pairs
from sdk.build.outputs import lessons
from sdk.build.sequences import TokenSequence
from sdk.build.student import shallower
from sdk.build.worked import Worked
from sdk.errors import DistillError
from tests.tiny import VOCABULARY, tiny_model

KEPT = (0, 2, 3)
IDS = torch.arange(24).view(2, 12) * 7 % VOCABULARY
WEIGHTS = torch.ones(2, 12)
BOTH = LossWeights(cross_entropy=0, forward_kl=0, features=1.0, attention=0.5)


def states_of(model: Any, first: int = 1) -> dict[int, Tensor]:
    """What goes into each layer from `first` on, and what leaves the final norm."""
    hidden, states = model.model.embed_tokens(IDS), {}
    for layer in range(len(model.model.layers)):
        if layer >= first:
            states[layer] = hidden
        hidden = decoder_layers(model, hidden, layer, layer + 1)
    return {**states, len(model.model.layers): model.model.norm(hidden)}


@torch.no_grad()
def test_maps_are_those_of_the_slow_attention() -> None:
    model = tiny_model()
    states = states_of(model, 0)
    model.set_attn_implementation("eager")
    slow = model(IDS, output_attentions=True).attentions
    for layer in range(4):
        assert torch.allclose(attention_maps(model, layer, states[layer]), slow[layer], atol=1e-6)


def test_a_student_with_all_layers_is_no_distance_from_its_teacher() -> None:
    model = tiny_model()
    teacher = InnerTeacher(model=model, kept=(0, 1, 2, 3))
    assert teacher.loss(model, states_of(model), IDS, WEIGHTS, BOTH).item() == pytest.approx(0.0, abs=1e-5)


def test_both_parts_have_their_weight_and_a_gradient_for_the_student_only() -> None:
    model = tiny_model()
    student = shallower(model, KEPT)
    teacher = InnerTeacher(model=model, kept=KEPT)
    found = {}
    for name in ("features", "attention"):
        mix = LossWeights(**{"cross_entropy": 0, "forward_kl": 0, name: 1.0})
        loss = teacher.loss(student, states_of(student), IDS, WEIGHTS, mix)
        loss.backward()
        slope = student.model.layers[0].mlp.down_proj.weight.grad
        assert slope is not None
        assert slope.abs().max() > 1e-6
        assert all(parameter.grad is None for parameter in model.parameters())
        found[name] = loss.item()
    both = teacher.loss(student, states_of(student), IDS, WEIGHTS, BOTH).item()
    assert both == pytest.approx(found["features"] + 0.5 * found["attention"], rel=1e-5)


def learned(folder: Path) -> tuple[Any, Any, list[Any]]:
    teacher = tiny_model()
    student = shallower(teacher, KEPT)
    taught = lessons(
        [TokenSequence(ids=tuple(ids), first=1) for ids in IDS.tolist()],
        student=student,
        frozen=0,
        teacher=teacher,
        top_k=16,
        worked=Worked(folder),
        name="taught",
        progress=lambda *_: None,
    )
    return teacher, student, taught


def distance(teacher: Any, student: Any) -> float:
    """Features between the right layers."""
    mix = LossWeights(cross_entropy=0, forward_kl=0, features=1.0)
    with torch.no_grad():
        return float(InnerTeacher(model=teacher, kept=KEPT).loss(student, states_of(student), IDS, WEIGHTS, mix))


def after_training(folder: Path) -> tuple[float, float]:
    """Distance before and after learning features and attention alone."""
    teacher, student, taught = learned(folder)
    before = distance(teacher, student)
    recipe = Recipe(frozen=0, mix=BOTH, rate=5e-3, passes=60)
    inner = InnerTeacher(model=teacher, kept=KEPT)
    train(student, taught, recipe, worked=Worked(None), name="train", progress=lambda *_: None, inner=inner)
    return before, distance(teacher, student)


def test_the_loop_draws_a_student_to_its_teachers_states(tmp_path: Path) -> None:
    before, after = after_training(tmp_path)
    assert after < 0.5 * before


def test_a_student_drawn_to_the_wrong_layers_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        module,
        "layer_pairs",
        lambda kept, layers: [pair._replace(teacher=kept[pair.student - 1]) for pair in layer_pairs(kept, layers)],
    )
    teacher, student, taught = learned(tmp_path)
    inner = InnerTeacher(model=teacher, kept=KEPT)
    recipe = Recipe(frozen=0, mix=BOTH, rate=5e-3, passes=60)
    train(student, taught, recipe, worked=Worked(None), name="train", progress=lambda *_: None, inner=inner)
    monkeypatch.undo()
    assert distance(teacher, student) > 0.5 * distance(teacher, shallower(teacher, KEPT))


@pytest.mark.parametrize(
    ("mix", "line"),
    [
        (LossWeights(features=1.0), "no teacher shows its inner states"),
        (LossWeights(attention=1.0), "no teacher shows its inner states"),
        (LossWeights(self_distillation=1.0), "no layer is an exit"),
    ],
)
def test_a_weight_without_what_it_weighs_is_refused(tmp_path: Path, mix: LossWeights, line: str) -> None:
    _, student, taught = learned(tmp_path)
    with pytest.raises(DistillError, match=line):
        train(
            student,
            taught,
            Recipe(frozen=0, mix=mix, rate=1e-3),
            worked=Worked(None),
            name="train",
            progress=lambda *_: None,
        )
