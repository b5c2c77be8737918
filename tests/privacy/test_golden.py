"""Every released format stays readable: a ledger and an export of version 1, as they were written once.

They were made by `python -m tests.privacy.test_golden`, which refuses to write over them.
"""

import json
import shutil
from pathlib import Path

import pytest

from privacy.budget import Budget
from privacy.events import DpSgdRun, GateRelease, GaussianRelease, LaplaceRelease, MatrixFactorisationRun, Unit
from privacy.ledger import Ledger
from privacy.verify import verify_export
from tests.privacy.ledgers import KEY, Clock

GOLDEN = Path(__file__).parent.parent / "golden" / "ledger-v1"


def write(folder: Path) -> None:
    """Write a ledger with every kind of entry and every mechanism, and its export."""
    clock = Clock()
    budget = Budget(epsilon=8, total_epsilon=20, period_epsilon=8, period_days=7, caller_epsilon=6)
    with Ledger.open(folder / "ledger.sqlite", key=KEY, budget=budget, clock=clock) as ledger:
        ledger.set_budget(Budget(epsilon=1, unit=Unit.DAY), scope="telemetry")
        receipt = ledger.reserve(
            DpSgdRun(noise_multiplier=6.798, sampling_rate=1.0, steps=10),
            blocks=["2026-11-24"],
            plan_digest="sha256:00",
        )
        ledger.draw(receipt, 10)
        ledger.close(receipt, "admitted")
        clock.move(days=1)
        for run in (
            DpSgdRun(noise_multiplier=1.5, sampling_rate=0.032, steps=60),
            GaussianRelease(noise_multiplier=20, count=2),
            GateRelease(noise_multiplier=30),
            LaplaceRelease(scale=40),
            MatrixFactorisationRun(noise_multiplier=25, steps=40, bands=8, min_separation=10, max_participations=4),
        ):
            ledger.reserve(run, blocks=["2026-11-25", "2026-11-26"], caller="other")
        clock.move(hours=-2)
        ledger.reserve(LaplaceRelease(scale=2, unit=Unit.DAY), blocks=["2026-11-25"], scope="telemetry")
        (folder / "export.json").write_text(ledger.export(), encoding="utf-8")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    shutil.copy(GOLDEN / "ledger.sqlite", tmp_path / "ledger.db")
    return Ledger.open(tmp_path / "ledger.db", key=KEY)


def test_a_ledger_of_version_1_opens_verifies_and_still_shows_what_was_spent(ledger: Ledger) -> None:
    claims = json.loads((GOLDEN / "export.json").read_text(encoding="utf-8"))["claims"]
    ledger.verify()
    for scope, claim in claims.items():
        assert ledger.spent(scope) == pytest.approx(claim["spent_rdp"], rel=1e-9)
        assert ledger.spent(scope, "pld") == pytest.approx(claim["spent_pld"], rel=1e-6)
    assert len(ledger.open_receipts()) == 6
    assert ledger.clock_set_back_seconds == 7200
    ledger.disconnect()


def test_a_ledger_of_version_1_can_be_continued(ledger: Ledger) -> None:
    receipt = ledger.reserve(GaussianRelease(noise_multiplier=20), blocks=["2026-11-27"])
    ledger.close(receipt, "rejected")
    assert verify_export(ledger.export(), key=KEY).runs == 8
    ledger.disconnect()


def test_an_export_of_version_1_verifies() -> None:
    verdict = verify_export((GOLDEN / "export.json").read_text(encoding="utf-8"), key=KEY)
    assert (verdict.runs, verdict.sealed) == (7, True)


def test_the_committed_export_is_what_the_committed_ledger_gives(ledger: Ledger) -> None:
    assert json.loads(ledger.export())["entries"] == json.loads((GOLDEN / "export.json").read_text())["entries"]
    ledger.disconnect()


if __name__ == "__main__":
    if any(GOLDEN.iterdir()):
        raise SystemExit(f"{GOLDEN.name} is released: make a folder for the next version instead")
    write(GOLDEN)
