import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from personalize.errors import HomeBusyError, HomeError
from personalize.home import Home

ROOT = Path(__file__).parents[2]


def test_a_new_home_has_its_places_and_a_format(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "deep" / "home")
    assert home.state() == {"format": "home/1"}
    assert home.adapters.is_dir()
    assert home.reports.is_dir()
    assert {home.experience_db.parent, home.ledger_db.parent} == {home.path}
    assert not home.ledger_db.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no file modes")
def test_only_the_owner_can_enter_a_new_home(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "home")
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (home.path, home.adapters, home.reports)} == {0o700}
    assert stat.S_IMODE((home.path / "state.json").stat().st_mode) == 0o600


def test_the_path_comes_first_then_limbeck_home_then_the_users_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("personalize.home.platformdirs.user_data_path", lambda *_, **__: tmp_path / "user")
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "variable"))
    assert Home.open(tmp_path / "given").path == tmp_path / "given"
    assert Home.open().path == tmp_path / "variable"
    monkeypatch.setenv("LIMBECK_HOME", "")
    assert Home.open().path == tmp_path / "user"


def test_a_path_from_here_or_from_the_users_home_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "person"))
    assert Home.open(Path("here")).path == tmp_path / "here"
    assert Home.open(Path("~/there")).path == tmp_path / "person" / "there"


def test_the_state_is_still_there_after_opening_again(tmp_path: Path) -> None:
    Home.open(tmp_path).update_state(adapter="night-1")
    home = Home.open(tmp_path)
    home.update_state(nights=2)
    assert home.state() == {"format": "home/1", "adapter": "night-1", "nights": 2}
    assert [file.name for file in tmp_path.glob("*.tmp")] == []


def test_a_newer_home_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"format": "home/2", "slots": []}')
    with pytest.raises(HomeError, match="has format 'home/2' and this version reads 'home/1'; use the version"):
        Home.open(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["state.json"]
    assert (tmp_path / "state.json").read_text() == '{"format": "home/2", "slots": []}'


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"home/1"', b"{}", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_state_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(HomeError, match=r"state.json is damaged; bring back a copy of it, or move it away"):
        Home.open(tmp_path)
    assert (tmp_path / "state.json").read_bytes() == content


def test_a_crash_while_the_state_is_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home.open(tmp_path)
    home.update_state(adapter="night-1")

    def no_room(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("personalize.home.os.fsync", no_room)
    with pytest.raises(HomeError, match="No space left on device; check its path, your rights and the free room"):
        home.update_state(adapter="night-2")
    assert home.state()["adapter"] == "night-1"
    assert list(tmp_path.glob("*.tmp")) == []


def test_a_home_on_a_disk_without_hard_links_can_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: Path, place: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("personalize.home.os.link", no_links)
    assert Home.open(tmp_path).state() == {"format": "home/1"}


def test_a_state_that_another_process_wrote_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def late(source: Path, place: Path) -> None:
        place.write_text('{"format": "home/1", "adapter": "theirs"}')
        link(source, place)

    monkeypatch.setattr("personalize.home.os.link", late)
    assert Home.open(tmp_path).state()["adapter"] == "theirs"
    assert list(tmp_path.glob("*.tmp")) == []


@contextmanager
def as_nobody() -> Iterator[None]:
    """Give up the administrator's rights for a while: file modes do not bind it."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.fixture
def public_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())  # tmp_path can be entered by its owner only.
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o700)
    shutil.rmtree(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no file modes")
def test_a_home_that_may_not_be_written_is_refused(public_folder: Path) -> None:
    home = public_folder / "home"
    Home.open(home)
    home.chmod(0o555)
    with (
        as_nobody(),
        pytest.raises(HomeError, match=r"cannot use the home .*: Permission denied; check its path"),
    ):
        Home.open(home)
    public_folder.chmod(0o555)
    with as_nobody(), pytest.raises(HomeError, match=r"cannot use the home .*: Permission denied; check its path"):
        Home.open(public_folder / "other")


def test_a_home_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for path in (tmp_path / "file", tmp_path / "file" / "home"):
        with pytest.raises(HomeError, match="cannot use the home"):
            Home.open(path)


def test_a_disk_with_too_little_room_is_refused_with_both_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home.open(tmp_path)
    home.free_disk_check(1)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("personalize.home.shutil.disk_usage", lambda path: usage(free=12_300_000))
    home.free_disk_check(12_300_000)
    with pytest.raises(
        HomeError, match=r"^12.3 MB are free for .* and 1,000.0 MB are needed; free some, or use another"
    ):
        home.free_disk_check(1_000_000_000)


def test_more_room_than_any_disk_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HomeError, match="are needed"):
        Home.open(tmp_path).free_disk_check(10**21)


# --- the lock --------------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from personalize.home import Home

with Home.open(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def test_a_second_learner_is_refused_at_once_with_the_first_ones_process_id(tmp_path: Path) -> None:
    home = Home.open(tmp_path)
    with holder(tmp_path) as process:
        with pytest.raises(
            HomeBusyError, match=f"^process {process.pid} is learning in .*; wait until it has finished"
        ):
            home.lock().__enter__()
        assert process.poll() is None
    with home.lock():  # It has ended, so the home is free.
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_the_lock_of_a_killed_learner_is_free(tmp_path: Path) -> None:
    home = Home.open(tmp_path)
    with holder(tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with home.lock():
            assert (tmp_path / "learn.lock").read_text() == f"{os.getpid()}\n"


def test_a_lock_file_alone_locks_nothing(tmp_path: Path) -> None:
    (tmp_path / "learn.lock").write_text("1\n")
    with Home.open(tmp_path).lock():
        pass


def test_one_process_cannot_hold_the_lock_twice_and_frees_it_after_an_error(tmp_path: Path) -> None:
    home = Home.open(tmp_path)
    with home.lock(), pytest.raises(HomeBusyError, match=f"process {os.getpid()} is learning"), home.lock():
        pass
    with pytest.raises(FileNotFoundError), home.lock():
        (tmp_path / "none").read_text()  # The learner's own error, not called a problem of the home.
    with home.lock():
        pass


def test_a_lock_that_locks_nothing_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("personalize.home._locked", lambda descriptor: True)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_a_second_learner_is_refused_at_once_with_the_first_ones_process_id(tmp_path)


def test_several_processes_can_open_a_new_home_at_once(tmp_path: Path) -> None:
    code = "import sys, pathlib, personalize.home as h; h.Home.open(pathlib.Path(sys.argv[1])).state()"
    command = [sys.executable, "-c", code, str(tmp_path / "home")]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert json.loads((tmp_path / "home" / "state.json").read_text()) == {"format": "home/1"}
