"""The whole demo, as typed, on a tiny base: real presidents' text, real ledger, real page."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sdk.cli.app import cli
from tests.tiny import tiny_bundle

PROMISED = {
    "records", "base_bits_per_char", "adapter_bits_per_char", "wrong_user_bits_per_char", "nonprivate_bits_per_char",
    "epsilon", "delta", "unit", "epsilon_left", "retention", "admitted", "seconds", "peak_megabytes", "report",
}  # fmt: skip


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("demo")
    environment = {
        "LIMBECK_BASE": str(tiny_bundle(folder).folder),
        "LIMBECK_CACHE": str(folder / "cache"),
        "LIMBECK_ANCHORS": str(folder / "anchors"),
        "LIMBECK_KEYRING": "0",
    }
    words = ["demo", "--json", "--nights", "2", "--home", str(folder / "home")]
    result = CliRunner(env=environment).invoke(cli, words, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    read = json.loads(result.stdout)
    assert isinstance(read, dict)
    return read


def test_the_object_has_every_promised_key(lived: dict[str, Any]) -> None:
    assert lived.keys() >= PROMISED
    assert all({"leg", "drop", "detectable_drop", "passed"} <= leg.keys() for leg in lived["retention"])


def test_two_nights_of_disjoint_blocks_cost_each_record_one_night(lived: dict[str, Any]) -> None:
    assert lived["nights"] == 2
    assert 1.9 < lived["epsilon"] <= 2.0
    assert lived["epsilon_pld"] <= lived["epsilon"]
    assert lived["epsilon_left"] == pytest.approx(lived["lifetime_budget"] - lived["epsilon"], abs=1e-6)


def test_every_model_is_scored_on_the_later_text(lived: dict[str, Any]) -> None:
    for arm in ("base", "start", "adapter", "wrong_user", "nonprivate"):
        assert lived[f"{arm}_bits_per_char"] > 0
        low, high = lived["intervals"][arm]
        assert low <= lived[f"{arm}_bits_per_char"] <= high
    assert len(lived["gains"]) == lived["test_records"]


def test_the_page_is_written_and_its_ledger_can_be_read_by_the_other_commands(lived: dict[str, Any]) -> None:
    assert Path(lived["report"]).read_text(encoding="utf-8").startswith("<!")
    result = CliRunner(env={"LIMBECK_ANCHORS": str(Path(lived["home"]).parents[2] / "anchors")}).invoke(
        cli, ["privacy", "budget", "--json", "--home", lived["home"]], catch_exceptions=False
    )
    spent = json.loads(result.stdout)
    assert sorted(spent["blocks"]) == ["night-01", "night-02"]
    assert spent["epsilon_spent"] == pytest.approx(lived["epsilon"], abs=1e-6)


def test_text_of_an_unknown_kind_begins_at_the_bare_base(tmp_path: Path) -> None:
    mine = tmp_path / "mine.jsonl"
    words = ["cat", "dog", "mat", "note", "parser", "test", "person", "state"]
    rows = [{"prompt": f"note {row}", "answer": f"the {words[row % 8]} and the {words[row // 8]}"} for row in range(40)]
    mine.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = CliRunner(env={"LIMBECK_BASE": str(tiny_bundle(tmp_path).folder)}).invoke(
        cli, ["demo", "--json", "--jsonl", str(mine)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.stderr
    lived = json.loads(result.stdout)
    assert lived["kind"] in ("xs", "frozen-a", "lora")  # Not `basis`: nobody public taught directions.
    assert (lived["train_records"], lived["test_records"]) == (32, 8)
    assert "start_bits_per_char" not in lived
    assert Path(lived["report"]).exists()


def test_people_who_do_not_differ_still_teach_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdk.build.directions.LEAST_VARIANCE", float("inf"))  # No axis tells people apart.
    environment = {
        "LIMBECK_BASE": str(tiny_bundle(tmp_path).folder),
        "LIMBECK_CACHE": str(tmp_path / "cache"),
        "LIMBECK_KEYRING": "0",
    }
    words = ["demo", "--json", "--home", str(tmp_path / "home")]
    result = CliRunner(env=environment).invoke(cli, words, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    lived = json.loads(result.stdout)
    assert lived["start_bits_per_char"] > 0
    assert lived["epsilon"] <= 2.0
