"""Device tasks are scored by the curriculum's own rules; the quality is fair to small tasks; bad files are refused."""

import json
from pathlib import Path

import pytest

from sdk.build.evaluate import device_tasks
from sdk.build.evaluate.device_tasks import answered, read_tasks, task_of, task_score
from sdk.errors import EvaluationError
from sdk.tasks import prompt
from tests.tiny import tiny_model, tiny_tokenizer

CALL = {"task": "action", "prompt": prompt("action", "call Ana"), "answer": '{"action":"call","to":"Ana"}'}
TITLE = {"task": "title", "prompt": prompt("title", "The cat sat on the mat."), "answer": "A cat on a mat"}
PROOF = {"task": "proofread", "prompt": prompt("proofread", "He go home ."), "answer": "He goes home ."}


def tasks_of(*lines: dict[str, str]) -> list[device_tasks.Task]:
    return [task_of(place, line) for place, line in enumerate(lines)]


def test_each_kind_of_task_has_its_own_figures() -> None:
    found = answered(tasks_of(CALL, TITLE, PROOF), [CALL["answer"], "A cat on a hat", "He goes home !"]).estimates()
    assert {name: found[name].value for name in ("valid", "named", "slot_f1", "exact", "copied")} == dict.fromkeys(
        ("valid", "named", "slot_f1", "exact", "copied"), 1.0
    )
    assert found["rouge_l"].value == pytest.approx(2 * 4 / 10)
    # One edit of two is right, one was wanted: precision 1/2, recall 1, F0.5 = 1.25 · 0.5 / (0.25 · 0.5 + 1).
    assert found["edit_f"].value == pytest.approx(1.25 * 0.5 / (0.25 * 0.5 + 1))
    assert found["valid"].items == found["rouge_l"].items == found["edit_f"].items == 1


def test_the_quality_is_a_mean_of_tasks_not_of_items() -> None:
    lines = tasks_of(*[CALL] * 9, TITLE)
    found = answered(lines, [CALL["answer"]] * 9 + ["nothing alike"]).estimates()
    assert found["quality"].value == pytest.approx((1.0 + 0.0) / 2)


def test_a_quality_that_counts_items_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = device_tasks._scores
    monkeypatch.setattr(device_tasks, "_scores", lambda task, answer, count: honest(task, answer, 1))
    found = answered(tasks_of(*[CALL] * 9, TITLE), [CALL["answer"]] * 9 + ["nothing alike"]).estimates()
    assert found["quality"].value == pytest.approx(0.9)


def test_text_that_needs_no_correction_and_gets_none_is_right() -> None:
    clean = {"task": "proofread", "prompt": prompt("proofread", "He goes."), "answer": "He goes."}
    found = answered(tasks_of(clean), ["He goes."]).estimates()
    assert found["quality"].value == 1
    assert "edit_f" not in found


def test_a_small_choice_takes_each_task_in_turn(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text("\n".join(map(json.dumps, [CALL] * 20 + [TITLE] * 2 + [PROOF])), encoding="utf-8")
    found = read_tasks(file, most=6)
    assert sorted(task.task for task in found) == ["action"] * 3 + ["proofread"] + ["title"] * 2
    assert found == read_tasks(file, most=6)
    assert len(read_tasks(file, most=None)) == 23


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        json.dumps({"task": "action"}),
        json.dumps(CALL | {"task": "dance"}),
        json.dumps(CALL | {"task": "title"}),
        json.dumps(CALL | {"answer": '{"action":"dance"}'}),
        "",
    ],
)
def test_what_is_no_task_file_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "tasks.jsonl").write_text(line, encoding="utf-8")
    with pytest.raises(EvaluationError, match=r"tasks\.jsonl holds"):
        read_tasks(tmp_path / "tasks.jsonl", most=None)


def test_a_real_model_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_tasks, "MAX_NEW_TOKENS", 4)
    found = task_score(tiny_model(), tiny_tokenizer(), [CALL, TITLE])
    assert found["valid"].value == 0
    assert found["quality"].items == 2
    with pytest.raises(EvaluationError, match="no device task"):
        task_score(tiny_model(), tiny_tokenizer(), [CALL | {"task": "dance"}])
