"""The commands for adapters on tiny bases: what is printed, what is refused, and what stays."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from personalize.parcel import SCRYPT
from sdk.bundle import REHEARSAL, Bundle, write_manifest
from sdk.cli import app
from tests.personalize.test_migrate import texts
from tests.tiny import tiny_bundle

PASSPHRASE = "correct horse battery staple"


@pytest.fixture(autouse=True)
def quick_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCRYPT, "n", 2**4)


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    bundle = roomy_bundle(tmp_path, seed=0)
    monkeypatch.setenv("LIMBECK_BASE", str(bundle.folder))
    return bundle


@pytest.fixture
def learned(base: Bundle, tmp_path: Path) -> Path:
    """A home whose default adapter had a night."""
    file = tmp_path / "mine.jsonl"
    rows = [{"prompt": f"note {row}", "answer": f"the cat sat near the {row} dogs"} for row in range(25)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    facts("remember", "--jsonl", str(file))
    assert facts("learn", "--steps", "1")["admitted"]
    return tmp_path / "home"


def roomy_bundle(folder: Path, *, seed: int) -> Bundle:
    """A tiny bundle with enough public texts for a migration."""
    bundle = tiny_bundle(folder, seed=seed)
    rows = [{"format": "rehearsal/1", "id": f"r{row}", **text} for row, text in enumerate(texts()[:60])]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (bundle.folder / REHEARSAL).write_text(lines, encoding="utf-8")
    (bundle.folder / "manifest.json").unlink()
    return write_manifest(
        bundle.folder, name="tiny", version=str(seed), base_id="tiny", licence="Apache-2.0", origin="random numbers"
    )


def run(*words: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(app.cli, list(words), catch_exceptions=False, input=typed)


def facts(*words: str, typed: str | None = None) -> dict[str, Any]:
    result = run(*words, "--json", typed=typed)
    assert result.exit_code == 0, result.stderr
    read = json.loads(result.stdout)
    assert isinstance(read, dict)
    return read


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["limbeck", *words])
    with pytest.raises(SystemExit) as left:
        app.main()
    return int(str(left.value.code)), capsys.readouterr().err.strip().splitlines()[-1]


def test_adapters_are_listed_chosen_merged_and_rolled_back(learned: Path) -> None:
    (only,) = facts("adapter", "list")["adapters"]
    assert (only["name"], only["chosen"], only["before"]) == ("default", True, [])
    assert run("adapter", "list").stdout.startswith(f"* default  {only['in_use']}, 0 before it")
    made = facts("adapter", "merge", "default=0.5", "--into", "half")
    assert (made["name"], made["decision"], made["lost"]) == ("half", "admitted", 0.0)
    assert made["parts"] == [{"name": "default", "adapter": only["in_use"], "weight": 0.5}]
    assert facts("adapter", "use", "half") == {"name": "half", "in_use": made["in_use"]}
    assert facts("ask", "say", "--tokens", "2")["adapter"] == made["in_use"]
    assert [row["chosen"] for row in facts("adapter", "list")["adapters"]] == [False, True]
    assert facts("adapter", "rollback") == {"name": "half", "in_use": None}
    assert facts("adapter", "rollback", "--adapter", "default") == {"name": "default", "in_use": None}


def test_a_named_adapter_learns_and_answers_and_all_share_one_ledger(learned: Path, tmp_path: Path) -> None:
    first = facts("privacy", "budget")["epsilon_spent"]
    file = tmp_path / "later.jsonl"
    rows = [{"answer": f"a person reads note {row}", "at": "2031-01-01T00:00:00Z"} for row in range(25)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    facts("remember", "--jsonl", str(file))
    night = facts("learn", "--steps", "1", "--adapter", "work")
    names = {row["name"]: row["in_use"] for row in facts("adapter", "list")["adapters"]}
    assert set(names) == {"default", "work"}
    assert (facts("ask", "say", "--tokens", "1", "--adapter", "work")["adapter"]) == names["work"] == night["adapter"]
    assert facts("ask", "say", "--tokens", "1")["adapter"] == names["default"] != names["work"]
    assert len(facts("privacy", "budget")["blocks"]) == 2
    assert facts("privacy", "budget")["epsilon_spent"] == pytest.approx(first), "each record was charged once"


def test_weights_are_equal_where_none_are_given(learned: Path) -> None:
    facts("adapter", "merge", "default", "--into", "copy")
    made = facts("adapter", "merge", "default", "copy", "--into", "both", "--exact")
    assert [part["weight"] for part in made["parts"]] == [0.5, 0.5]
    said = run("adapter", "merge", "default=1", "--into", "both", "--rank", "1").stdout
    assert "rank 1 holds all but " in said


@pytest.mark.parametrize("source", ["variable", "file", "stdin", "prompt"])
def test_an_adapter_goes_to_another_device_by_file(
    learned: Path, tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, typed = tmp_path / "secret", None
    words: list[str] = []
    if source == "variable":
        monkeypatch.setenv("LIMBECK_PASSPHRASE", PASSPHRASE)
    elif source == "file":
        secret.write_text(f"{PASSPHRASE}\nnot this\n", encoding="utf-8")
        words = ["--passphrase-file", str(secret)]
    elif source == "stdin":
        words, typed = ["--passphrase-file", "-"], f"{PASSPHRASE}\n"
    else:
        typed = f"{PASSPHRASE}\n{PASSPHRASE}\n"
    file, away = str(tmp_path / "mine.parcel"), str(tmp_path / "away")
    sent = facts("adapter", "export", file, *words, typed=typed)
    assert 1.9 < sent["charge"]["epsilon"] <= 2.0
    made = facts("adapter", "import", file, "--adapter", "laptop", "--home", away, *words, typed=typed)
    assert (made["name"], made["decision"], made["carried"]) == ("laptop", "admitted", [sent["charge"]])
    assert "records of other devices were charged epsilon 2.00" in run(
        "adapter", "list", "--home", away
    ).stdout.replace(f"{sent['charge']['epsilon']:.3f}", "2.00")


def test_a_file_for_another_base_is_refused_before_the_passphrase(
    learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.parcel"
    monkeypatch.setenv("LIMBECK_PASSPHRASE", PASSPHRASE)
    facts("adapter", "export", str(file))
    monkeypatch.delenv("LIMBECK_PASSPHRASE")
    monkeypatch.setattr("click.prompt", lambda *words, **more: pytest.fail("it asked"))
    other = roomy_bundle(tmp_path, seed=1).folder
    code, line = refusal(monkeypatch, capsys, "adapter", "import", str(file), "--base", str(other))
    assert code == 1
    assert line.startswith("limbeck: the adapter in mine.parcel was learned on base sha256:")


def test_an_adapter_is_carried_to_another_base(
    learned: Path, tmp_path: Path, base: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = roomy_bundle(tmp_path, seed=1)
    monkeypatch.setenv("LIMBECK_BASE", str(other.folder))
    made = facts("adapter", "migrate", "--from", str(base.folder))
    assert made["way"] == "distil"
    assert made["decision"] in ("admitted", "dropped")
    assert made["own_gain"] == "not measured: a migration reads no private text"
    assert facts("ask", "say", "--tokens", "2")["adapter"] == made["in_use"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("adapter", "rollback"), 1, "limbeck: no adapter is in use, so there is nothing to roll back; learn first"),
        (("adapter", "use", "../x"), 1, "limbeck: '../x' is no name for a line of adapters"),
        (("adapter", "merge", "work", "--into", "x"), 1, "limbeck: adapter work has learned nothing yet"),
        (("adapter", "merge", "a=b", "--into", "x"), 2, "Error: 'a=b' is no NAME=WEIGHT, such as work=0.5"),
        (("adapter", "merge", "a", "a", "--into", "x"), 2, "Error: a was named twice; add its weights up"),
        (("adapter", "merge", "a", "--into", "x", "--exact", "--rank", "2"), 2, "Error: --rank and --exact were given"),
        (("adapter", "import", "nowhere.parcel"), 1, "limbeck: cannot read nowhere.parcel: No such file"),
        (("adapter", "migrate", "--from", "."), 1, "limbeck: . is not a bundle"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    words: tuple[str, ...],
    code: int,
    said: str,
    base: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found, line = refusal(monkeypatch, capsys, *words)
    assert (found, line[: len(said)]) == (code, said)


def test_a_short_passphrase_writes_no_file(
    learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIMBECK_PASSPHRASE", "short")
    code, line = refusal(monkeypatch, capsys, "adapter", "export", str(tmp_path / "file"))
    assert (code, line[:54]) == (1, "limbeck: the passphrase has 5 characters, a file that ")
    assert not (tmp_path / "file").exists()
