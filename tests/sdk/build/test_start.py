"""A student goes on learning: what lies below stays to the bit, what was known of it is told, others are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sdk.build import start as starting
from sdk.build.checkpoint import save_checkpoint
from sdk.build.frozen import FrozenParts
from sdk.build.make_student import make_student
from sdk.build.package import package_student
from sdk.build.plan import BuildPlan
from sdk.errors import DistillError, LicenceError, PlanError
from tests.sdk.build.conftest import Still
from tests.tiny import tiny_model, tiny_tokenizer


def quiet(what: str, done: int, total: int) -> None:
    """No progress."""


def run(plan: Path, name: str, **given: Any) -> Path:
    """The student of a plan, in a folder of that name beside it."""
    out = plan.parent / name
    make_student(plan, **{"out": out, "work": plan.parent / f"{name}.work", "accepted": (), "progress": quiet, **given})
    return out


@pytest.fixture
def first(still: Still) -> Path:
    return run(still(quantised_share=0.5), "first")


def tensors(student: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(student / "model.safetensors"))


def told(student: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((student / "training.json").read_bytes())
    return found


def below(name: str) -> bool:
    return name.startswith(("model.embed_tokens", "model.layers.0."))


def test_what_lies_below_stays_to_the_bit_and_what_lies_above_learns(first: Path, still: Still) -> None:
    second = run(still(start="first", rate=1e-2, quantised_share=0.5), "second")
    before, after = tensors(first), tensors(second)
    assert before.keys() == after.keys()
    for name, value in before.items():
        if below(name):
            assert torch.equal(value, after[name]), name
    assert any(not torch.equal(value, after[name]) for name, value in before.items() if name.endswith(".codes"))
    for file in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        assert (first / file).read_bytes() == (second / file).read_bytes()
    assert told(second)["kept_tokens"] == told(first)["kept_tokens"]


def test_a_start_that_is_rounded_anew_is_caught(first: Path, still: Still, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(start: Any) -> FrozenParts:
        grids = {name: type(grid)(scales=grid.scales * 2, zeros=grid.zeros) for name, grid in start.parts.grids.items()}
        return FrozenParts(grids=grids, embedding=start.parts.embedding)

    real = starting.Start.read.__func__  # type: ignore[attr-defined]

    def mutant(folder: Path, plan: BuildPlan) -> Any:
        found = real(starting.Start, folder, plan)
        object.__setattr__(found, "parts", nothing(found))
        return found

    monkeypatch.setattr(starting.Start, "read", mutant)
    with pytest.raises(AssertionError):
        test_what_lies_below_stays_to_the_bit_and_what_lies_above_learns(first, still)


def test_training_tells_of_all_trainings_before(first: Path, still: Still) -> None:
    second = run(still(start="first"), "second")
    third = run(still(start="second"), "third")
    steps = [told(folder)["steps"] for folder in (first, second, third)]
    assert told(third)["start"]["steps"] == steps[0] + steps[1] > steps[0] > 0
    assert told(second)["start"]["tokens"] == told(first)["tokens"]
    assert "start" not in told(first)


def test_a_bundle_is_a_start_too(first: Path, still: Still, tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text("# A student\n", encoding="utf-8")
    package_student(first, tmp_path / "bundle", name="tiny", version="1", card=tmp_path / "card.md")
    by_bundle = run(still(start="bundle"), "by-bundle")
    by_folder = run(still(start="first"), "by-folder")
    assert (by_bundle / "model.safetensors").read_bytes() == (by_folder / "model.safetensors").read_bytes()


def test_a_killed_build_goes_on_to_the_same_bytes(first: Path, still: Still) -> None:
    plan = still(start="first", quantised_share=0.5)

    def killing(what: str, done: int, total: int) -> None:
        if what.startswith("train") and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(plan, "killed", progress=killing)
    assert (run(plan, "killed") / "model.safetensors").read_bytes() == (
        run(plan, "straight") / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"layers": [0, 1, 2]}, "other layers than the plan asks for"),
        ({"frozen_layers": 2}, "other frozen_layers"),
        ({"vocabulary": 300}, "other vocabulary"),
        ({"start": "nowhere"}, "is no student"),
        ({"start": "teacher"}, "is no student"),
    ],
)
def test_a_start_of_another_shape_is_refused(first: Path, still: Still, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        run(still(**{"start": "first", **changed}), "second")


def test_a_damaged_start_is_refused(first: Path, still: Still) -> None:
    file = first / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1_000])
    with pytest.raises(PlanError, match="is no student"):
        run(still(start="first"), "second")


def test_a_teacher_of_other_tokens_is_refused(first: Path, still: Still, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "teacher")
    tokenizer = tiny_tokenizer()
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    words = described["model"]["vocab"]
    one, two = [word for word in words if len(word) == 1][:2]
    words[one], words[two] = words[two], words[one]
    save_checkpoint(tiny_model(layers=4), tokenizer, tmp_path / "teacher")
    file = tmp_path / "teacher" / "tokenizer.json"
    file.write_text(json.dumps(described), encoding="utf-8")
    (tmp_path / "teacher" / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    with pytest.raises(PlanError, match="other tokens"):
        run(still(start="first"), "second")


def test_who_taught_the_start_binds_what_goes_on(first: Path, still: Still) -> None:
    facts = told(first) | {"answers_by": [{"teacher": "gemma-3", "licence": "gemma"}]}
    (first / "training.json").write_text(json.dumps(facts), encoding="utf-8")
    plan = still(start="first")
    with pytest.raises(LicenceError, match="gemma"):
        run(plan, "second")
    second = run(plan, "second", accepted=("gemma",))
    assert told(second)["answers_by"] == facts["answers_by"]


def test_another_start_does_not_go_on_with_old_work(first: Path, still: Still) -> None:
    plan = still(start="first")
    run(plan, "second")
    other = run(still(start="first", rate=1e-2), "other")
    shutil.copy(other / "model.safetensors", first / "model.safetensors")
    still(start="first")
    with pytest.raises(DistillError, match="another plan or of other text"):
        run(plan, "again", work=plan.parent / "second.work")


def test_bfloat16_learns_nearly_what_float32_does_and_not_the_same(still: Still) -> None:
    exact, rounded = run(still(), "exact"), run(still(precision="bfloat16"), "rounded")
    one, other = (dict(told(folder)["losses"]) for folder in (exact, rounded))
    assert one.keys() == other.keys()
    assert one != other
    for step, loss in one.items():
        assert other[step] == pytest.approx(loss, rel=0.02), step


def test_a_precision_that_nobody_multiplies_in_is_refused() -> None:
    with pytest.raises(PlanError, match="precision must be one of float32, bfloat16"):
        BuildPlan(precision="int3")


def test_a_plan_that_goes_on_comes_back_and_others_are_the_files_they_were(tmp_path: Path) -> None:
    plan = BuildPlan(start="../base", precision="bfloat16")
    (tmp_path / "plan.json").write_text(plan.to_json(), encoding="utf-8")
    assert BuildPlan.read(tmp_path / "plan.json") == plan
    assert not {"start", "precision"} & json.loads(BuildPlan().to_json()).keys()
