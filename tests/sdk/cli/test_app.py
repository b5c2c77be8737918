"""A person's commands on a tiny base: what is printed, what is refused, and what stays."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sdk.cli import app, signals
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


def test_a_night_when_idle_runs_or_says_why_not_and_status_remembers(home: Path, tmp_path: Path) -> None:
    facts("remember", "--jsonl", str(records(tmp_path, 25)))
    limits = ("idle_minutes=0", "charger=no", "load=1000", "celsius=200", "battery_percent=0", "free_megabytes=0")
    anyhow = [word for limit in limits for word in ("--policy", limit)]
    held = facts("learn", "--when-idle", *anyhow, "--policy", "free_megabytes=1e15")
    assert (held["ran"], held["stopped"]) == (False, False)
    assert "MB free, fewer than" in held["why"]
    assert facts("status")["last_night"]["why"] == held["why"]
    assert "last night  " in run("status").stdout
    assert facts("status")["epsilon_spent"] == 0
    night = facts("learn", "--when-idle", *anyhow, "--steps", "1")
    assert (night["ran"], night["records"]) == (True, 25)
    assert facts("status")["last_night"]["outcome"] == ("admitted" if night["admitted"] else "rejected")
    assert "nothing was learned: " in run("learn", "--when-idle", *anyhow).stdout


def test_a_night_hides_what_its_first_night_chose(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts("remember", "--jsonl", str(records(tmp_path, 25)))
    night = facts("learn", "--unit", "conversation", "--steps", "1")
    assert (night["unit"], night["records"]) == ("conversation", 25)
    assert facts("status")["unit"] == "conversation"
    facts("remember", "--jsonl", str(records(tmp_path, 25)))
    assert "conversation" in refusal(monkeypatch, capsys, "learn", "--steps", "1")[1]


def test_exact_removal_goes_back_and_learns_again(home: Path, tmp_path: Path) -> None:
    facts("remember", "--jsonl", str(records(tmp_path, 30)))
    ids = facts("remember", "--prompt", "say", "--answer", "the mat")["ids"]
    first = facts("learn", "--steps", "1")["adapter"]
    plain = facts("forget", facts("remember", "--prompt", "say", "--answer", "unread")["ids"][0])
    assert (plain["adapters"], plain["remains"]) == ([], "no adapter had learned from them")
    gone = facts("forget", ids[0], "--exact")
    assert gone["undone"] == {"adapters": [first], "fresh": 31}
    assert not (home / "adapters" / first).exists()
    assert gone["learned_again"].startswith(("admitted night-", "rejected"))
    assert facts("status")["adapter"] not in (first, None)
    last = facts("forget", "--all", "--yes", "--exact", "--later")
    assert "learned_again" not in last
    assert facts("status")["adapter"] is None


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_night_at_once_and_the_next_goes_on(home: Path, tmp_path: Path, number: int) -> None:
    facts("remember", "--jsonl", str(records(tmp_path, 60)))
    command = [sys.executable, "-c", "from sdk.cli.app import main; main()", "learn", "--steps", "1000"]
    environment = {**os.environ, "LIMBECK_HOME": str(home)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        while not (home / "night.sealed").exists():
            assert child.poll() is None, child.communicate()[1]
            time.sleep(0.05)
        time.sleep(0.5)
        child.send_signal(number)
        _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "learn again to go on where it was, at no new charge" in said
    assert "Traceback" not in said
    waiting = facts("status")
    assert waiting["can_go_on"]["steps"] == 1000
    assert waiting["last_night"]["outcome"] == "stopped"
    assert "stopped     a night waits at step" in run("status").stdout
    spent = waiting["epsilon_spent"]
    anew = facts("learn", "--steps", "1", "--anew")
    assert not anew["resumed"]
    assert facts("status")["epsilon_spent"] > spent


def test_signals_end_the_process_until_somebody_listens_and_at_the_second_time() -> None:
    asked = signals.Asked()
    with pytest.raises(KeyboardInterrupt):
        asked.hear(signal.SIGINT, None)
    assert not asked()
    asked.hear(signal.SIGINT, None)
    assert asked()
    with pytest.raises(KeyboardInterrupt):
        asked.hear(signal.SIGINT, None)


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
        (("learn", "--when-idle", "--policy", "moon=full"), "a policy has no 'moon'"),
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
        ("learn", "--policy", "load=1"),
        ("forget", "--all", "--yes", "--later"),
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


def test_help_loads_nothing_that_takes_a_while() -> None:
    """Neither torch nor a database: a fifth of a second instead of a whole one."""
    heavy = ("cryptography", "numpy", "pandas", "scipy", "sqlite_utils", "torch", "transformers", "tuf")
    told = f"import sys, sdk.cli.app; print(*(name for name in {heavy!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []
