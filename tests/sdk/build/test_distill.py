"""The training loop and the whole still, on tiny models: it learns, stops, goes on, and says what is wrong."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from sdk.build import distill as loop
from sdk.build.checkpoint import open_checkpoint
from sdk.build.distill import Recipe, Trained, train
from sdk.build.grid import Grid
from sdk.build.losses import LossWeights
from sdk.build.make_student import make_student
from sdk.build.outputs import Lesson, lessons
from sdk.build.package import package_student
from sdk.build.plan import BuildPlan
from sdk.build.sequences import TokenSequence
from sdk.build.student import shallower
from sdk.build.worked import Worked
from sdk.bundle import Bundle
from sdk.cli.app import cli
from sdk.device.runtime import Runtime
from sdk.errors import BuildError, DistillError, LicenceError, PlanError
from tests.sdk.build.conftest import Still
from tests.tiny import SENTENCES, VOCABULARY, tiny_model

MIX = LossWeights(cross_entropy=0.5, forward_kl=1.0)
RECIPE = Recipe(frozen=1, mix=MIX, rate=3e-3, passes=3, batch_tokens=96)


def quiet(what: str, done: int, total: int) -> None:
    """No progress."""


def sequences(count: int = 16, length: int = 20) -> list[TokenSequence]:
    """Random stretches."""
    ids = torch.randint(VOCABULARY, (count, length), generator=torch.Generator().manual_seed(4)).tolist()
    return [TokenSequence(ids=tuple(row), first=1) for row in ids]


def pupil() -> tuple[Any, list[Lesson]]:
    """A pruned student and what its teacher says."""
    teacher = tiny_model(layers=4)
    student = shallower(teacher, (0, 1, 3))
    made = lessons(
        sequences(),
        student=student,
        frozen=1,
        teacher=teacher,
        top_k=VOCABULARY,
        worked=Worked(None),
        name="text",
        progress=quiet,
    )
    return student, made


def trained(recipe: Recipe = RECIPE, **given: Any) -> tuple[Any, Trained]:
    """A student after training."""
    student, made = pupil()
    told = train(student, made, recipe, **{"worked": Worked(None), "name": "train", "progress": quiet, **given})
    return student, told


def distance(student: Any) -> float:
    """Mean KL of a student from its teacher on the sequences."""
    ids = torch.tensor([one.ids for one in sequences()])
    with torch.no_grad():
        wanted = torch.log_softmax(tiny_model(layers=4)(input_ids=ids).logits, -1)
        given = torch.log_softmax(student(input_ids=ids).logits, -1)
    return float((wanted.exp() * (wanted - given)).sum(-1).mean())


def test_a_lesson_starts_where_the_frozen_layers_end() -> None:
    student, made = pupil()
    ids = torch.tensor([made[0].sequence.ids])
    with torch.no_grad():
        states = student(input_ids=ids, output_hidden_states=True).hidden_states[1]
    assert torch.allclose(made[0].hidden.float(), states[0], atol=2e-3, rtol=2e-3)
    assert made[0].top_logs is not None
    assert float(made[0].top_logs.float().exp().sum(1).min()) == pytest.approx(1, abs=5e-3)


def test_training_brings_the_student_closer_to_its_teacher() -> None:
    untrained, _ = pupil()
    student, told = trained()
    assert distance(student) < 0.8 * distance(untrained)
    assert told.losses[-1][1] < told.losses[0][1]
    assert told.tokens == 16 * 20 * 3
    assert 0 < told.largest < 65_504


def test_frozen_layers_and_embedding_stay(tmp_path: Path) -> None:
    student, _ = trained()
    untouched, _ = pupil()
    for name, value in student.state_dict().items():
        moved = not torch.equal(value, untouched.state_dict()[name])
        assert moved == (name.startswith(("model.layers.1.", "model.layers.2.")) or name == "model.norm.weight"), name


def test_what_was_trained_on_the_grid_lies_on_it() -> None:
    student, told = trained(replace(RECIPE, quantised_share=0.5))
    weights = dict(student.named_parameters())
    assert len(told.grids) == 2 * 7
    for name, grid in told.grids.items():
        assert torch.equal(grid.values(weights[name]), weights[name])
    assert torch.equal(weights["model.norm.weight"].half().float(), weights["model.norm.weight"])


def test_training_on_the_grid_beats_rounding_afterwards() -> None:
    aware, _ = trained(replace(RECIPE, passes=8, quantised_share=0.5))
    rounded, _ = trained(replace(RECIPE, passes=8))
    with torch.no_grad():
        for layer in rounded.model.layers[1:]:
            for module in layer.modules():
                if isinstance(module, torch.nn.Linear):
                    module.weight.copy_(Grid.fitted(module.weight).values(module.weight))
    assert distance(aware) < distance(rounded)


@pytest.mark.parametrize("stop_after", [1, 5, 9])
def test_an_interrupted_run_goes_on_to_the_same_weights(tmp_path: Path, stop_after: int) -> None:
    recipe = replace(RECIPE, quantised_share=0.5)
    whole, told_whole = trained(recipe)
    seen: list[int] = []

    def stopping(what: str, done: int, total: int) -> None:
        if done == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(recipe, worked=Worked(tmp_path), progress=stopping)
    resumed, told = trained(recipe, worked=Worked(tmp_path), progress=lambda what, done, total: seen.append(done))
    assert seen[0] == stop_after + 1
    assert told.losses == told_whole.losses
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name


def test_a_run_that_forgets_its_moments_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = loop._Run.state

    def forgetful(self: Any) -> dict[str, Any]:
        return {name: value for name, value in real(self).items() if "#" not in name}

    monkeypatch.setattr(loop._Run, "state", forgetful)
    with pytest.raises(AssertionError):
        test_an_interrupted_run_goes_on_to_the_same_weights(tmp_path, 5)


def test_a_loss_that_is_no_number_stops_and_says_where(tmp_path: Path) -> None:
    student, made = pupil()
    with torch.no_grad():
        student.model.layers[2].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(DistillError, match=r"step 0: the loss is no number, first in model\.layers\.2\.mlp\.up_proj"):
        train(student, made, RECIPE, worked=Worked(tmp_path), name="train", progress=quiet)
    assert list(tmp_path.iterdir()) == []


def test_a_rate_that_explodes_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "KEPT_EVERY_SECONDS", -1.0)
    monkeypatch.setattr(loop, "CLIP", float("inf"))
    with pytest.raises(DistillError, match="no number"):
        trained(replace(RECIPE, rate=1e18, passes=20), worked=Worked(tmp_path))
    kept = Worked(tmp_path).read("train")
    assert kept is not None
    assert int(kept["done"][0]) >= 1


def run(plan: Path, **given: Any) -> dict[str, Any]:
    """Make the student of a plan beside it."""
    return make_student(
        plan,
        **{"out": plan.parent / "student", "work": plan.parent / "work", "accepted": (), "progress": quiet, **given},
    )


def test_a_plan_becomes_a_student_that_loads_to_its_own_values(still: Still) -> None:
    plan = still()
    told = run(plan)
    model, tokenizer = open_checkpoint(plan.parent / "student")
    assert len(tokenizer) == VOCABULARY - 10 == told["vocabulary"]
    assert len(model.model.layers) == 3
    assert all(torch.equal(value.half().float(), value) for value in model.state_dict().values())
    training = json.loads((plan.parent / "student" / "training.json").read_bytes())
    assert training["licence"] == "mit"
    assert len(training["kept_tokens"]) == VOCABULARY - 10


def test_a_build_killed_between_steps_goes_on_to_the_same_bytes(still: Still) -> None:
    plan = still()

    def killing(what: str, done: int, total: int) -> None:
        if what.startswith("read taught"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(plan, progress=killing)
    run(plan)
    run(plan, out=plan.parent / "again", work=plan.parent / "fresh")
    folders = [plan.parent / name / "model.safetensors" for name in ("student", "again")]
    assert folders[0].read_bytes() == folders[1].read_bytes()


def test_another_plan_does_not_go_on_with_old_work(still: Still, tmp_path: Path) -> None:
    run(still())
    with pytest.raises(DistillError, match="another plan"):
        run(still(seed=1), out=tmp_path / "other")


def test_other_text_does_not_go_on_with_old_work(still: Still, tmp_path: Path) -> None:
    plan = still()
    run(plan)
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": SENTENCES[0] * 30}) + "\n", encoding="utf-8")
    with pytest.raises(DistillError, match="other text"):
        run(plan, out=tmp_path / "other")


def test_a_licence_that_was_not_accepted_stops_before_work(still: Still, tmp_path: Path) -> None:
    plan = still()
    (tmp_path / "teacher" / "README.md").write_text("---\nlicense: gemma\n---\n", encoding="utf-8")
    with pytest.raises(LicenceError, match="gemma"):
        run(plan)
    assert not (tmp_path / "work").exists()
    run(plan, accepted=("gemma",))


def test_answers_of_another_teacher_bind_the_student_too(still: Still, tmp_path: Path) -> None:
    plan, tasks = still(), tmp_path / "tasks.jsonl"
    answered = {"prompt": "say more", "answer": "more", "teacher": "gemma-3", "teacher_licence": "gemma"}
    tasks.write_text(tasks.read_text(encoding="utf-8") + json.dumps(answered) + "\n", encoding="utf-8")
    with pytest.raises(LicenceError, match="gemma"):
        run(plan)
    assert not (tmp_path / "work").exists()
    told = run(plan, accepted=("gemma",))
    assert told["answers_by"] == [{"teacher": "gemma-3", "licence": "gemma"}]
    (tmp_path / "card.md").write_text("# A student\n", encoding="utf-8")
    made = package_student(tmp_path / "student", tmp_path / "out", name="tiny", version="1", card=tmp_path / "card.md")
    assert made.manifest.licence == "mit AND gemma"
    bill = json.loads((made.folder / "materials.json").read_bytes())
    assert bill["metadata"]["component"]["licenses"] == [{"license": {"id": "MIT"}}, {"license": {"name": "gemma"}}]
    assert [one["name"] for one in bill["components"]] == ["teacher", "gemma-3", "text.jsonl", "tasks.jsonl"]
    assert bill["dependencies"][0]["dependsOn"] == [one["bom-ref"] for one in bill["components"]]


def test_what_cannot_be_made_is_refused(still: Still, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="keeps layer 9"):
        run(still(layers=[0, 9]))
    (tmp_path / "student").mkdir()
    with pytest.raises(DistillError, match="exists"):
        run(still())


def test_the_commands_print_a_plan_make_a_student_and_pack_it(still: Still, tmp_path: Path) -> None:
    printed = CliRunner().invoke(cli, ["build", "plan"])
    assert BuildPlan().to_json() == printed.output
    plan, student, bundle = still(), tmp_path / "student", tmp_path / "bundle"
    made = CliRunner().invoke(cli, ["build", "distill", str(plan), "--out", str(student), "--json"])
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["layers"] == 3
    (tmp_path / "card.md").write_text("# A student\n", encoding="utf-8")
    told = ["--name", "tiny", "--version", "1", "--card", str(tmp_path / "card.md"), "--json"]
    packed = CliRunner().invoke(cli, ["build", "package", str(student), "--out", str(bundle), *told])
    assert packed.exit_code == 0, packed.output
    opened = Bundle.open(bundle, verify="digests")
    assert opened.manifest.licence == "mit"
    assert {"card.md", "materials.json", "plan.json", "training.json"} <= set(opened.manifest.files)
    runtime = Runtime.open(opened)
    assert len("".join(runtime.stream("the cat", max_new_tokens=4))) >= 0
    model, _ = open_checkpoint(student)
    assert torch.equal(runtime.model.model.layers[0].mlp.up_proj.weight, model.model.layers[0].mlp.up_proj.weight)


def test_a_folder_that_is_no_student_is_not_packed(still: Still, tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    card.write_text("# None\n", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BuildError, match=r"lacks config\.json"):
        package_student(tmp_path / "empty", tmp_path / "bundle", name="tiny", version="1", card=card)
    run(still())
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(BuildError, match="other files"):
        package_student(tmp_path / "student", tmp_path / "taken", name="tiny", version="1", card=card)
    assert (tmp_path / "taken" / "mine.txt").read_text() == "keep"
