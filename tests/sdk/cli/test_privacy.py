"""The privacy engineer's commands on a real home: what they print, what they write, and what they refuse."""

import csv
import io
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from personalize import Home
from personalize.learner import open_ledger
from privacy import DpSgdRun, epsilon, noise_multiplier
from privacy.audit import AuditReport
from privacy.dp_sgd import DpSgd
from sdk.cli import app

NIGHT = DpSgdRun(noise_multiplier=6.081, sampling_rate=1.0, steps=8)
SPENT = epsilon(NIGHT, delta=1e-5, accountant="rdp")  # 1.9997


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with two nights on its ledger; one of them crashed."""
    with open_ledger(Home.open(tmp_path / "home")) as ledger:
        receipt = ledger.reserve(NIGHT, blocks=["2026-11-23"])
        ledger.draw(receipt, 8)
        ledger.close(receipt, "admitted")
        ledger.draw(ledger.reserve(NIGHT, blocks=["2026-11-24"]), 3)
    return tmp_path / "home"


def run(*words: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app.cli, ["privacy", *map(str, words)], catch_exceptions=False, input=stdin)


def facts(*words: object) -> dict[str, Any]:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.stderr
    read = json.loads(result.stdout)
    assert isinstance(read, dict)
    return read


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Exit code and stderr of the command as a person types it."""
    monkeypatch.setattr(sys, "argv", ["limbeck", "privacy", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        app.main()
    return int(left.value.code or 0), capsys.readouterr().err


def one_line(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.startswith("limbeck: ")]
    assert len(lines) == 1, stderr
    assert "Traceback" not in stderr
    return lines[0]


# --- calibrate -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("budget", "rate", "steps"), [(2.0, 1.0, 8), (0.5, 1.0, 10), (1.0, 0.01, 1000)])
def test_calibrate_says_the_least_noise_that_holds_the_budget(budget: float, rate: float, steps: int) -> None:
    found = facts("calibrate", "--epsilon", budget, "--sampling-rate", rate, "--steps", steps)
    noise = found["noise_multiplier"]
    assert noise == noise_multiplier(epsilon=budget, delta=1e-5, sampling_rate=rate, steps=steps)
    assert float(f"{noise:.4g}") == noise
    assert found["epsilon_pld"] <= found["epsilon_rdp"] <= budget
    less = DpSgdRun(noise_multiplier=noise * 0.999, sampling_rate=rate, steps=steps)
    assert epsilon(less, delta=1e-5, accountant="rdp") > budget
    assert (found["unit"], found["neighbours"], found["delta"]) == ("record", "zero_out", 1e-5)


def test_calibrate_in_words_names_noise_epsilon_delta_and_unit() -> None:
    told = run("calibrate", "--epsilon", 2, "--steps", 8).stdout
    for part in ("noise multiplier 6.081", "8 steps", "epsilon 1.9998", "of 2", "delta 1e-05", "record", "zero_out"):
        assert part in told


def test_calibrate_by_the_tighter_accountant_needs_less_noise() -> None:
    rdp, pld = (facts("calibrate", "--epsilon", 2, "--steps", 8, "--accountant", name) for name in ("rdp", "pld"))
    assert pld["noise_multiplier"] < rdp["noise_multiplier"]
    assert pld["epsilon_pld"] <= 2.0 < pld["epsilon_rdp"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--epsilon", "0", "--steps", "8"), "epsilon must be above 0"),
        (("--epsilon", "nan", "--steps", "8"), "epsilon must be above 0"),
        (("--epsilon", "2", "--steps", "0"), "steps must be in"),
        (("--epsilon", "2", "--steps", "8", "--sampling-rate", "1.5"), "sampling_rate must be in"),
        (("--epsilon", "2", "--steps", "8", "--delta", "0"), "delta must be in (0, 1)"),
        (("--epsilon", "1e-9", "--steps", "1000000"), "no noise holds epsilon"),
    ],
)
def test_calibrate_refuses_the_impossible_in_one_line(
    words: tuple[str, ...], part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, stderr = refusal(monkeypatch, capsys, "calibrate", *words)
    assert code == 1
    assert part in one_line(stderr)


# --- export and verify -----------------------------------------------------------------------------------------------


def test_export_prints_what_verify_accepts_from_a_file_and_from_stdin(home: Path, tmp_path: Path) -> None:
    printed = run("export", "--home", home).stdout
    written = tmp_path / "export.json"
    assert run("export", "--home", home, "--out", written).stdout == f"7 entries in {written}\n"
    assert facts("export", "--home", home, "--out", written) == {"export": str(written), "entries": 7}
    assert run("export", "--json", "--home", home).stdout == printed
    assert written.stat().st_mode & 0o777 == 0o600
    assert written.read_text() == printed.removesuffix("\n")
    verdict = facts("verify", written)
    assert verdict["verified"] is True
    assert verdict["sealed"] is False
    assert verdict["runs"] == 2
    assert verdict["spent"] == {"experience": SPENT}
    assert json.loads(run("verify", "-", "--json", stdin=printed).stdout) == verdict


def test_verify_without_a_file_checks_the_home_with_its_seals(home: Path) -> None:
    verdict = facts("verify", "--home", home)
    assert verdict["sealed"] is True
    assert verdict["rollback_protection"] == "file"
    told = run("verify", "--home", home).stdout
    assert "verified: 7 entries and 2 runs" in told
    assert "epsilon 1.9998 at most" in told  # 1.99972, never made to look smaller.
    assert "seals checked" in told


def test_the_exports_verdict_says_what_it_cannot_see(home: Path, tmp_path: Path) -> None:
    run("export", "--home", home, "--out", tmp_path / "export.json")
    assert "seals not checked: only the device that wrote it can" in run("verify", tmp_path / "export.json").stdout


def test_export_as_csv_is_one_line_an_entry(home: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(run("export", "--csv", "--home", home).stdout)))
    assert [row["kind"] for row in rows] == ["genesis", "budget", "reserve", "draw", "close", "reserve", "draw"]
    assert float(rows[2]["epsilon_alone"]) == SPENT
    assert run("export", "--csv", "--json", "--home", home).exit_code == 2


def test_an_altered_export_is_refused_in_one_line(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = run("export", "--home", home).stdout
    cases = {
        text.replace("6.081", "9.081"): "entry 3 does not follow",
        text.replace('"spent_rdp":1.9', '"spent_rdp":1.1'): "another figure",
        text[: len(text) // 2]: "not JSON as the ledger writes it",
        "hello": "not JSON as the ledger writes it",
        "{}": "not an export of format",
    }
    for altered, part in cases.items():
        (tmp_path / "export.json").write_text(altered)
        code, stderr = refusal(monkeypatch, capsys, "verify", tmp_path / "export.json")
        assert code == 1
        assert part in one_line(stderr)


def test_what_is_no_text_and_no_file_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "noise").write_bytes(bytes(range(256)))
    for name in ("noise", "nowhere", "."):
        code, stderr = refusal(monkeypatch, capsys, "verify", tmp_path / name)
        assert code == 1
        assert "give the path of an exported ledger" in one_line(stderr)
    pressed = subprocess.run(
        [sys.executable, "-c", "from sdk.cli.app import main; main()", "privacy", "verify", "-"],
        input=bytes(range(256)),
        capture_output=True,
        timeout=60,
        check=False,
        env=os.environ | {"LIMBECK_HOME": str(tmp_path / "home")},
    )
    assert pressed.returncode == 1
    assert "not JSON as the ledger writes it" in one_line(pressed.stderr.decode())


def test_an_altered_ledger_is_refused_by_every_command(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(home / "ledger.db", isolation_level=None)) as shell:
        triggers = shell.execute("select name, sql from sqlite_master where type = 'trigger'").fetchall()
        for name, _ in triggers:
            shell.execute(f"drop trigger {name}")
        shell.execute("update entries set body = replace(body, '6.081', '99.0') where seq = 3")
        for _, sql in triggers:
            shell.execute(sql)
    for command in (("verify",), ("export",), ("export", "--csv"), ("report", "--out", tmp_path / "page.html")):
        code, stderr = refusal(monkeypatch, capsys, *command, "--home", home)
        assert code == 1
        assert "does not verify" in one_line(stderr)
    assert not (tmp_path / "page.html").exists()


def test_an_export_that_cannot_be_written_is_one_line(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, stderr = refusal(monkeypatch, capsys, "export", "--home", home, "--out", tmp_path / "no" / "export.json")
    assert code == 1
    assert "choose another place" in one_line(stderr)


# --- audit -----------------------------------------------------------------------------------------------------------


def test_audit_passes_keeps_its_record_and_touches_no_budget(home: Path) -> None:
    before = run("export", "--home", home).stdout
    found = facts("audit", "--canaries", 200, "--home", home)
    assert found["passed"] is True
    assert found["canaries"]["canaries"] == 200
    (kept,) = (home / "reports").glob("audit-*.json")
    assert AuditReport.from_dict(json.loads(kept.read_text())).to_dict() == found
    assert kept.stat().st_mode & 0o777 == 0o600
    assert run("export", "--home", home).stdout == before


def test_a_quick_audit_trains_nothing_and_is_told_in_a_table(tmp_path: Path) -> None:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(
        app.cli, ["privacy", "audit", "--quick", "--home", str(tmp_path / "home")], catch_exceptions=False
    )
    assert result.exit_code == 0
    assert "18 checks" in result.stdout
    assert "neighbour sensitivity" in result.stdout
    assert "membership" not in result.stdout


def test_an_engine_that_fails_its_audit_is_exit_code_1_with_the_report_on_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    privatise = DpSgd._privatise

    def half(self: DpSgd, sums: Any) -> Any:
        whole, self.run = self.run, replace(self.run, noise_multiplier=self.run.noise_multiplier / 2)
        try:
            return privatise(self, sums)
        finally:
            self.run = whole

    monkeypatch.setattr(DpSgd, "_privatise", half)
    monkeypatch.setattr(sys, "argv", ["limbeck", "privacy", "audit", "--quick", "--json", "--home", str(tmp_path)])
    with pytest.raises(SystemExit) as left:
        app.main()
    told = capsys.readouterr()
    assert left.value.code == 1
    assert json.loads(told.out)["passed"] is False
    assert "the engine failed its audit (noise size" in one_line(told.err)
    assert "train nothing until it passes" in told.err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--quick", "--canaries", "100"), 2),
        (("--canaries", "0"), 2),
        (("--canaries", "5"), 1),
        (("--canaries", "x"), 2),
    ],
)
def test_an_impossible_audit_is_refused(
    words: tuple[str, ...],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    left, stderr = refusal(monkeypatch, capsys, "audit", *words, "--home", tmp_path / "home")
    assert left == code
    assert "Traceback" not in stderr
    assert not list((tmp_path / "home").glob("reports/*"))


# --- report ----------------------------------------------------------------------------------------------------------


def test_report_writes_the_page_with_the_audits_that_were_kept(home: Path, tmp_path: Path) -> None:
    run("audit", "--quick", "--home", home)
    said = facts("report", "--home", home)
    page = Path(said["report"])
    assert page == home / "reports" / "privacy.html"
    assert said["scopes"]["experience"]["spent_rdp"] == SPENT
    assert said["open_runs"] == 1
    assert len(said["audits"]) == 1
    source = page.read_text(encoding="utf-8")
    assert "2.00 of the 4.00 that it may ever lose" in source
    assert "18 of 18 checks held" in source
    elsewhere = tmp_path / "mine.html"
    assert run("report", "--home", home, "--out", elsewhere).stdout == f"report {elsewhere}\n"
    assert elsewhere.stat().st_size > 10_000


@pytest.mark.parametrize("damage", ["", "{", '{"format": "audit/9"}', "[" * 100_000])
def test_a_damaged_audit_is_named_and_nothing_is_written(
    damage: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "reports" / "audit-2026-11-24T000000.json").write_text(damage)
    code, stderr = refusal(monkeypatch, capsys, "report", "--home", home)
    assert code == 1
    assert "delete that file and audit again" in one_line(stderr)
    assert not (home / "reports" / "privacy.html").exists()


def test_an_empty_home_has_a_report_too(tmp_path: Path) -> None:
    said = facts("report", "--home", tmp_path / "fresh")
    assert said["runs"] == []
    assert "Nothing has been spent yet." in Path(said["report"]).read_text(encoding="utf-8")


# --- write-off -------------------------------------------------------------------------------------------------------


def test_a_home_from_a_backup_goes_on_after_a_write_off_and_nothing_comes_back(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIMBECK_ANCHORS", str(tmp_path / "anchors"))
    open_ledger(Home.open(home)).disconnect()
    old = (home / "ledger.db").read_bytes()
    with open_ledger(Home.open(home)) as ledger:
        ledger.reserve(NIGHT, blocks=["2026-11-25"])
    (home / "ledger.db").write_bytes(old)
    code, stderr = refusal(monkeypatch, capsys, "budget", "--home", home)
    assert code == 1
    assert "limbeck privacy write-off" in one_line(stderr)
    assert run("write-off", "--home", home, stdin="n\n").exit_code == 1
    blocks = list(dict.fromkeys(["2026-11-23", "2026-11-24", datetime.now(UTC).date().isoformat()]))
    said = facts("write-off", "--yes", "--home", home)
    assert said == {"remembered": 8, "found": 7, "blocks": blocks}
    budget = facts("budget", "--home", home)
    assert budget["epsilon_left"] < 1e-3
    assert list(budget["blocks"]) == blocks
    assert facts("verify", "--home", home)["verified"]
    with open_ledger(Home.open(home)) as ledger:
        assert ledger.affordable(NIGHT, blocks=[*blocks, "2999-01-01"]) == ("2999-01-01",)


def test_where_nothing_was_lost_a_write_off_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = run("export", "--home", home).stdout
    code, stderr = refusal(monkeypatch, capsys, "write-off", "--yes", "--home", home)
    assert code == 1
    assert "nothing was lost" in one_line(stderr)
    assert run("export", "--home", home).stdout == before
