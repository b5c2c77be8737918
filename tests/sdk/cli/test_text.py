"""`limbeck build text` gathers by licence, then balances what it gathered."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from sdk.cli.app import main
from sdk.cli.build import build

SPEECH = "Fellow citizens, this is what we have done for the country in year {number}, and what you may expect of us. "


def test_two_calls_gather_and_a_third_balances(tmp_path: Path) -> None:
    for name, count in (("letters", 30), ("speeches", 10), ("notes", 10), ("news", 10)):
        (tmp_path / name).mkdir()
        for number in range(count):
            text = "\n\n".join(SPEECH.format(number=f"{name} {number} {part}") for part in range(3))
            (tmp_path / name / f"{number}.txt").write_text(text, encoding="utf-8")
    parts = []
    for name, licence in (("letters", "CC0-1.0"), ("speeches", "CC-BY-4.0"), ("notes", "MIT"), ("news", "MIT")):
        parts += ["--file", str(tmp_path / f"{name}.jsonl")]
        command = ["text", "--folder", str(tmp_path / name), "--licence", licence, "--out", parts[-1], "--json"]
        made = json.loads(CliRunner().invoke(build, command, catch_exceptions=False).stdout)
        assert (made["sources"], made["licences"]) == (1, [licence])
    out = tmp_path / "all.jsonl"
    told = CliRunner().invoke(build, ["text", *parts, "--share", "0.4", "--out", str(out)], catch_exceptions=False)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    sizes = {name: sum(len(row["text"]) for row in rows if row["source"] == name) for name in ("letters", "news")}
    assert sizes["letters"] <= 0.4 * sum(len(row["text"]) for row in rows)
    assert sizes["news"] > 0
    assert {row["licence"] for row in rows} == {"CC0-1.0", "CC-BY-4.0", "MIT"}
    assert f"of 4 sources in {out}; record in {tmp_path / 'all.sources.md'}" in told.stdout


def test_a_refused_licence_is_one_line_and_exit_1_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text(SPEECH * 4, encoding="utf-8")
    command = [
        "text",
        "--file",
        str(tmp_path / "a.txt"),
        "--licence",
        "CC-BY-SA-4.0",
        "--out",
        str(tmp_path / "b.jsonl"),
    ]
    monkeypatch.setattr("sys.argv", ["limbeck", "build", *command])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "is not known to let a model that learned from it be shipped freely" in line
    assert not (tmp_path / "b.jsonl").exists()
    CliRunner().invoke(build, [*command, "--accept-licence", "CC-BY-SA-4.0"], catch_exceptions=False)
    assert (tmp_path / "b.jsonl").exists()


def test_without_any_input_it_says_what_to_give(tmp_path: Path) -> None:
    result = CliRunner().invoke(build, ["text", "--out", str(tmp_path / "b.jsonl")])
    assert result.exit_code == 2
    assert "say which text: --file, --folder or --package" in result.stderr
