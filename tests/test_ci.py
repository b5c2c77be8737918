"""`.ci/run` installs a browser and nginx where it may, goes on where it may not, and ends with what the checks said."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parent.parent / ".ci" / "run"
NEEDED = ("bash", "cat", "dirname", "env", "timeout")
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")


def machine(folder: Path, **programs: str) -> dict[str, str]:
    """A machine that has nothing but a shell and the given programs; `make` says what pytest would."""
    for name in NEEDED:
        (folder / name).symlink_to(str(shutil.which(name)))
    for name, script in {"make": 'echo "7 passed"', "id": "echo 0", **programs}.items():
        file = folder / name.replace("_", "-")
        file.write_text(f"#!/usr/bin/env bash\n{script}\n")
        file.chmod(0o755)
    return {"PATH": os.fspath(folder), "HOME": os.fspath(folder)}


def ran(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    bash = str(shutil.which("bash"))
    return subprocess.run([bash, RUN], env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_chromium_and_nginx_are_installed_by_root_without_a_question(tmp_path: Path) -> None:
    done = ran(machine(tmp_path, apt_get='echo "$DEBIAN_FRONTEND $*" >> "$HOME/asked"; echo noise'))
    assert (done.returncode, done.stdout) == (0, "7 passed\n")
    update, install = (tmp_path / "asked").read_text().splitlines()
    assert update.startswith("noninteractive")
    assert update.endswith("update")
    assert install.endswith("install -y --no-install-recommends chromium nginx-light")
    assert "skipped" not in done.stderr


def test_what_is_there_is_not_installed_again(tmp_path: Path) -> None:
    done = ran(machine(tmp_path, chromium="true", nginx="true", apt_get='touch "$HOME/asked"'))
    assert done.stdout == "7 passed\n"
    assert not (tmp_path / "asked").exists()


def test_only_what_is_missing_is_installed(tmp_path: Path) -> None:
    ran(machine(tmp_path, chromium="true", apt_get='echo "$*" >> "$HOME/asked"'))
    assert (tmp_path / "asked").read_text().splitlines()[-1].endswith("--no-install-recommends nginx-light")


@pytest.mark.parametrize(
    "programs",
    [
        {},
        {"apt_get": "exit 100"},
        {"apt_get": 'touch "$HOME/asked"', "id": "echo 1000"},
        {"apt_get": 'touch "$HOME/asked"', "id": "echo 1000", "sudo": "exit 1"},
    ],
    ids=["no apt-get", "apt-get fails", "no sudo", "sudo wants a password"],
)
def test_where_it_cannot_be_installed_the_checks_run_all_the_same(programs: dict[str, str], tmp_path: Path) -> None:
    done = ran(machine(tmp_path, **programs))
    assert (done.returncode, done.stdout) == (0, "7 passed\n")
    assert "the page tests or the relay's will be skipped" in done.stderr
    assert not (tmp_path / "asked").exists()


def test_a_check_that_fails_fails_the_run(tmp_path: Path) -> None:
    done = ran(machine(tmp_path, chromium="true", make='echo "1 failed"; exit 2'))
    assert (done.returncode, done.stdout) == (2, "1 failed\n")
