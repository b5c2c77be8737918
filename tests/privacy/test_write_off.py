"""After a real loss there is an honest way on: what is unknown counts as spent, and nothing comes back."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from privacy import Budget, BudgetExhaustedError, GaussianRelease, LedgerError, LedgerRolledBackError, Unit, write_off
from privacy.anchor import FileAnchor, NoAnchor
from privacy.ledger import Ledger
from privacy.verify import verify_export
from privacy.write_off import WrittenOff
from tests.privacy.ledgers import KEY, NIGHT, opened

LIMIT = Budget(epsilon=4.0)
FAINT = GaussianRelease(noise_multiplier=100.0)  # Epsilon 0.03: anything that is left pays for it.


def lost(tmp_path: Path, *, all_of_it: bool = False) -> tuple[Path, FileAnchor]:
    """A home whose disk was lost after a second night; the backup is from before it, or there is none."""
    home, anchor = tmp_path / "home", FileAnchor(tmp_path / "anchor.json")
    with opened(home, epsilon=4.0, anchor=anchor) as ledger:
        ledger.reserve(NIGHT, blocks=["2026-11-22"])
    shutil.copytree(home, tmp_path / "backup")
    with opened(home, epsilon=4.0, anchor=anchor) as ledger:
        ledger.reserve(NIGHT, blocks=["2026-11-22"])  # What the backup does not know.
        ledger.reserve(NIGHT, blocks=["2026-11-23"])
    shutil.rmtree(home)
    if not all_of_it:
        shutil.copytree(tmp_path / "backup", home)
    return home, anchor


def acknowledged(home: Path, anchor: FileAnchor, blocks: tuple[str, ...] = (), **more: Any) -> WrittenOff:
    facts = {"key": KEY, "budget": LIMIT, **more}
    return write_off.write_off(home / "ledger.db", anchor=anchor, blocks=blocks, **facts)


def require_nothing_came_back(home: Path, anchor: FileAnchor) -> None:
    """Neither a block that the lost entries charged, nor one that they may have charged, has anything left."""
    with opened(home, epsilon=4.0, anchor=anchor) as ledger:
        for block in ("2026-11-22", "2026-11-23"):
            with pytest.raises(BudgetExhaustedError):
                ledger.reserve(FAINT, blocks=[block])


def test_after_a_loss_every_block_that_may_have_been_charged_is_full_and_later_ones_are_not(tmp_path: Path) -> None:
    home, anchor = lost(tmp_path)
    with pytest.raises(LedgerRolledBackError):
        opened(home, epsilon=4.0, anchor=anchor)
    said = acknowledged(home, anchor, ("2026-11-23",))
    assert said == WrittenOff(remembered=5, found=3, blocks=("2026-11-22", "2026-11-23"))
    require_nothing_came_back(home, anchor)
    with opened(home, epsilon=4.0, anchor=anchor) as ledger:
        assert 3.99 < ledger.spent() <= 4.0
        ledger.reserve(NIGHT, blocks=["2026-11-24"])
        assert [entry.caller for entry in ledger.entries() if entry.kind == "reserve"] == [
            "learner", "write-off", "write-off", "learner"
        ]  # fmt: skip
        verdict = verify_export(ledger.export(), key=KEY)
        assert verdict.spent["experience"] == pytest.approx(ledger.spent())
        assert verdict.rollback_protection == "file"


def test_a_home_that_is_gone_altogether_begins_with_what_is_known_written_off(tmp_path: Path) -> None:
    home, anchor = lost(tmp_path, all_of_it=True)
    with pytest.raises(LedgerRolledBackError, match="gone"):
        opened(home, epsilon=4.0, anchor=anchor)
    said = acknowledged(home, anchor, ("2026-11-22", "2026-11-23"))
    assert (said.found, said.blocks) == (1, ("2026-11-22", "2026-11-23"))
    require_nothing_came_back(home, anchor)


def test_an_anchor_that_is_simply_thrown_away_is_caught(tmp_path: Path) -> None:
    """What a person might do instead refunds, and the check sees it."""
    home, anchor = lost(tmp_path)
    anchor.path.unlink()
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        require_nothing_came_back(home, anchor)


def test_a_write_off_that_only_moves_the_anchor_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, anchor = lost(tmp_path)
    monkeypatch.setattr(write_off, "_fill", lambda ledger, scope, blocks: [])
    acknowledged(home, anchor, ("2026-11-23",))
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        require_nothing_came_back(home, anchor)


def test_a_crash_before_the_anchor_moves_leaves_training_off_and_can_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, anchor = lost(tmp_path)

    def crash(*rest: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(write_off, "_move", crash)
        with pytest.raises(KeyboardInterrupt):
            acknowledged(home, anchor, ("2026-11-23",))
    with pytest.raises(LedgerRolledBackError):
        opened(home, epsilon=4.0, anchor=anchor)
    assert acknowledged(home, anchor, ("2026-11-23",)).blocks == ()  # They are full already.
    require_nothing_came_back(home, anchor)


def test_every_scope_is_written_off_for_its_own_unit(tmp_path: Path) -> None:
    home, anchor = tmp_path / "home", FileAnchor(tmp_path / "anchor.json")
    with opened(home, epsilon=4.0, anchor=anchor) as ledger:
        ledger.set_budget(Budget(epsilon=1.0, unit=Unit.DAY), scope="telemetry")
        ledger.reserve(GaussianRelease(noise_multiplier=30, unit=Unit.DAY), blocks=["d"], scope="telemetry")
    shutil.copytree(home, tmp_path / "backup")
    with opened(home, epsilon=4.0, anchor=anchor) as ledger:
        ledger.reserve(NIGHT, blocks=["b"])
    shutil.rmtree(home)
    shutil.copytree(tmp_path / "backup", home)
    assert acknowledged(home, anchor, ("b",)).blocks == ("b", "d")
    with opened(home, epsilon=4.0, anchor=anchor) as ledger:
        assert 0.99 < ledger.spent("telemetry") <= 1.0


def test_where_nothing_was_lost_nothing_is_written_off(tmp_path: Path) -> None:
    home, anchor = tmp_path / "home", FileAnchor(tmp_path / "anchor.json")
    with opened(home, epsilon=4.0, anchor=anchor) as ledger:
        ledger.reserve(NIGHT, blocks=["b"])
    for place in (anchor, FileAnchor(tmp_path / "never.json")):
        with pytest.raises(LedgerError, match="nothing was lost and nothing is written off"):
            acknowledged(home, place)
    with pytest.raises(LedgerError, match="nothing was lost"):
        write_off.write_off(home / "ledger.db", key=KEY, anchor=NoAnchor(), budget=LIMIT)
    with opened(home, epsilon=4.0, anchor=anchor) as ledger:
        assert len(ledger.entries()) == 3


def test_a_ledger_that_was_altered_or_has_another_key_is_not_written_off(tmp_path: Path) -> None:
    home, anchor = lost(tmp_path)
    with pytest.raises(LedgerRolledBackError, match="anchor does not verify"):
        acknowledged(home, anchor, key=b"x" * 32)
    (home / "ledger.db").write_bytes(b"no database" * 1000)
    before = anchor.read()
    with pytest.raises(LedgerError):
        acknowledged(home, anchor)
    assert anchor.read() == before


@pytest.mark.parametrize("limits", [{"caller_epsilon": 1.0}, {"period_epsilon": 1.0, "period_days": 7}])
def test_a_limit_that_no_charge_fills_for_good_is_refused_before_anything_is_changed(
    limits: dict[str, Any], tmp_path: Path
) -> None:
    home, anchor = lost(tmp_path)
    with Ledger.open(home / "ledger.db", key=KEY) as ledger:
        ledger.set_budget(Budget(epsilon=1.0, **limits), scope="telemetry")
        count = len(ledger.entries())
    with pytest.raises(LedgerError, match="limit per period or caller"):
        acknowledged(home, anchor)
    with Ledger.open(home / "ledger.db", key=KEY) as ledger:
        assert len(ledger.entries()) == count
