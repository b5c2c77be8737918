"""Eight processes at once never spend the last budget twice, and lose nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from privacy.accounting import epsilon
from privacy.anchor import FileAnchor
from tests.privacy.crowd import WRITERS
from tests.privacy.ledgers import NIGHT, opened

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs fork")


def crowd(folder: Path, runs: int, blocks: str) -> list[int]:
    command = [sys.executable, "-m", "tests.privacy.crowd", str(folder), str(runs), blocks]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout, done.stderr
    return [int(number) for number in done.stdout.split()]


def test_eight_writers_never_spend_the_last_budget_twice(tmp_path: Path) -> None:
    charged = crowd(tmp_path, 3, "same")
    assert len(charged) == WRITERS
    affordable = sum(epsilon([NIGHT] * runs, delta=1e-5, accountant="rdp") <= 4.0 for runs in range(1, 25))
    assert sum(charged) == affordable == 3
    with opened(tmp_path, epsilon=4.0, anchor=FileAnchor(tmp_path / "anchor")) as ledger:
        ledger.verify()
        assert len(ledger.open_receipts()) == affordable


def test_eight_writers_lose_no_entry(tmp_path: Path) -> None:
    assert crowd(tmp_path, 10, "own") == [10] * WRITERS
    with opened(tmp_path, epsilon=4.0, anchor=FileAnchor(tmp_path / "anchor")) as ledger:
        ledger.verify()
        kinds = [entry.kind for entry in ledger.entries()]
        assert (kinds.count("genesis"), kinds.count("budget")) == (1, 1)
        assert kinds.count("reserve") == kinds.count("draw") == 10 * WRITERS
        assert len(ledger.spent_by_block()) == 10 * WRITERS
