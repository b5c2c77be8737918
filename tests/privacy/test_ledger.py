import os
import sqlite3
import stat
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest
from sqlite_utils import Database

from privacy.accounting import epsilon
from privacy.books import Receipt
from privacy.budget import Budget
from privacy.errors import (
    AccountingError,
    BudgetError,
    BudgetExhaustedError,
    EventError,
    LedgerError,
    PrivacyError,
    ReceiptError,
)
from privacy.events import DpSgdRun, GaussianRelease, Neighbours, Unit
from privacy.ledger import Ledger
from tests.privacy.ledgers import KEY, NIGHT, Clock, opened


def test_reserve_draw_close_is_a_night(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        receipt = ledger.reserve(NIGHT, blocks=["2026-11-24"], plan_digest="sha256:ab", records=300)
        assert (receipt.run, receipt.blocks, receipt.scope) == (NIGHT, ("2026-11-24",), "experience")
        assert ledger.open_receipts() == [receipt]
        assert [ledger.draw(receipt) for _ in range(10)] == list(range(9, -1, -1))
        ledger.close(receipt, "admitted")
        assert ledger.open_receipts() == []
        assert ledger.spent() == pytest.approx(epsilon(NIGHT, delta=1e-5, accountant="rdp"))
        assert ledger.spent(accountant="pld") == pytest.approx(epsilon(NIGHT, delta=1e-5))
        assert ledger.left() == pytest.approx(8 - ledger.spent())
        assert ledger.left(blocks=["2026-11-25"]) == 8
        assert ledger.verify().seq == len(ledger.entries()) == 14
        assert ledger.scopes() == ["experience"]


def test_what_was_spent_is_still_spent_when_the_ledger_is_opened_again(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        receipt = ledger.reserve(NIGHT, blocks=["b"])
        spent = ledger.spent()
    with opened(tmp_path) as again:
        assert again.spent() == spent
        assert again.open_receipts() == [receipt]


def test_reserve_refuses_a_run_that_would_overspend_and_records_nothing(tmp_path: Path) -> None:
    with opened(tmp_path, epsilon=2.0) as ledger:
        ledger.reserve(NIGHT, blocks=["b"])
        entries = ledger.entries()
        with pytest.raises(BudgetExhaustedError):
            ledger.reserve(NIGHT, blocks=["b"])
        assert ledger.entries() == entries
        assert ledger.spent() <= 2.0


def test_a_crash_a_rejection_and_unused_steps_refund_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        spent = 0.0
        for outcome in ("crashed", "rejected", "admitted"):
            receipt = ledger.reserve(NIGHT, blocks=["b"])
            assert ledger.spent() > spent
            spent = ledger.spent()
            ledger.draw(receipt, 3)
            ledger.close(receipt, outcome)
            assert ledger.spent() == spent


def test_more_steps_than_reserved_are_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        receipt = ledger.reserve(NIGHT, blocks=["b"])
        assert ledger.draw(receipt, 9) == 1
        with pytest.raises(ReceiptError, match="1 steps left and 2 were asked"):
            ledger.draw(receipt, 2)
        assert ledger.draw(receipt, 1) == 0
        with pytest.raises(ReceiptError):
            ledger.draw(receipt)


def test_two_open_ledgers_cannot_draw_the_same_step_twice(tmp_path: Path) -> None:
    with opened(tmp_path) as one, opened(tmp_path) as other:
        receipt = one.reserve(NIGHT, blocks=["b"])
        assert one.draw(receipt, 6) == 4
        with pytest.raises(ReceiptError):
            other.draw(receipt, 6)
        assert other.draw(receipt, 4) == 0


def test_a_closed_receipt_draws_nothing_and_closing_again_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        receipt = ledger.reserve(NIGHT, blocks=["b"])
        ledger.close(receipt, "crashed")
        entries = ledger.entries()
        ledger.close(receipt, "crashed")
        assert ledger.entries() == entries
        with pytest.raises(ReceiptError, match="closed"):
            ledger.draw(receipt)
        with pytest.raises(ReceiptError, match="closed"):
            ledger.close(receipt, "admitted")


def test_a_receipt_that_was_altered_or_is_of_another_ledger_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "one") as one, opened(tmp_path / "other") as other:
        receipt = one.reserve(NIGHT, blocks=["b"])
        cheaper = DpSgdRun(noise_multiplier=0.1, sampling_rate=1.0, steps=10)
        forged = Receipt(run=cheaper, blocks=("b",), scope="experience", id=receipt.id)
        for ledger, presented in ((other, receipt), (one, forged)):
            with pytest.raises(ReceiptError, match="not given out"):
                ledger.draw(presented)
            with pytest.raises(ReceiptError, match="not given out"):
                ledger.close(presented)


@pytest.mark.parametrize("steps", [0, -1, 1.0, True, "1"])
def test_a_draw_of_no_whole_number_of_steps_is_refused(tmp_path: Path, steps: Any) -> None:
    with opened(tmp_path) as ledger:
        receipt = ledger.reserve(NIGHT, blocks=["b"])
        with pytest.raises(ReceiptError, match="whole number"):
            ledger.draw(receipt, steps)


@pytest.mark.parametrize(
    "asked",
    [
        {"blocks": []},
        {"blocks": "2026-11-24"},
        {"blocks": ["b", "b"]},
        {"blocks": [""]},
        {"blocks": ["b" * 201]},
        {"blocks": ["b\n"]},
        {"blocks": [7]},
        {"blocks": ["b"], "scope": ""},
        {"blocks": ["b"], "caller": "x" * 300},
        {"blocks": ["b"], "plan_digest": "\x00"},
    ],
)
def test_impossible_names_are_refused_and_nothing_is_recorded(tmp_path: Path, asked: dict[str, Any]) -> None:
    with opened(tmp_path) as ledger:
        with pytest.raises(EventError):
            ledger.reserve(NIGHT, **asked)
        assert len(ledger.entries()) == 2


def test_what_is_no_event_or_does_not_fit_the_scope_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        with pytest.raises(EventError, match="privacy event"):
            ledger.reserve({"event": "dp_sgd_run/1"}, blocks=["b"])  # type: ignore[arg-type]
        with pytest.raises(BudgetError, match="no budget"):
            ledger.reserve(NIGHT, blocks=["b"], scope="telemetry")
        with pytest.raises(BudgetError, match="unit=day"):
            ledger.reserve(GaussianRelease(noise_multiplier=9, unit=Unit.DAY), blocks=["b"])
        sampled = DpSgdRun(noise_multiplier=9, sampling_rate=0.1, steps=1, neighbours=Neighbours.REPLACE)
        with pytest.raises(AccountingError, match="zero_out"):
            ledger.reserve(sampled, blocks=["b"])
        assert len(ledger.entries()) == 2


def test_delta_above_one_over_the_number_of_records_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        with pytest.raises(AccountingError, match="records"):
            ledger.reserve(NIGHT, blocks=["b"], records=100_001)
        ledger.reserve(NIGHT, blocks=["b"], records=100_000)


def test_the_ledger_tells_which_blocks_can_afford_a_run_without_recording_anything(tmp_path: Path) -> None:
    with opened(tmp_path, epsilon=2.5) as ledger:
        ledger.reserve(NIGHT, blocks=["monday"])
        entries = ledger.entries()
        assert ledger.affordable(NIGHT, blocks=["monday", "tuesday"]) == ("tuesday",)
        assert ledger.affordable(GaussianRelease(noise_multiplier=50), blocks=["monday"]) == ("monday",)
        assert ledger.entries() == entries


def test_scopes_have_budgets_of_their_own(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.set_budget(Budget(epsilon=1.0, unit=Unit.DAY), scope="telemetry")
        ledger.reserve(NIGHT, blocks=["b"])
        ledger.reserve(GaussianRelease(noise_multiplier=8, unit=Unit.DAY), blocks=["b"], scope="telemetry")
        assert ledger.spent("telemetry") == pytest.approx(
            epsilon(GaussianRelease(noise_multiplier=8), delta=1e-5, accountant="rdp")
        )
        assert ledger.left("telemetry") == pytest.approx(1.0 - ledger.spent("telemetry"))
        assert ledger.scopes() == ["experience", "telemetry"]
        with pytest.raises(BudgetError, match="no budget"):
            ledger.left("nothing")


def test_callers_are_recorded_and_all_spend_the_same_budget(tmp_path: Path) -> None:
    with opened(tmp_path, epsilon=2.5) as ledger:
        ledger.reserve(NIGHT, blocks=["b"], caller="learner")
        with pytest.raises(BudgetExhaustedError):
            ledger.reserve(NIGHT, blocks=["b"], caller="plugin")
        assert list(ledger.spent_by_caller()) == ["learner"]


def test_the_budget_given_to_open_must_be_the_one_that_was_promised(tmp_path: Path) -> None:
    opened(tmp_path, epsilon=4.0).disconnect()
    with pytest.raises(BudgetError, match="promised epsilon 4"):
        opened(tmp_path, epsilon=5.0)
    with Ledger.open(tmp_path / "ledger.db", key=KEY) as ledger:
        assert ledger.budget() == Budget(epsilon=4.0)
        with pytest.raises(BudgetError, match="on purpose"):
            ledger.set_budget(Budget(epsilon=5.0))
        ledger.set_budget(Budget(epsilon=3.0))
        ledger.set_budget(Budget(epsilon=3.0))
        ledger.set_budget(Budget(epsilon=6.0), allow_raise=True)
        assert [entry.kind for entry in ledger.entries()] == ["genesis", "budget", "budget", "budget"]


def test_lowering_the_budget_below_what_was_spent_refunds_nothing_and_stops_the_block(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.reserve(NIGHT, blocks=["b"])
        spent = ledger.spent()
        ledger.set_budget(Budget(epsilon=1.0))
        assert ledger.spent() == spent
        assert ledger.left() == 0
        with pytest.raises(BudgetExhaustedError) as caught:
            ledger.reserve(GaussianRelease(noise_multiplier=1000), blocks=["b"])
        assert caught.value.left == 0


def test_a_clock_that_was_set_back_is_recorded_and_buys_no_new_period(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, period_epsilon=2.0, period_days=1, clock=clock) as ledger:
        ledger.reserve(NIGHT, blocks=["1"])
        clock.move(days=-30)
        with pytest.raises(BudgetExhaustedError, match="period"):
            ledger.reserve(NIGHT, blocks=["2"])
        ledger.set_budget(Budget(epsilon=8), allow_raise=True)
        facts = ledger.entries()[-1].facts()
        assert facts["clock_behind_seconds"] == 30 * 86_400
        assert ledger.entries()[-1].at == ledger.entries()[-2].at
        clock.move(days=31)
        ledger.reserve(NIGHT, blocks=["3"])
        assert "clock_behind_seconds" not in ledger.entries()[-1].facts()
        assert ledger.clock_set_back_seconds == 30 * 86_400
        ledger.verify()


def test_a_naive_clock_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EventError, match="aware"):
        opened(tmp_path, clock=lambda: Clock().now.replace(tzinfo=None))


def test_the_same_night_from_the_same_state_gives_the_same_ledger(tmp_path: Path) -> None:
    clock = Clock()
    opened(tmp_path / "one", clock=clock).disconnect()
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "ledger.db").write_bytes((tmp_path / "one" / "ledger.db").read_bytes())
    histories = []
    for name in ("one", "two"):
        with opened(tmp_path / name, clock=clock) as ledger:
            receipt = ledger.reserve(NIGHT, blocks=["b"], plan_digest="p")
            ledger.draw(receipt, 10)
            ledger.close(receipt)
            histories.append(ledger.entries())
    assert histories[0] == histories[1]


def test_threads_share_a_ledger_and_never_spend_the_last_budget_twice(tmp_path: Path) -> None:
    outcomes: list[str] = []

    def spend(ledger: Ledger) -> None:
        for _ in range(4):
            try:
                ledger.reserve(NIGHT, blocks=["b"])
                outcomes.append("charged")
            except BudgetExhaustedError:
                outcomes.append("refused")
            assert ledger.spent() <= 4.0

    with opened(tmp_path, epsilon=4.0) as ledger:
        threads = [threading.Thread(target=spend, args=[ledger]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        charged = outcomes.count("charged")
        assert len(outcomes) == 32
        assert len(ledger.open_receipts()) == charged == 3
        assert epsilon([NIGHT] * (charged + 1), delta=1e-5, accountant="rdp") > 4.0
        ledger.verify()


def test_a_ledger_that_was_opened_before_a_fork_is_refused_after_it(tmp_path: Path) -> None:
    script = (
        "import os, sys; from tests.privacy.ledgers import opened, NIGHT; from pathlib import Path\n"
        "ledger = opened(Path(sys.argv[1])); child = os.fork()\n"
        "if child == 0:\n"
        "    from privacy.errors import LedgerError\n"
        "    try: ledger.reserve(NIGHT, blocks=['b'])\n"
        "    except LedgerError as error: os._exit(7 if 'fork' in str(error) else 1)\n"
        "    os._exit(2)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    if not hasattr(os, "fork"):
        pytest.skip("no fork on this system")
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == 7


def test_the_file_is_for_its_user_only(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.reserve(NIGHT, blocks=["b"])
        for file in tmp_path.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0


def test_a_commit_has_reached_the_disk_when_reserve_returns(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        database = ledger._file._db
        assert database.execute("pragma journal_mode").fetchone()[0] == "wal"
        assert database.execute("pragma synchronous").fetchone()[0] == 2


def test_a_short_key_and_an_impossible_path_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="16 bytes"):
        Ledger.open(tmp_path / "ledger.db", key=b"short")
    (tmp_path / "file").write_text("not a folder")
    for path in (tmp_path, tmp_path / "file" / "ledger.db"):
        with pytest.raises(LedgerError) as caught:
            Ledger.open(path, key=KEY)
        assert "\n" not in str(caught.value)


def test_the_database_opens_in_sqlite_utils_with_views_for_people(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        first = ledger.reserve(NIGHT, blocks=["monday", "tuesday"])
        ledger.close(first, "rejected")
        ledger.reserve(GaussianRelease(noise_multiplier=9, count=2), blocks=["tuesday"], caller="gate")
    database = Database(tmp_path / "ledger.db")
    runs = list(database.query("select * from runs order by seq"))
    assert [(run["mechanism"], run["uses"], run["outcome"]) for run in runs] == [
        ("dp_sgd_run/1", 10, "rejected"),
        ("gaussian_release/1", 2, None),
    ]
    assert runs[0]["epsilon_alone"] == pytest.approx(1.99996, abs=1e-4)
    charges = list(database.query("select block, count(*) as runs from charges group by block order by block"))
    assert charges == [{"block": "monday", "runs": 1}, {"block": "tuesday", "runs": 2}]
    database.close()


def test_a_refusal_is_one_line_and_a_privacy_error(tmp_path: Path) -> None:
    with opened(tmp_path, epsilon=1.0) as ledger, pytest.raises(PrivacyError) as caught:
        ledger.reserve(NIGHT, blocks=["b"])
    assert str(caught.value).startswith("run needs epsilon 2.00 but 1.00 is left in block b")
    assert "\n" not in str(caught.value)


def test_a_thousand_runs_are_composed_and_verified_from_cold_in_two_seconds_of_cpu(tmp_path: Path) -> None:
    with opened(tmp_path, epsilon=500.0) as ledger:
        for index in range(1000):
            rate, noise = ((0.01, 1.0), (0.032, 2.0), (0.1, 4.0), (1.0, 6.8), (0.3, 8.0))[index % 5]
            run = DpSgdRun(noise_multiplier=noise + index % 7 / 10, sampling_rate=rate, steps=10 + index % 3)
            ledger.reserve(run, blocks=[f"night {index // 4}"])
    script = (
        "import sys, time; from pathlib import Path; from privacy.ledger import Ledger\n"
        "ledger = Ledger.open(Path(sys.argv[1]), key=b'k' * 32); ledger.verify(); ledger.spent()\n"
        "print(time.process_time())"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "ledger.db")], capture_output=True, check=True)
    assert float(done.stdout) < 2.0


def test_an_append_takes_less_than_five_milliseconds_and_what_the_disk_needs(tmp_path: Path) -> None:
    probe, waits = (tmp_path / "probe").open("wb"), []
    with opened(tmp_path) as ledger, probe:
        receipt = ledger.reserve(DpSgdRun(noise_multiplier=50, sampling_rate=1.0, steps=200), blocks=["b"])
        for _ in range(60):
            before = time.perf_counter()
            ledger.draw(receipt)
            appended = time.perf_counter() - before
            before = time.perf_counter()
            probe.write(b"x" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
            waits.append(appended - (time.perf_counter() - before))
    assert statistics.median(waits) < 0.005


def test_a_reader_of_the_raw_file_finds_what_was_promised(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.reserve(NIGHT, blocks=["b"])
        connection = sqlite3.connect(tmp_path / "ledger.db")
        assert connection.execute("select count(*) from entries where kind = 'reserve'").fetchone() == (1,)
        connection.close()


def test_arguments_of_another_kind_are_refused_in_one_line_and_charge_nothing(tmp_path: Path) -> None:

    with opened(tmp_path) as ledger:
        before = ledger.entries()
        forged = Receipt(run=NIGHT, blocks=("b",), scope="experience", id=cast(Any, ["x"]))
        for odd in (None, 7, [["b"]], {}, object(), 10**5000):
            for attempt in (
                lambda odd=odd: ledger.reserve(NIGHT, blocks=odd),
                lambda odd=odd: ledger.reserve(NIGHT, blocks=["b"], scope=odd),
                lambda odd=odd: ledger.reserve(NIGHT, blocks=["b"], caller=odd),
                lambda odd=odd: ledger.reserve(NIGHT, blocks=["b"], plan_digest=odd),
                lambda odd=odd: ledger.reserve(odd, blocks=["b"]),
                lambda odd=odd: ledger.draw(odd),
                lambda odd=odd: ledger.close(odd),
                lambda odd=odd: ledger.set_budget(odd),
                lambda odd=odd: ledger.spent(odd),
                lambda odd=odd: ledger.spent_by_block(odd),
                lambda odd=odd: ledger.spent_by_caller(odd),
                lambda odd=odd: ledger.spent_in_total(odd),
                lambda odd=odd: ledger.left(odd),
                lambda odd=odd: ledger.budget(odd),
                lambda odd=odd: ledger.affordable(odd, blocks=["b"]),
                lambda odd=odd: ledger.affordable(NIGHT, blocks=["b"], caller=odd),
                lambda odd=odd: Ledger.open(tmp_path / "other.db", key=odd),
                lambda odd=odd: Ledger.open(tmp_path / "ledger.db", key=KEY, budget=Budget(epsilon=8), scope=odd),
                lambda: ledger.draw(forged),
                lambda: ledger.close(forged),
            ):
                with pytest.raises(PrivacyError):
                    attempt()
        receipt = ledger.reserve(NIGHT, blocks=["b"])
        with pytest.raises(ReceiptError, match="a huge int"):
            ledger.draw(receipt, 10**5000)
        assert len(ledger.entries()) == len(before) + 1
