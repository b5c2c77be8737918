"""Which engine is chosen, what is said where another one must answer, and that apps and commands go by it."""

import builtins
import importlib.util
import json
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from click.testing import CliRunner

from sdk import Assistant
from sdk.bundle import Bundle
from sdk.cli.app import cli
from sdk.device.engines.choice import choose, open_engine
from sdk.device.server.local import Local
from sdk.errors import BundleError, EngineError
from tests.tiny import tiny_bundle, tiny_packed_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_packed_bundle(tmp_path_factory.mktemp("base"), head=16)


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without onnxruntime: it is neither found nor imported."""
    find, load = importlib.util.find_spec, builtins.__import__

    def imported(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "onnxruntime":
            raise ImportError(f"No module named {name!r}")
        return load(name, *rest, **more)

    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *of: None if name == "onnxruntime" else find(name, *of)
    )
    monkeypatch.setattr(builtins, "__import__", imported)


def test_where_onnxruntime_is_installed_the_portable_engine_answers(bundle: Bundle) -> None:
    choice = choose(bundle)
    assert (choice.name, choice.fallback) == ("portable", False)
    assert onnxruntime.__version__ in choice.why
    opened = open_engine(bundle)
    assert (opened.engine.name, opened.runtime) == ("portable", None)
    assert opened.chat.bundle == bundle


def test_an_engine_that_is_asked_for_by_name_answers(bundle: Bundle, tmp_path: Path) -> None:
    for name in ("torch", "portable"):
        assert Assistant.open(tmp_path, bundle=bundle, engine=name).answer("the cat", max_new_tokens=2).engine == name
        assert Local.open(tmp_path, bundle=bundle, engine=name).fingerprint.startswith(name)


def test_an_engine_that_does_not_exist_is_refused(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="auto, coreml, portable, torch"):
        choose(bundle, "warp")


@pytest.mark.parametrize(("wanted", "fallback"), [("auto", False), ("portable", True)])
def test_without_the_wheel_torch_answers_and_says_how_to_get_it(
    bundle: Bundle, no_wheel: None, wanted: str, fallback: bool
) -> None:
    opened = open_engine(bundle, wanted)
    assert opened.engine.name == opened.choice.name == "torch"
    assert opened.choice.fallback is fallback
    assert "onnxruntime not installed; `pip install 'limbeck[portable]'`" in opened.choice.why


def test_a_wheel_that_does_not_load_is_no_reason_to_stop(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("illegal instruction")

    monkeypatch.setattr(onnxruntime, "InferenceSession", broken)
    opened = open_engine(bundle, "portable")
    assert opened.engine.name == "torch"
    assert "illegal instruction" in opened.choice.why


def test_a_model_that_the_portable_engine_cannot_run_goes_to_torch(tmp_path: Path) -> None:
    choice = choose(tiny_bundle(tmp_path, head=8))
    assert choice.name == "torch"
    assert "no multiple of 16" in choice.why


def test_a_damaged_base_is_refused_by_either_engine(bundle: Bundle, tmp_path: Path) -> None:
    damaged = tiny_packed_bundle(tmp_path, head=16)
    weights = damaged.checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64])
    for name in ("torch", "portable"):
        with pytest.raises(BundleError):
            open_engine(damaged, name)
    config = json.loads((damaged.checkpoint / "config.json").read_text())
    (damaged.checkpoint / "config.json").write_text("[" + json.dumps(config))
    with pytest.raises(BundleError, match=r"config\.json"):
        choose(damaged)


def test_ask_says_on_stderr_that_torch_answers_in_place_of_a_missing_engine(
    bundle: Bundle, no_wheel: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMBECK_BASE", str(bundle.folder))
    made = CliRunner().invoke(cli, ["ask", "the cat", "--engine", "portable", "--tokens", "2", "--json"])
    assert made.exit_code == 0
    assert json.loads(made.stdout)["engine"] == "torch"
    said = [line for line in made.stderr.splitlines() if "torch answers" in line]
    assert len(said) == 1
    assert "pip install" in said[0]


def test_ask_goes_by_the_environment_and_refuses_an_engine_it_does_not_know(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMBECK_BASE", str(bundle.folder))
    for name in ("torch", "portable"):
        monkeypatch.setenv("LIMBECK_ENGINE", name)
        made = CliRunner().invoke(cli, ["ask", "the cat", "--tokens", "2", "--json"])
        assert json.loads(made.stdout)["engine"] == name
        assert "answers:" not in made.stderr
    monkeypatch.setenv("LIMBECK_ENGINE", "warp")
    assert CliRunner().invoke(cli, ["ask", "the cat"]).exit_code == 2


def test_status_says_which_engine_answers_and_why(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMBECK_BASE", str(bundle.folder))
    facts = json.loads(CliRunner().invoke(cli, ["status", "--json"]).stdout)
    assert facts["engine"] == "portable"
    assert "engine      portable: onnxruntime" in CliRunner().invoke(cli, ["status"]).stdout
    monkeypatch.setenv("LIMBECK_ENGINE", "torch")
    assert "engine      torch: it was asked for" in CliRunner().invoke(cli, ["status"]).stdout
    (bundle.folder / "stray.txt").write_text("")
    try:
        facts = json.loads(CliRunner().invoke(cli, ["status", "--json"]).stdout)
    finally:
        (bundle.folder / "stray.txt").unlink()
    assert facts["engine"] is None
    assert "stray.txt" in facts["engine_why"]
