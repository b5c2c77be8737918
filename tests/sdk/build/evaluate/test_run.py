"""A run measures every leg it can, says why of the others, goes on where it was stopped, and never mixes models."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdk.build.evaluate import run
from sdk.build.evaluate.card_file import read_card
from sdk.build.evaluate.figures import LEGS
from sdk.build.evaluate.run import Inputs, Sizes, scorecard
from sdk.errors import EvaluationError, SdkError
from sdk.tasks import prompt
from tests.sdk.build.evaluate.test_instructions import ROWS, written
from tests.sdk.build.evaluate.test_pairs import blimp, piqa
from tests.tiny import SENTENCES, tiny_bundle

TINY = Sizes(
    passages=3, passage_bytes=60, tasks=2, snips_each=1, blimp_each=2, piqa=2, ifeval=2, ifeval_tokens=3, repeats=1
)
SLOW = frozenset({"cost"})  # Its child takes seconds to import torch; test_cost has it.


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "QUICK", TINY)


def model(folder: Path, *, seed: int = 0) -> Path:
    """A tiny bundle, made once in a folder."""
    made = folder / f"tiny-{seed}"
    return made if made.exists() else tiny_bundle(folder, seed=seed).folder


def inputs(folder: Path, **changes: object) -> Inputs:
    data = folder / "data"
    for name in ("snips", "blimp", "piqa", "ifeval"):
        (data / name).mkdir(parents=True, exist_ok=True)
    blimp(data / "blimp")
    piqa(data / "piqa")
    written(data / "ifeval", ROWS)
    request = {"PlayMusic": [{"data": [{"text": "play "}, {"text": "Paul", "entity": "artist"}]}]}
    (data / "snips" / "validate_PlayMusic.json").write_text(json.dumps(request))
    (folder / "text.txt").write_text(" ".join(SENTENCES))
    tasks = [
        {"task": "action", "prompt": prompt("action", "call Ana"), "answer": '{"action":"call","to":"Ana"}'},
        {"task": "title", "prompt": prompt("title", SENTENCES[0]), "answer": "The cat"},
    ]
    (folder / "tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    made = {
        "text": folder / "text.txt", "tasks": folder / "tasks.jsonl", "data": data, "quick": True, "skip": SLOW,
        "teacher": model(folder, seed=1), **changes,
    }  # fmt: skip
    return Inputs(**made)  # type: ignore[arg-type]


def test_every_leg_runs_or_says_why(tmp_path: Path) -> None:
    told: list[str] = []
    card = scorecard(
        model(tmp_path),
        inputs(tmp_path),
        told=lambda leg, done, total: told.append(f"{leg} {done}/{total}"),
    )
    assert {name: leg.reason for name, leg in card.legs.items()} == dict.fromkeys(LEGS) | {
        "cost": "skipped with --skip"
    }
    assert list(card.legs) == list(LEGS)
    assert "piqa 2/2" in told
    assert card.legs["ifeval"].facts["not_scored"]["prompts"] == 1


def test_what_is_missing_is_not_run_and_never_a_zero(tmp_path: Path) -> None:
    nothing = Inputs(quick=True, data=tmp_path, skip=SLOW)
    card = scorecard(model(tmp_path), nothing)
    reasons = {name: leg.reason for name, leg in card.legs.items() if leg.reason}
    assert reasons["text"] == "no held-out text; name it with --text"
    assert reasons["teacher"] == "no teacher; name one with --teacher"
    assert reasons["blimp"] == f"{tmp_path / 'blimp/BLiMP.zip'} is not there"
    assert set(reasons) == set(LEGS) - {"energy"}
    assert card.estimates() == {}


def test_the_teacher_is_not_compared_with_itself(tmp_path: Path) -> None:
    given = inputs(tmp_path, skip=frozenset(LEGS) - {"teacher"}, teacher=model(tmp_path))
    assert scorecard(model(tmp_path), given).legs["teacher"].reason == "this model is the teacher"


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = model(tmp_path), tmp_path / "card.json"

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr(run, "ifeval_leg", stop)
        with pytest.raises(KeyboardInterrupt):
            scorecard(folder, inputs(tmp_path), out=out)
    before = read_card(out)
    assert set(before.legs) == {"text", "teacher", "tasks", "snips", "blimp", "piqa"}
    for name in ("text_leg", "teacher_leg", "tasks_leg", "pair_leg"):
        monkeypatch.setattr(run, name, stop)
    after = scorecard(folder, inputs(tmp_path), out=out)
    assert after.legs["ifeval"].reason is None
    assert after.legs["text"] == before.legs["text"]
    assert read_card(out).estimates().keys() == after.estimates().keys()


def test_other_text_is_measured_again(tmp_path: Path) -> None:
    folder, out = model(tmp_path), tmp_path / "card.json"
    given = inputs(tmp_path, skip=frozenset(LEGS) - {"text"})
    first = scorecard(folder, given, out=out)
    (tmp_path / "text.txt").write_text("the union of the states")
    second = scorecard(folder, given, out=out)
    assert first.legs["text"].key != second.legs["text"].key
    assert first.legs["text"].scores != second.legs["text"].scores


def test_another_models_card_is_not_gone_on_with(tmp_path: Path) -> None:
    out, given = tmp_path / "card.json", inputs(tmp_path, skip=frozenset(LEGS) - {"energy"})
    scorecard(model(tmp_path), given, out=out)
    content = out.read_bytes()
    with pytest.raises(EvaluationError, match="holds the scorecard of another model"):
        scorecard(model(tmp_path, seed=1), given, out=out)
    assert out.read_bytes() == content


def test_a_teacher_of_another_vocabulary_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "other")
    tokenizer = json.loads((bundle.checkpoint / "tokenizer.json").read_text())
    first = tokenizer["model"]["merges"].pop()
    del tokenizer["model"]["vocab"]["".join(first)]
    plain = tmp_path / "plain"
    bundle.checkpoint.rename(plain)
    (plain / "tokenizer.json").write_text(json.dumps(tokenizer))
    out = tmp_path / "card.json"
    with pytest.raises(EvaluationError, match="the teacher lacks 1 of the student's 320 tokens"):
        scorecard(model(tmp_path), inputs(tmp_path, teacher=plain), out=out)
    assert not out.exists()


def test_damaged_weights_stop_the_run_with_what_was_done_kept(tmp_path: Path) -> None:
    bundle, out = tiny_bundle(tmp_path), tmp_path / "card.json"
    plain = tmp_path / "plain"
    bundle.checkpoint.rename(plain)
    weights = load_file(plain / "model.safetensors")
    weights["model.norm.weight"][0] = torch.nan
    save_file(weights, plain / "model.safetensors")
    with pytest.raises(EvaluationError, match="not finite numbers"):
        scorecard(plain, inputs(tmp_path), out=out)


def test_a_leg_that_is_not_there_cannot_be_skipped(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="there is no leg 'taste' to skip"):
        scorecard(tmp_path, Inputs(skip=frozenset({"taste"})))


def test_a_damaged_data_file_stops_the_run(tmp_path: Path) -> None:
    given = inputs(tmp_path)
    assert given.data is not None
    (given.data / "blimp" / "BLiMP.zip").write_bytes(b"PK")
    with pytest.raises(SdkError, match="no readable BLiMP archive"):
        scorecard(model(tmp_path), replace(given, skip=frozenset(LEGS) - {"blimp"}))
