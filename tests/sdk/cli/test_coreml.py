"""From a student's folder to an answer of its package, by commands."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from sdk.build.coreml.layout import Cache
from sdk.cli.build import build
from sdk.errors import CompressionError, ConversionError, PackageError
from tests.sdk.build.coreml.compiled import compiled, plain


def asked(*command: str) -> str:
    return CliRunner().invoke(build, list(command), catch_exceptions=False).stdout


def test_compress_and_compile_say_what_they_made(tmp_path: Path) -> None:
    student, small = plain(tmp_path / "student", layers=1), tmp_path / "small"
    made = json.loads(asked("compress", str(student), "--scheme", "sparse-palette4", "--out", str(small), "--json"))
    assert made["worst"] in made["errors"]
    package = tmp_path / "x.mlpackage"
    command = ["coreml", str(small), "--out", str(package), "--context", "32", "--prefill", "4", "--json"]
    sizes = ["--adapter-layers", "1", "--adapter-rank", "2", "--records", "2", "--record-positions", "4"]
    facts = json.loads(asked(*command, *sizes, "--learns", "frozen-a"))
    assert facts["encoded"] == 8  # Seven maps and the head.
    assert facts["difference"] < 5e-3
    assert facts["learning"]["declared"] <= 1e-3
    assert facts["operations"].keys() == {"prefill", "decode", "learn"}  # No layer is below an adapted one.
    assert (
        json.loads(asked("execute", str(package), "--prompt", "the cat", "--tokens", "3", "--json"))["findings"] == []
    )


def test_execute_and_lint_answer_on_stdout(tmp_path: Path) -> None:
    package = str(compiled("packed", Cache.STATE).package)
    facts = json.loads(asked("execute", package, "--prompt", "a", "--tokens", "4", "--precision", "declared", "--json"))
    assert len(facts["tokens"]) <= 4
    hits = json.loads(asked("lint", package, "--json"))
    assert hits["standing"] == sum(not hit["reason"] and hit["severity"] != "note" for hit in hits["hits"])
    slowest = max(hits["operations"], key=lambda cost: cost["seconds"])
    assert slowest["seconds"] >= slowest["flops"] / hits["unit"]["flops"]
    whole = sum(made["seconds"] for made in hits["blocks"]["decode"].values())
    words = asked("lint", package, "--page", str(tmp_path / "lint.html"))
    assert "advice, not a measurement" in words
    assert f"decode: at least {1e3 * whole:.2f} ms a call" in words
    assert "Where time and bytes go" in (tmp_path / "lint.html").read_text()
    assert "on the given unit" in asked("lint", package, "--unit-tflops", "17", "--unit-gbps", "51.2")


def test_placement_without_a_mac_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    package = str(compiled("plain", Cache.ARRAYS).package)
    with pytest.raises(PackageError, match=r"needs macOS 14\.4"):
        CliRunner().invoke(build, ["lint", package, "--placement"], catch_exceptions=False)


def test_strict_lint_and_an_unknown_scheme_refuse(tmp_path: Path) -> None:
    package = str(compiled("packed", Cache.STATE).package)
    refused = CliRunner().invoke(build, ["lint", package, "--strict"])
    assert isinstance(refused.exception, PackageError)
    student = plain(tmp_path / "student", layers=1)
    refused = CliRunner().invoke(build, ["compress", str(student), "--scheme", "int3", "--out", str(tmp_path / "x")])
    assert isinstance(refused.exception, CompressionError)


def test_learning_directions_without_a_pack_is_refused(tmp_path: Path) -> None:
    student = plain(tmp_path / "student", layers=1)
    command = ["coreml", str(student), "--out", str(tmp_path / "x.mlpackage"), "--adapter-layers", "1"]
    with pytest.raises(ConversionError, match="give --basis"):
        CliRunner().invoke(build, [*command, "--learns", "basis"], catch_exceptions=False)
    assert not (tmp_path / "x.mlpackage").exists()


def test_a_folder_that_is_no_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"no \.mlpackage"):
        CliRunner().invoke(build, ["execute", str(tmp_path), "--prompt", "a"], catch_exceptions=False)
