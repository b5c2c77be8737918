"""The bench of task streams: its figures are those of their definitions, and its arms do what they say."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from personalize.adapter import AdapterSpec
from tests.bench import tasks
from tests.bench.people import DATA
from tests.bench.tasks import Features, Part, Stream, metrics, run
from tests.tiny import tiny_model

FORGETTING = [[90.0], [40.0, 80.0], [10.0, 60.0, 70.0]]
"""Three tasks: a[i][j] by hand."""


def test_the_figures_of_a_small_stream_are_those_of_their_definitions() -> None:
    found = metrics(FORGETTING, [3.0, -1.0])
    assert found["ACC"] == pytest.approx((10 + 60 + 70) / 3)
    assert found["Abar"] == pytest.approx((90 + 60 + 140 / 3) / 3)
    assert found["BWT"] == pytest.approx(((10 - 90) + (60 - 80)) / 2)
    assert found["forgetting"] == pytest.approx(((90 - 10) + (80 - 60)) / 2)
    assert found["FWT"] == 1.0


def test_forgetting_counts_from_the_best_and_bwt_from_the_first() -> None:
    found = metrics([[50.0], [70.0, 80.0], [60.0, 80.0, 90.0]], [])
    assert found["BWT"] == pytest.approx((10 + 0) / 2)
    assert found["forgetting"] == pytest.approx((10 + 0) / 2)
    assert found["FWT"] is None


def test_joint_training_has_an_accuracy_and_nothing_to_forget() -> None:
    found = metrics([[80.0, 90.0]], [])
    assert found == {"ACC": 85.0, "Abar": None, "BWT": None, "FWT": None, "forgetting": None}


def easy(classes: int = 6, each: int = 12) -> tuple[Features, Stream]:
    """Three tasks of two classes, whose texts lie around one point each; the points are near each other."""
    generator = torch.Generator().manual_seed(7)
    centres = torch.randn(1, 32, generator=generator) + 0.5 * torch.randn(classes, 32, generator=generator)
    hidden: list[torch.Tensor] = []
    train: list[Part] = []
    test: list[Part] = []
    for task in range(classes // 2):
        for part, count in ((train, each), (test, 5)):
            rows, labels = [], []
            for label in (2 * task, 2 * task + 1):
                for _ in range(count):
                    rows.append(len(hidden))
                    labels.append(label)
                    hidden.append((centres[label] + 0.3 * torch.randn(3, 32, generator=generator)).half())
            part.append(Part(rows=tuple(rows), labels=tuple(labels)))
    model = tiny_model().requires_grad_(False)
    held = Features(model=model, spec=AdapterSpec(layers=(2, 3), rank=3), hidden=tuple(hidden))
    stream = Stream(name="easy", texts=tuple(map(str, range(len(hidden)))), train=tuple(train), test=tuple(test))
    return held, stream


@pytest.mark.parametrize("arm", ["means", "lda"])
def test_frozen_arms_forget_nothing_and_know_what_is_easy(arm: str) -> None:
    found = run(arm, *easy(), epochs=1, seed=0)
    assert found["ACC"] > 95
    assert found["forgetting"] < 5
    assert len(found["accuracy"]) == 3


@pytest.mark.parametrize("arm", ["means", "lda"])
def test_frozen_arms_end_alike_in_any_order_but_for_where_they_are_centred(arm: str) -> None:
    held, stream = easy()
    backwards = replace(stream, train=stream.train[::-1], test=stream.test[::-1])
    one, other = run(arm, held, stream, epochs=1, seed=0), run(arm, held, backwards, epochs=1, seed=0)
    assert one["ACC"] == pytest.approx(other["ACC"], abs=5)


def test_training_without_a_safeguard_forgets_and_rehearsal_forgets_less() -> None:
    held, stream = easy()
    bare, kept, joint = (run(arm, held, stream, epochs=20, seed=0) for arm in ("lora", "rehearsal", "joint"))
    assert joint["ACC"] > 90
    assert bare["forgetting"] > 40
    assert kept["forgetting"] < bare["forgetting"] - 20
    assert kept["ACC"] > bare["ACC"] + 20


def test_an_arm_that_rehearses_nothing_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "KEPT", 0)
    with pytest.raises(AssertionError):
        test_training_without_a_safeguard_forgets_and_rehearsal_forgets_less()


def test_no_class_of_a_later_task_is_ever_named() -> None:
    held, stream = easy()
    for task, (name, _) in enumerate(tasks.frozen_arm(held, stream, covariance=False)):
        assert set(name(stream.test[-1].rows)) <= set(range(2 * task + 2))


def test_published_figures_stand_beside_the_stream_that_they_are_of() -> None:
    row = {"set": "CLINC150", "tasks": 15, "classes": 150, "arm": "lda", "cpu_seconds": 1.0}
    row |= dict.fromkeys(tasks.FIGURES, 50.0)
    assert "SEQ*" in tasks.words([row])
    assert "SEQ*" not in tasks.words([row | {"tasks": 4, "classes": 20}])


def test_without_the_data_it_says_so_and_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA, str(tmp_path))
    result = CliRunner().invoke(tasks.main, [])
    assert (result.exit_code, result.stdout) == (0, "")
    assert "skipped: CLINC150 and HWU64 are not there; set LIMBECK_BENCH_DATA" in result.stderr


def test_tasks_are_cut_as_the_files_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA, str(tmp_path))
    (tmp_path / "clinc150").mkdir()
    held = {part: [[f"{label} {row}", label] for label in "abcd" for row in range(3)] for part in ("train", "test")}
    (tmp_path / "clinc150" / "data_full.json").write_text(json.dumps(held), encoding="utf-8")
    found = tasks.clinc(2, 2, 2, 1)
    assert found is not None
    assert [part.labels for part in found.train] == [(0, 0, 1, 1), (2, 2, 3, 3)]
    assert [part.labels for part in found.test] == [(0, 1), (2, 3)]
    assert [found.texts[row] for row in found.train[1].rows] == ["c 0", "c 1", "d 0", "d 1"]
    (tmp_path / "hwu64").mkdir()
    (tmp_path / "hwu64" / "train.csv").write_text(
        "on, please,lamp_on\noff,lamp_off\nplay,music_play\n", encoding="utf-8"
    )
    nested = {"rasa_nlu_data": {"common_examples": [{"text": "lights", "intent": "lamp_on"}]}}
    (tmp_path / "hwu64" / "test.json").write_text(json.dumps(nested), encoding="utf-8")
    scenarios = tasks.hwu(9, 9, 9, 9)
    assert scenarios is not None
    assert [part.labels for part in scenarios.train] == [(0, 1), (2,)]
    assert scenarios.texts[0] == "on, please"


def test_the_discriminants_are_those_of_a_shared_covariance() -> None:
    rng = np.random.default_rng(3)
    shape, sums = rng.normal(size=(4, 4)), tasks._Sums()
    vectors = rng.normal(size=(300, 4)) @ shape + np.repeat(np.array([[0.0] * 4, [2.0] * 4, [-2.0] * 4]), 100, 0)
    sums.add(vectors, np.repeat([0, 1, 2], 100).tolist())
    means = np.stack([vectors[100 * label : 100 * label + 100].mean(0) for label in range(3)])
    within = np.mean([np.cov(vectors[100 * label : 100 * label + 100].T, bias=True) for label in range(3)], axis=0)
    shrunk = 0.9 * within + 0.1 * np.trace(within) / 4 * np.eye(4)
    weights, bias = tasks._discriminants(sums, [0, 1, 2], means)
    np.testing.assert_allclose(weights, means @ np.linalg.inv(shrunk), rtol=1e-8)
    np.testing.assert_allclose(bias, [-0.5 * mean @ np.linalg.inv(shrunk) @ mean for mean in means], rtol=1e-8)
