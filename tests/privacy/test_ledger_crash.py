"""Killed anywhere, by SIGKILL: no charge is lost, nothing is spent twice, the next start works."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")


def sweep(folder: Path, way: str) -> str:
    command = [sys.executable, "-m", "tests.privacy.sweep_ledger", str(folder), way]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_killed_at_any_statement_the_ledger_loses_no_charge_and_spends_none_twice(tmp_path: Path) -> None:
    assert int(sweep(tmp_path, "statements")) > 30


@pytest.mark.slow
def test_killed_at_any_system_call_the_ledger_loses_no_charge_and_spends_none_twice(tmp_path: Path) -> None:
    survived = sweep(tmp_path, "syscalls")
    if survived == "cannot trace":
        pytest.skip("this system does not let a parent trace its child")
    assert int(survived) > 200
