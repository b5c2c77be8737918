"""A person's commands on a tiny base: what is printed, what is refused, and what stays."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sdk.cli import app
from tests.tiny import tiny_bundle

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "mat",
    "and",
    "dog",
    "near",
    "a",
    "person",
    "writes",
    "note",
    "reads",
    "it",
    "again",
]


def sentences(count: int) -> list[str]:
    return [" ".join(WORDS[(row * 3 + word) % len(WORDS)] for word in range(8)) for row in range(count)]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIMBECK_BASE", str(tiny_bundle(tmp_path).folder))
    return tmp_path / "home"


def run(*words: str) -> Result:
    return CliRunner().invoke(app.cli, list(words), catch_exceptions=False)


def facts(*words: str) -> dict[str, Any]:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.stderr
    read = json.loads(result.stdout)
    assert isinstance(read, dict)
    return read


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["limbeck", *words])
    with pytest.raises(SystemExit) as left:
        app.main()
    return int(str(left.value.code)), capsys.readouterr().err.strip().splitlines()[-1]


def records(folder: Path, count: int) -> Path:
    file = folder / "mine.jsonl"
    rows = [{"prompt": f"note {row}", "answer": text} for row, text in enumerate(sentences(count))]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_a_person_remembers_learns_asks_and_forgets(home: Path, tmp_path: Path) -> None:
    assert facts("remember", "--jsonl", str(records(tmp_path, 30)))["remembered"] == 30
    one = facts("remember", "--prompt", "say", "--answer", "the mat", "--contact", "Ana")
    assert one["fresh"] == 31
    night = facts("learn", "--steps", "2")
    assert night["records"] == 31
    assert 1.9 < night["epsilon"] <= 2.0
    assert night["retention"]
    assert night["epsilon_left"] == pytest.approx(4.0 - night["epsilon"], abs=1e-6)
    state = facts("status")
    assert (state["records"], state["trained"], state["fresh"]) == (31, 31, 0)
    assert state["adapter"] == night["adapter"]
    assert isinstance(facts("ask", "say", "--tokens", "4")["answer"], str)
    gone = facts("forget", "--contact", "Ana")
    assert (gone["forgotten"], gone["left"]) == (1, 30)
    assert len(gone["trained_blocks"]) == 1
    assert facts("privacy", "budget")["epsilon_spent"] == pytest.approx(night["epsilon"])
    assert facts("forget", "--all", "--yes")["left"] == 0
    assert facts("privacy", "budget")["epsilon_spent"] == pytest.approx(night["epsilon"])


def test_a_second_night_needs_new_records(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts("remember", "--jsonl", str(records(tmp_path, 25)))
    facts("learn", "--steps", "1")
    assert refusal(monkeypatch, capsys, "learn") == (
        1,
        "limbeck: 0 fresh records, a night needs 20; remember 20 more",
    )


def test_the_ledger_lists_the_reservation_before_anything_else_of_the_night(home: Path, tmp_path: Path) -> None:
    facts("remember", "--jsonl", str(records(tmp_path, 25)))
    facts("learn", "--steps", "2")
    kinds = [entry["kind"] for entry in facts("privacy", "ledger")["entries"]]
    assert kinds == ["genesis", "budget", "reserve", "draw", "draw", "close"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("learn", "--epsilon", "0"), "epsilon 0 is outside the policy"),
        (("learn", "--epsilon", "9"), "epsilon 9 is outside the policy"),
        (("learn", "--delta", "0.001"), "delta 0.001 is outside the policy"),
        (("learn", "--epsilon", "nan"), "epsilon nan is outside the policy"),
        (("demo", "--epsilon", "-1"), "epsilon -1 is outside the policy"),
        (("demo", "--text", "nowhere.txt"), "nowhere.txt"),
        (("demo", "--git", "nowhere"), "nowhere"),
        (("demo", "--president", "Nobody"), "presidents are called 'Nobody'"),
        (("remember", "--jsonl", "nowhere.jsonl"), "nowhere.jsonl"),
    ],
)
def test_a_refusal_is_one_line_and_exit_code_1(
    words: tuple[str, ...],
    said: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    facts("remember", "--jsonl", str(records(tmp_path, 25)))
    code, line = refusal(monkeypatch, capsys, *words)
    assert code == 1
    assert line.startswith("limbeck: ")
    assert said in line
    assert facts("status")["fresh"] == 25
    assert facts("status")["epsilon_spent"] == 0


@pytest.mark.parametrize(
    "words",
    [
        ("remember",),
        ("forget",),
        ("forget", "a", "--all"),
        ("remember", "--answer", "x", "--text", "y"),
        ("learn", "--steps", "0"),
        ("nonsense",),
    ],
)
def test_a_wrong_call_is_exit_code_2(
    words: tuple[str, ...], home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refusal(monkeypatch, capsys, *words)[0] == 2


def test_a_damaged_ledger_keeps_training_off_and_loses_nothing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts("remember", "--jsonl", str(records(tmp_path, 25)))
    file = home / "ledger.db"
    file.write_bytes(file.read_bytes()[:2000])
    code, line = refusal(monkeypatch, capsys, "learn")
    assert code == 1
    assert line.startswith("limbeck: ")
    assert "ledger" in line
    assert (home / "experience.db").stat().st_size > 0


def test_an_adapter_of_another_base_is_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts("remember", "--jsonl", str(records(tmp_path, 25)))
    assert facts("learn", "--steps", "1")["admitted"]
    monkeypatch.setenv("LIMBECK_BASE", str(tiny_bundle(tmp_path, seed=1).folder))
    code, line = refusal(monkeypatch, capsys, "ask", "say")
    assert code == 1
    assert "was learned on base" in line
    assert isinstance(facts("ask", "say", "--bare", "--tokens", "2")["answer"], str)


def test_a_second_learn_at_the_same_time_is_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts("remember", "--jsonl", str(records(tmp_path, 25)))
    holding = (
        "import sys\nfrom pathlib import Path\nfrom personalize import Home\n"
        "with Home.open(Path(sys.argv[1])).lock():\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holding, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        code, line = refusal(monkeypatch, capsys, "learn")
        assert holder.stdin is not None
        holder.stdin.close()
    assert code == 1
    assert f"process {holder.pid} is learning" in line
    assert facts("status")["epsilon_spent"] == 0


def test_the_installed_command_says_one_line_and_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from sdk.cli.app import main; main()", "forget"],
        capture_output=True, text=True, check=False, env={**os.environ, "LIMBECK_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
