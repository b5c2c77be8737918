"""The example of two managers and a thousand devices runs, in under a minute, and ends where it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_two_managers_ship_a_model_to_a_thousand_devices() -> None:
    done = subprocess.run(
        [sys.executable, REPOSITORY / "examples" / "2_ship_a_model.py"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("  devices:")]
    counts = [{version: int(count) for count, version in re.findall(r"(\d+) on (\d)", line)} for line in lines]
    first, one, quarter, stopped, last = counts
    assert first == {"1": 1_000}
    assert 0 < one["2"] < 30  # 10 expected, standard deviation 3.
    assert 195 < quarter["2"] < 305  # 250 expected, standard deviation 14.
    assert stopped == quarter
    assert last == {"3": 1_000}
