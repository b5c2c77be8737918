"""`limbeck build curriculum` writes both sets, filters what a teacher wrote, and refuses in one line."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from sdk.build.curriculum import read_examples
from sdk.cli.build import build
from sdk.errors import CurriculumError, SdkError, UnknownTaskError
from sdk.tasks import prompt


def test_both_sets_are_written_and_told_as_one_json_object(tmp_path: Path) -> None:
    out, held_out = tmp_path / "new" / "train.jsonl", tmp_path / "held_out.jsonl"
    command = ["curriculum", "--out", str(out), "--held-out", str(held_out), "--count", "60", "--held-out-count", "20"]
    facts = json.loads(CliRunner().invoke(build, [*command, "--json"], catch_exceptions=False).stdout)
    assert facts["examples"] == len(read_examples(out)) == 60
    assert facts["held_out"]["examples"] == len(read_examples(held_out)) == 20
    assert facts["written"] is None
    before = out.read_bytes()
    told = CliRunner().invoke(build, command, catch_exceptions=False).stdout
    assert told.startswith(f"60 examples in {out}: action ")
    assert out.read_bytes() == before


def test_what_a_teacher_wrote_joins_the_set_or_is_counted_with_its_reason(tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    fit = {"task": "title", "prompt": prompt("title", "We meet on Friday to talk about bees."), "answer": "Bee meeting"}
    faulty = {**fit, "answer": "As an AI language model, I can't help."}
    answers.write_text(f"{json.dumps(fit)}\n{json.dumps(faulty)}\n", encoding="utf-8")
    command = ["curriculum", "--out", str(tmp_path / "a.jsonl"), "--count", "20", "--teacher-written", str(answers)]
    result = CliRunner().invoke(build, [*command, "--weights", "title=1"], catch_exceptions=False)
    assert result.stdout.endswith("of the teacher's answers kept 1, refused: refusal 1\n")
    assert [one.answer for one in read_examples(tmp_path / "a.jsonl")][-1] == "Bee meeting"


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        (["--weights", "sing=1"], UnknownTaskError, "there is no task 'sing'"),
        (["--weights", "title"], CurriculumError, "weights are written as action=2,title=1"),
        (["--weights", "title=1,title=2"], CurriculumError, "named twice"),
        (["--snips", "nowhere"], CurriculumError, "no SNIPS training files in nowhere"),
        (["--teacher-written", "nowhere"], CurriculumError, "nowhere cannot be read"),
        (["--held-out", "train.jsonl"], CurriculumError, "cannot hold both sets"),
    ],
)
def test_a_refusal_is_one_line_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], error: type[SdkError], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(build, ["curriculum", "--out", "train.jsonl", "--count", "10", *options])
    assert isinstance(result.exception, error)
    assert says in str(result.exception)
    assert "\n" not in str(result.exception)
    assert list(tmp_path.iterdir()) == []
