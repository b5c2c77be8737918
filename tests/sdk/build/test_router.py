"""Tasks in, the model's own answers rated, a calibration of it out; what was answered is not answered again."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sdk.build import router
from sdk.build.evaluate.device_tasks import Task
from sdk.build.evaluate.opened import Opened, open_model
from sdk.build.package import package_student
from sdk.build.router import make_router, rated, words_of
from sdk.bundle import checkpoint_digest
from sdk.confidence import Calibration
from sdk.device.router import Router
from sdk.errors import EvaluationError, RouterError
from sdk.tasks import prompt
from tests.tiny import tiny_bundle


def tasks_file(folder: Path, count: int = 64) -> Path:
    file = folder / "tasks.jsonl"
    lines = [
        {"task": "reply", "prompt": prompt("reply", f"the cat {number}"), "answer": "the dog"}
        for number in range(count)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(router, "MAX_NEW_TOKENS", 4)
    return tiny_bundle(tmp_path).checkpoint


def test_a_calibration_is_of_its_model_and_goes_on_from_kept_answers(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, told = tmp_path / "router.json", []
    made = make_router(checkpoint, tasks_file(tmp_path), out=out, progress=lambda *now: told.append(now))
    assert Calibration.parse(out.read_bytes()) == made
    assert made.base_digest == checkpoint_digest(checkpoint)
    assert made.report["answers"] == 64
    assert told[-1] == ("answer the tasks", 64, 64)
    assert "at most 5.0% of all answers wrong and kept" in words_of(made)

    kept = out.with_suffix(".answers.jsonl")
    lines = kept.read_text(encoding="utf-8").splitlines(keepends=True)
    kept.write_text("".join(lines[:50]) + lines[50][:20], encoding="utf-8")  # As a kill leaves it.
    asked: list[int] = []

    def counted(opened: Opened, tasks: Sequence[Task]) -> list[dict[str, Any]]:
        asked.append(len(tasks))
        return rated(opened, tasks)

    monkeypatch.setattr(router, "rated", counted)
    assert make_router(checkpoint, tasks_file(tmp_path), out=out) == made
    assert asked == [14]


def test_answers_of_another_model_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "router.json"
    make_router(checkpoint, tasks_file(tmp_path), out=out)
    other = tiny_bundle(tmp_path, seed=1).checkpoint
    with pytest.raises(EvaluationError, match="of another model"):
        make_router(other, tasks_file(tmp_path), out=out)


def test_too_few_tasks_are_refused_and_nothing_is_written(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(RouterError, match="8 answers cannot"):
        make_router(checkpoint, tasks_file(tmp_path, 8), out=tmp_path / "router.json")
    assert not (tmp_path / "router.json").exists()


def test_evidence_is_that_of_the_models_own_scores(checkpoint: Path) -> None:
    opened = open_model(checkpoint)
    ids = [1, 20, 30, 40, 50, 60]
    (steps,) = router._steps(opened.model, [ids[:3]], [ids[3:]])
    logs = opened.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(1)
    for place, step in enumerate(steps):
        row = logs[2 + place]
        best = row.topk(2).values
        assert step.log_probability == pytest.approx(float(row[ids[3 + place]]), abs=1e-4)
        assert step.margin == pytest.approx(float(best[0] - best[1]), abs=1e-4)
        assert step.entropy == pytest.approx(float(-(row.exp() * row).sum()), abs=1e-4)


def student(folder: Path, checkpoint: Path) -> Path:
    """A student's folder as distillation writes it."""
    folder.mkdir()
    for file in checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    facts = {"licence": "Apache-2.0", "teacher": "tiny"}
    (folder / "training.json").write_text(json.dumps(facts), encoding="utf-8")
    (folder / "plan.json").write_text(json.dumps({"text": [], "tasks": []}), encoding="utf-8")
    return folder


def test_a_bundle_takes_its_own_router_in_and_no_other(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdk.build.package.bill_of_materials", lambda **facts: "{}")
    monkeypatch.setattr("sdk.build.package.write_probes", lambda folder: None)
    out = tmp_path / "router.json"
    made = make_router(checkpoint, tasks_file(tmp_path), out=out)
    card = tmp_path / "card.md"
    card.write_text("# tiny\n", encoding="utf-8")
    names = SimpleNamespace(name="tiny-student", version="1", card=card)
    folder = student(tmp_path / "student", checkpoint)
    bundle = package_student(folder, tmp_path / "bundle", router=out, **vars(names))
    assert Router.of(bundle).calibration == made
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")  # Another student now.
    with pytest.raises(RouterError, match="another student"):
        package_student(folder, tmp_path / "bundle", router=out, **vars(names))
