"""A plan's rounds: what each learns, and that one call trains them all, through kills, to the same bytes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sdk.build import still as whole
from sdk.build.distill import Recipe, train
from sdk.build.losses import LossWeights
from sdk.build.make_student import make_student
from sdk.build.many import ALONE
from sdk.build.outputs import Lesson
from sdk.build.plan import BuildPlan
from sdk.build.rounds import Round, picked
from sdk.build.sequences import read_items, read_texts, task_sequence, text_sequences
from sdk.build.student import shallower
from sdk.build.worked import Worked
from sdk.errors import DistillError, PlanError
from tests.sdk.build.conftest import Still
from tests.tiny import tiny_model, tiny_tokenizer

HOW: dict[str, Any] = {"rate": 1e-3, "passes": 1, "batch_tokens": 256, "quantised_share": 0.0, "seed": 0}
ITEMS = [("action", 10), ("title", 20), ("action", 30), ("title", 40)]
TWO = [
    {"name": "first", "rate": 2e-3, "passes": 2, "quantised_share": 0.5},
    {"name": "second", "text": [0, 1], "items": [4, 11], "taught": False, "batch_tokens": 64, "quantised_share": 0.4}
    | {"last_rate": 1.0, "seed": 3},
]


def quiet(what: str, done: int, total: int) -> None:
    """No progress."""


@pytest.mark.parametrize(
    ("stated", "wanted"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6]),
        ({"text": (1, 2)}, [1, 3, 4, 5, 6]),
        ({"text": (0, 0), "items": (1, 3)}, [4, 5]),
        ({"text": (0, 0), "tasks": {"action": 1_000}}, [3, 5]),
        ({"text": (0, 0), "tasks": {"action": 10, "title": 21}}, [3, 4, 6]),
        ({"text": (0, 99), "items": (3, 99)}, [0, 1, 2, 6]),
    ],
)
def test_a_round_takes_its_stretches_items_and_tasks(stated: dict[str, Any], wanted: list[int]) -> None:
    assert picked(Round(name="one", **HOW, **stated), 3, ITEMS) == wanted


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"tasks": {"summary": 9}}, "asks for task 'summary'"),
        ({"items": (0, 1), "tasks": {"title": 9}}, "asks for task 'title'"),
        ({"text": (0, 0), "items": (9, 12)}, "nothing to learn"),
    ],
)
def test_a_round_that_would_learn_nothing_is_refused(stated: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        picked(Round(name="one", **HOW, **stated), 3, ITEMS)


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        ([{"name": "a"}, {"name": "a"}], "two rounds are called 'a'"),
        ([{"rate": 0.1}], "round 0 of the plan has no name"),
        ([{"name": "a", "rat": 1.0}], "round 'a' has an unknown field 'rat'"),
        ([{"name": "../a"}], "cannot name a round"),
        ([{"name": 3}], "another type"),
        ([{"name": "a", "taught": 1}], "another type"),
        ([{"name": "a", "tasks": {"action": "all"}}], "another type"),
        ([{"name": "a", "tasks": ["action"]}], "another type"),
        ([{"name": "a", "tasks": {"action": 0}}], "no tokens"),
        ([{"name": "a", "text": [3]}], r"text of round 'a' must be \[from, to\]"),
        ([{"name": "a", "items": [3, 1]}], r"items of round 'a' must be \[from, to\]"),
        ([{"name": "a", "rate": 0}], "rate of round 'a'"),
        ([{"name": "a", "last_rate": 2}], "last_rate of round 'a'"),
        ([{"name": "a", "passes": 0}], "passes of round 'a'"),
        ([{"name": "a", "quantised_share": 1.5}], "quantised_share of round 'a'"),
        (["a"], "'rounds' has a value of another type"),
        ({"name": "a"}, "'rounds' has a value of another type"),
    ],
)
def test_rounds_that_no_build_can_do_are_refused(tmp_path: Path, rounds: Any, said: str) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({**json.loads(BuildPlan().to_json()), "rounds": rounds}), encoding="utf-8")
    with pytest.raises(PlanError, match=said):
        BuildPlan.read(file)


def test_a_round_without_a_teacher_needs_a_weight_to_learn_by() -> None:
    with pytest.raises(PlanError, match="round 'own' has no teacher"):
        BuildPlan(weights=LossWeights(cross_entropy=0), rounds=(Round(name="own", taught=False, **HOW),))


def test_a_plan_with_rounds_comes_back_with_what_they_left_out(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"format": "build-plan/1", "rate": 0.25, "rounds": TWO}), encoding="utf-8")
    plan = BuildPlan.read(file)
    assert [one.rate for one in plan.rounds] == [0.002, 0.25]
    file.write_text(plan.to_json(), encoding="utf-8")
    assert BuildPlan.read(file) == plan
    assert BuildPlan.read(file).digest == plan.digest


def test_the_plan_in_the_documents_is_one(tmp_path: Path) -> None:
    words = (Path(__file__).parents[3] / "docs" / "cli.md").read_text(encoding="utf-8")
    file = tmp_path / "plan.json"
    file.write_text(words.partition("### limbeck build distill")[2].partition("```json")[2].partition("```")[0])
    assert [one.name for one in BuildPlan.read(file).rounds] == ["heal", "tasks", "actions"]


def test_a_plan_without_rounds_is_the_file_that_it_was() -> None:
    plan = BuildPlan(rate=0.25, passes=3)
    assert "rounds" not in json.loads(plan.to_json())
    assert [(one.name, one.rate, one.passes) for one in plan.trainings] == [("train", 0.25, 3)]


def run(plan: Path, work: str, **given: Any) -> Path:
    """The student of a plan, made in a folder of work of its own."""
    out = plan.parent / f"student-{work}"
    make_student(plan, **{"out": out, "work": plan.parent / work, "accepted": (), "progress": quiet, **given})
    return out


def by_hand(file: Path) -> dict[str, torch.Tensor]:
    """The same two rounds put together from the parts."""
    plan, folder, worked = BuildPlan.read(file), file.parent, Worked(file.parent / "by-hand")
    texts, items = read_texts([folder / "text.jsonl"]), read_items([folder / "tasks.jsonl"])
    teacher, trimmed = whole._smaller_teacher((tiny_model(layers=4), tiny_tokenizer()), texts, items, plan, quiet, None)
    student = shallower(teacher, plan.layers)
    stretches = text_sequences(trimmed.tokenizer, texts, length=plan.sequence, tokens=plan.text_tokens)
    made = [task_sequence(trimmed.tokenizer, one.prompt, one.answer, length=plan.sequence) for one in items]
    tasks = [one for one in made if one is not None]
    whole._frozen(student, stretches, plan, worked, quiet, ALONE)
    lesson = whole._Lessons(student, plan, worked, quiet, ALONE)
    text = lesson.of("text", stretches, teacher)
    whole._correct(teacher, tasks[:6], plan, worked, quiet, ALONE)
    learned = lesson.of("taught", tasks[:6], teacher) + lesson.of("alone", tasks[6:], None)
    shared: dict[str, Any] = {"frozen": 1, "mix": plan.weights}
    first = Recipe(**shared, rate=2e-3, passes=2, batch_tokens=256, quantised_share=0.5)
    train(student, text + learned, first, worked=worked, name="one", progress=quiet)
    kept = worked.read("one")
    assert kept is not None
    student.load_state_dict({name: value for name, value in kept.items() if name in student.state_dict()}, strict=False)
    bare = [
        Lesson(sequence=one.sequence, hidden=one.hidden, top_ids=None, top_logs=None)
        for one in text[:1] + learned[4:11]
    ]
    second = Recipe(**shared, rate=plan.rate, last_rate=1.0, batch_tokens=64, quantised_share=0.4, seed=3)
    train(student, bare, second, worked=worked, name="two", progress=quiet)
    return dict(student.state_dict())


def test_two_rounds_of_a_plan_are_two_trainings_made_by_hand(still: Still) -> None:
    plan = still(rounds=TWO)
    seen: dict[str, torch.Tensor] = {}

    def packed(student: Any, parts: Any, trained: Any) -> Any:
        seen.update({name: value.clone() for name, value in student.state_dict().items()})
        return real(student, parts, trained)

    real = whole._packed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whole, "_packed", packed)
        student = run(plan, "work")
    for name, value in by_hand(plan).items():
        assert torch.equal(seen[name], value), name
    told = json.loads((student / "training.json").read_bytes())
    assert [one["name"] for one in told["rounds"]] == ["first", "second"]
    for what in ("steps", "tokens"):
        assert told[what] == sum(one[what] for one in told["rounds"])
        assert all(one[what] > 1 for one in told["rounds"])
    assert [step for step, _ in told["losses"]] == list(range(told["steps"]))
    assert told["losses"][-1][1] == told["rounds"][1]["losses"][-1][1]


@pytest.mark.parametrize(("what", "done"), [("round-first", "last"), ("round-second", 1)])
def test_a_build_killed_in_or_between_rounds_goes_on_to_the_same_bytes(
    still: Still,
    what: str,
    done: Any,
) -> None:
    plan = still(rounds=TWO)
    before: list[str] = []

    def killing(doing: str, steps: int, total: int) -> None:
        if doing.startswith(what) and steps == (total if done == "last" else done):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(plan, "killed", progress=killing)
    resumed = run(plan, "killed", progress=lambda doing, steps, total: before.append(doing))
    assert not any(doing.startswith("round-first") for doing in before)
    straight = run(plan, "straight")
    for file in ("model.safetensors", "training.json", "plan.json"):
        assert (resumed / file).read_bytes() == (straight / file).read_bytes(), file


def test_a_round_that_begins_on_the_grid_is_caught(still: Still, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapped(model: Any, *given: Any, **named: Any) -> Any:
        found = train(model, *given, **named)
        return replace(found, latent={name: value.clone() for name, value in model.state_dict().items()})

    monkeypatch.setattr("sdk.build.still.train", snapped)
    with pytest.raises(AssertionError):
        test_two_rounds_of_a_plan_are_two_trainings_made_by_hand(still)


def test_a_round_that_asks_for_too_much_is_refused_before_the_teacher_reads(still: Still) -> None:
    plan = still(rounds=[{"name": "first"}, {"name": "late", "tasks": {"summary": 100}}])
    seen: list[str] = []
    with pytest.raises(PlanError, match="round 'late' asks for task 'summary'"):
        run(plan, "work", progress=lambda what, done, total: seen.append(what))
    assert not any(what.startswith("read") for what in seen)


def test_tasks_that_were_named_anew_do_not_go_on_with_old_work(still: Still) -> None:
    plan = still(rounds=[{"name": "only"}])
    run(plan, "work")
    tasks = plan.parent / "tasks.jsonl"
    rows = [json.loads(line) | {"task": "talk"} for line in tasks.read_text(encoding="utf-8").splitlines()]
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(DistillError, match="other text"):
        make_student(plan, out=plan.parent / "other", work=plan.parent / "work", accepted=(), progress=quiet)
