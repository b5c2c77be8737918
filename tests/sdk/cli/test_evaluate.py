"""`limbeck build evaluate` prints a card, compares two, writes a page, and refuses in one line."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from sdk.cli.app import main
from sdk.cli.build import build
from sdk.errors import EvaluationError
from tests.tiny import SENTENCES, tiny_bundle


def called(folder: Path, *words: str) -> list[str]:
    (folder / "text.txt").write_text(" ".join(SENTENCES))
    model = folder / "tiny-0" if (folder / "tiny-0").exists() else tiny_bundle(folder).folder
    return [
        "evaluate",
        str(model),
        "--quick",
        "--skip",
        "cost",
        "--text",
        str(folder / "text.txt"),
        *words,
    ]


@pytest.fixture(autouse=True)
def without_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIMBECK_BENCH_DATA", raising=False)


def test_one_card_is_one_json_object(tmp_path: Path) -> None:
    result = CliRunner().invoke(build, called(tmp_path, "--json"), catch_exceptions=False)
    facts = json.loads(result.stdout)
    assert facts["format"] == "scorecard/1"
    assert facts["legs"]["text"]["figures"]["bits_per_byte"]["value"] > 0
    assert facts["legs"]["piqa"] == {"status": "not run", "reason": "no benchmark data; name it with --data"}
    assert "text" in result.stderr


def test_two_models_are_compared_and_shown_on_a_page(tmp_path: Path) -> None:
    other = tiny_bundle(tmp_path, seed=1).folder
    page, out = tmp_path / "page.html", tmp_path / "card.json"
    words = ("--against", str(other), "--page", str(page), "--out", str(out), "--json")
    facts = json.loads(CliRunner().invoke(build, called(tmp_path, *words), catch_exceptions=False).stdout)
    changes = {one["figure"]: one for one in facts["differences"]}
    bits = changes["text.bits_per_byte"]
    assert bits["value"] != bits["against"]
    assert bits["reason"] == "fewer than 10 items count"
    assert changes["energy.joules"]["verdict"] == "equal"
    assert "tiny-0 beside tiny-1" in page.read_text(encoding="utf-8")
    assert json.loads((tmp_path / "card.against.json").read_text())["model"]["name"] == "tiny-1"
    # The other card's file serves as well as its model.
    again = ("--against", str(tmp_path / "card.against.json"), "--json")
    read = json.loads(CliRunner().invoke(build, called(tmp_path, *again), catch_exceptions=False).stdout)
    assert {one["figure"]: one["verdict"] for one in read["differences"]} == {
        name: one["verdict"] for name, one in changes.items()
    }


def test_people_get_a_table_and_the_reasons(tmp_path: Path) -> None:
    said = CliRunner().invoke(build, called(tmp_path), catch_exceptions=False, env={"COLUMNS": "200"}).stdout
    assert "Bits per byte" in said
    assert "not run: Common sense (PIQA): no benchmark data; name it with --data" in said


def test_what_is_no_model_is_an_error_of_sdk(tmp_path: Path) -> None:
    result = CliRunner().invoke(build, ["evaluate", str(tmp_path)])
    assert isinstance(result.exception, EvaluationError)


def test_the_command_refuses_in_one_line_with_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["limbeck", "build", "evaluate", str(tmp_path)])
    with pytest.raises(SystemExit) as done:
        main()
    said = capsys.readouterr().err.strip().splitlines()
    assert done.value.code == 1
    assert said[-1].startswith(f"limbeck: {tmp_path} has no config.json")
