"""One night in one home: what it charges, what it learns, what it refuses, what it leaves."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from personalize import learner as module
from personalize.adapter import Adapter
from personalize.errors import AdapterError, BaseMismatchError, HomeBusyError, HomeError, ProbeError, TrainingError
from personalize.experience import Consent, Signal
from personalize.home import Home
from personalize.learner import LIFETIME, Learner, NightReport, require_policy
from personalize.train import train
from privacy import BudgetExhaustedError, Unit, epsilon
from privacy.books import Books
from tests.checks import require_nothing_refunded
from tests.forked import needs_fork, run_forked
from tests.nights import DIGEST, PLAN, RECKLESS, SPEC, one_day, opened_learner, tiny_base, warm_adapter

BASE = tiny_base()
DAY = timedelta(days=1)
TONIGHT = "2026-11-20"
"""Block of the experiences of one day."""


@pytest.fixture
def learner(tmp_path: Path) -> Iterator[Learner]:
    opened = opened_learner(tmp_path / "home", BASE)
    yield opened
    opened.close()


@pytest.fixture
def ready(learner: Learner) -> Learner:
    learner.remember(one_day())
    return learner


def kinds(learner: Learner) -> list[str]:
    return [entry.kind for entry in learner.ledger.entries()]


# A night


def test_a_night_goes_from_records_to_an_admitted_adapter(ready: Learner) -> None:
    report = ready.learn(PLAN)
    assert report.verdict.admitted
    assert report.adapter == ready.shelf.in_use
    assert (report.records, report.blocks, report.steps) == (24, (TONIGHT,), 2)
    assert (report.unit, report.neighbours, report.delta) == ("record", "zero_out", 1e-5)
    assert kinds(ready) == ["genesis", "budget", "reserve", "draw", "draw", "close"]
    assert list(ready.store.fresh()) == []
    assert {record.trained_run for record in ready.store.all()} == {ready.ledger.entries()[2].receipt}
    assert report.summary().startswith(
        f"admitted {report.adapter} at alpha 1. epsilon 2.00 spent on each of 24 records"
    )


def test_what_a_report_says_is_what_the_ledger_says(ready: Learner) -> None:
    report = ready.learn(PLAN)
    reserved = ready.ledger.entries()[2].facts()
    assert reserved["plan_digest"] == PLAN.digest()
    assert reserved["run"] == PLAN.run().to_dict()
    assert report.noise_multiplier == PLAN.run().noise_multiplier
    assert report.epsilon == pytest.approx(ready.ledger.spent())
    assert report.epsilon == pytest.approx(epsilon(PLAN.run(), delta=1e-5, accountant="rdp"))
    assert report.epsilon_pld == pytest.approx(epsilon(PLAN.run(), delta=1e-5))
    assert report.epsilon_pld < report.epsilon <= PLAN.epsilon
    assert report.epsilon_left == pytest.approx(LIFETIME.epsilon - report.epsilon)


def test_the_admitted_adapter_carries_its_label_and_its_base(ready: Learner) -> None:
    report = ready.learn(PLAN)
    label = ready.shelf.label()
    assert label is not None
    assert label["plan"] == PLAN.to_dict()
    assert label["privacy"]["epsilon"] == pytest.approx(report.epsilon)
    assert label["before"] is None
    assert label["night"]["epsilon"] == report.epsilon
    adapter = ready.shelf.load(base_digest=DIGEST)
    assert adapter is not None
    assert (adapter.spec, adapter.kind) == (SPEC, "xs")


def test_a_night_that_forgets_is_rejected_and_changes_nothing_but_the_spend(ready: Learner) -> None:
    report = ready.learn(RECKLESS)
    assert not report.verdict.admitted
    assert report.adapter is None
    assert ready.shelf.load(base_digest=DIGEST) is None
    assert list(ready.home.adapters.iterdir()) == []
    assert ready.ledger.spent() == pytest.approx(report.epsilon)
    assert ready.ledger.entries()[-1].facts()["outcome"] == "rejected"
    assert list(ready.store.fresh()) == [], "the gate does not make a record unread"
    assert report.summary().startswith("rejected: it would have forgotten (english")


def test_a_rejected_night_leaves_the_adapter_before(ready: Learner) -> None:
    first = ready.learn(PLAN)
    ready.remember([replace(item, at=item.at + DAY) for item in one_day()])
    second = ready.learn(RECKLESS)
    assert second.adapter == first.adapter == ready.shelf.in_use


def test_the_next_night_begins_at_the_adapter_in_use_and_charges_another_block(ready: Learner) -> None:
    ready.learn(PLAN)
    before = ready.shelf.load(base_digest=DIGEST)
    ready.remember([replace(item, at=item.at + DAY) for item in one_day()])
    report = ready.learn(PLAN)
    assert report.blocks == ("2026-11-21",)
    assert ready.ledger.spent() == pytest.approx(report.epsilon), (
        "a record is charged once, however many nights there are"
    )
    after = ready.shelf.load(base_digest=DIGEST)
    assert before is not None
    assert after is not None
    moved = sum(float((after.b[site] - before.b[site]).square().sum()) for site in after.b) ** 0.5
    assert 0 < moved < sum(float(value.square().sum()) for value in after.b.values()) ** 0.5 * 2


def test_a_public_start_is_where_the_first_night_begins(tmp_path: Path) -> None:
    start = warm_adapter(BASE.model, size=0.003)
    with_start = opened_learner(tmp_path / "home", replace(BASE, start=start))
    with_start.remember(one_day())
    with_start.learn(replace(PLAN, step_size=1e-6))
    adapter = with_start.shelf.load(base_digest=DIGEST)
    assert adapter is not None
    for site in start.b:
        torch.testing.assert_close(adapter.b[site], start.b[site], atol=1e-4, rtol=0)
    with_start.close()


def test_progress_tells_every_phase_in_order(ready: Learner) -> None:
    told: list[tuple[str, int, int]] = []
    ready.learn(PLAN, progress=lambda *now: told.append(now))
    reading = [("reading", done, 24) for done in range(25)]
    learning = [("learning", done, 2) for done in range(3)]
    assert told == [*reading, *learning, ("checking", 0, 4)]


def test_only_records_that_may_be_learned_take_part(ready: Learner) -> None:
    ready.remember(
        [replace(one_day()[0], consent=Consent.KEEP), replace(one_day()[1], signal=Signal.REJECTED)],
    )
    assert ready.learn(PLAN).records == 24


def test_a_night_may_be_limited_to_some_blocks(ready: Learner) -> None:
    ready.remember([replace(item, at=item.at + DAY) for item in one_day()])
    assert ready.learn(PLAN, blocks=["2026-11-21"]).blocks == ("2026-11-21",)
    assert {record.block for record in ready.store.fresh()} == {TONIGHT}


def test_a_record_of_a_day_that_was_charged_waits_in_a_block_of_its_own(ready: Learner) -> None:
    for block in (TONIGHT, f"{TONIGHT}+", f"{TONIGHT}++"):
        assert {record.block for record in ready.store.fresh()} == {block}
        ready.learn(PLAN)
        ready.remember(one_day())
    assert max(ready.ledger.spent_by_block().values()) == pytest.approx(ready.ledger.spent())
    assert ready.ledger.spent() <= PLAN.epsilon


def test_the_block_rule_is_public_and_may_be_replaced(tmp_path: Path) -> None:
    weekly = Learner(Home.open(tmp_path / "home"), BASE, night_of=lambda at: f"week-{at.isocalendar().week}")
    weekly.remember(one_day())
    assert weekly.learn(PLAN).blocks == ("week-47",)
    weekly.remember(one_day())
    assert weekly.learn(PLAN).blocks == ("week-47+",)
    weekly.close()


def test_forgetting_removes_records_and_refunds_nothing(ready: Learner) -> None:
    spent = ready.learn(PLAN).epsilon
    gone = ready.forget(everything=True)
    assert (gone.count, gone.trained_blocks) == (24, (TONIGHT,))
    assert ready.store.count() == 0
    assert ready.ledger.spent() == pytest.approx(spent)
    ready.remember(one_day())
    assert {record.block for record in ready.store.fresh()} == {f"{TONIGHT}+"}


# Twice from the same state


def test_the_same_night_twice_has_one_plan_one_ledger_and_two_noises(tmp_path: Path) -> None:
    first = opened_learner(tmp_path / "one", BASE)
    first.remember(one_day())
    first.close()
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    adapters, bodies, reports = [], [], []
    for name in ("one", "two"):
        opened = opened_learner(tmp_path / name, BASE)
        reports.append(opened.learn(PLAN))
        bodies.append([(entry.kind, entry.scope, entry.caller, entry.body) for entry in opened.ledger.entries()])
        adapters.append(opened.shelf.load(base_digest=DIGEST))
        opened.close()
    assert bodies[0] == bodies[1]
    assert json.loads(bodies[0][2][3])["plan_digest"] == PLAN.digest()
    assert reports[0].noise_multiplier == reports[1].noise_multiplier
    one, two = adapters
    assert isinstance(one, Adapter)
    assert isinstance(two, Adapter)
    assert all(not torch.equal(one.b[site], two.b[site]) for site in one.b)


# Refusals that charge nothing


def require_nothing_happened(learner: Learner) -> None:
    assert kinds(learner) == ["genesis", "budget"]
    assert learner.ledger.spent() == 0
    assert len(list(learner.store.fresh())) == learner.store.count()
    assert learner.shelf.in_use is None


def test_too_few_records_are_refused(learner: Learner) -> None:
    learner.remember(one_day(count=19))
    with pytest.raises(TrainingError, match="19 fresh records, a night needs 20; remember 1 more"):
        learner.learn(PLAN)
    require_nothing_happened(learner)


def test_an_empty_home_is_refused(learner: Learner) -> None:
    with pytest.raises(TrainingError, match="0 fresh records, a night needs 20; remember 20 more"):
        learner.learn(PLAN)
    require_nothing_happened(learner)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.0}, "epsilon 0 is outside the policy"),
        ({"epsilon": -2.0}, "epsilon -2 is outside the policy"),
        ({"epsilon": 4.5}, "lifetime budget of 4"),
        ({"epsilon": float("nan")}, "epsilon nan is outside the policy"),
        ({"delta": 1e-4}, "delta 0.0001 is outside the policy"),
        ({"delta": 0.0}, "delta 0 is outside the policy"),
    ],
)
def test_a_plan_outside_the_policy_is_refused(ready: Learner, change: dict[str, Any], message: str) -> None:
    for refuse in (require_policy, ready.learn):
        with pytest.raises(TrainingError) as refused:
            refuse(replace(PLAN, **change))
        assert message in str(refused.value)
    require_nothing_happened(ready)


def test_the_whole_lifetime_budget_may_go_into_one_night(ready: Learner) -> None:
    assert ready.learn(replace(PLAN, epsilon=4.0)).epsilon_left == pytest.approx(0, abs=0.05)


def test_an_adapter_of_another_base_is_refused_before_anything_is_charged(ready: Learner) -> None:
    first = ready.learn(PLAN)
    ready.remember([replace(item, at=item.at + DAY) for item in one_day()])
    entries, ready.base = kinds(ready), replace(BASE, digest="sha256:" + "0" * 64)
    with pytest.raises(BaseMismatchError):
        ready.learn(PLAN)
    assert kinds(ready) == entries
    assert ready.shelf.in_use == first.adapter


def test_a_base_that_cannot_be_gated_is_refused_before_anything_is_charged(ready: Learner) -> None:
    ready.base = replace(BASE, probes=[], _kept={})
    with pytest.raises(ProbeError):
        ready.learn(PLAN)
    require_nothing_happened(ready)


@pytest.mark.parametrize("kind", ["dora", "basis"])
def test_a_kind_that_cannot_be_trained_is_refused_before_anything_is_charged(ready: Learner, kind: str) -> None:
    ready.base = replace(BASE, basis=None)
    with pytest.raises(AdapterError):
        ready.learn(replace(PLAN, kind=kind))
    require_nothing_happened(ready)


def test_a_disk_without_room_is_refused_before_anything_is_charged(
    ready: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NEEDED_BYTES", 10**18)
    with pytest.raises(HomeError, match="are needed"):
        ready.learn(PLAN)
    assert kinds(ready) == ["genesis", "budget"]


def test_learning_without_a_base_is_refused(tmp_path: Path) -> None:
    without = opened_learner(tmp_path / "home")
    without.remember(one_day())
    with pytest.raises(TrainingError, match="learning needs a base model and none was opened"):
        without.learn(PLAN)
    require_nothing_happened(without)
    without.close()


@needs_fork
def test_a_second_night_at_the_same_time_is_refused_by_name_of_the_process(ready: Learner) -> None:
    def learn_meanwhile(phase: str, done: int, total: int) -> None:
        if (phase, done) != ("learning", 1):
            return

        def second() -> None:
            other = opened_learner(ready.home.path, BASE)
            with pytest.raises(HomeBusyError, match=rf"process {os.getppid()} is learning in .*; wait until it has"):
                other.learn(PLAN)

        assert run_forked(second) == 0

    assert ready.learn(PLAN, progress=learn_meanwhile).verdict.admitted
    assert kinds(ready).count("reserve") == 1


# Failures that charge, and never more than once


def test_a_night_that_fails_stays_spent_and_leaves_its_records_for_one_more(
    ready: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **more: Any) -> Adapter:
        raise TrainingError("step 1 of 2 left numbers that are not finite; the old adapter stays")

    monkeypatch.setattr(module, "train", fail)
    with pytest.raises(TrainingError):
        ready.learn(PLAN)
    monkeypatch.setattr(module, "train", train)
    require_nothing_refunded(ready.ledger, [PLAN.run()], TONIGHT)
    assert ready.ledger.entries()[-1].facts()["outcome"] == "crashed"
    ready.learn(PLAN)
    require_nothing_refunded(ready.ledger, [PLAN.run()] * 2, TONIGHT)
    assert ready.ledger.spent() <= LIFETIME.epsilon


def crash_until_refused(ready: Learner) -> int:
    """Nights fail in their middle until one is refused; what was reserved must show all the time."""

    def interrupt(phase: str, done: int, total: int) -> None:
        if (phase, done) == ("learning", 1):
            raise TrainingError("the machine is on fire; put it out")

    for nights in range(1, 10):
        with pytest.raises((TrainingError, BudgetExhaustedError)) as ended:
            ready.learn(PLAN, progress=interrupt)
        if isinstance(ended.value, BudgetExhaustedError):
            assert ended.value.left < PLAN.epsilon
            assert kinds(ready).count("reserve") == nights - 1
            return nights - 1
        require_nothing_refunded(ready.ledger, [PLAN.run()] * nights, TONIGHT)
    raise AssertionError("nine nights of epsilon 2 were granted to the same records")


def test_no_record_is_read_by_more_nights_than_its_budget_pays_for(ready: Learner) -> None:
    nights = crash_until_refused(ready)
    assert nights >= 2
    assert epsilon([PLAN.run()] * nights, delta=1e-5, accountant="rdp") <= LIFETIME.epsilon
    assert epsilon([PLAN.run()] * (nights + 1), delta=1e-5, accountant="rdp") > LIFETIME.epsilon
    assert len(list(ready.store.fresh())) == 24
    ready.remember([replace(item, at=item.at + DAY) for item in one_day()])
    assert ready.learn(PLAN).blocks == ("2026-11-21",), "new records are not held back by old ones"


def test_a_refund_after_a_crash_is_caught(ready: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Books._take_close

    def refund(self: Books, entry: Any, facts: Any) -> None:
        real(self, entry, facts)
        if facts["outcome"] == "crashed":
            for account in self.accounts.values():
                account.curve = 0 * account.curve

    monkeypatch.setattr(Books, "_take_close", refund)
    with pytest.raises(AssertionError, match=r"1 runs cost epsilon 1.* and the ledger shows 0"):
        crash_until_refused(ready)


def test_a_charge_by_the_steps_that_were_drawn_is_caught(ready: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another refund: only what a crashed run has used so far would be charged."""
    real = Books._take_close

    def refund(self: Books, entry: Any, facts: Any) -> None:
        real(self, entry, facts)
        reservation = self.reservations[entry.receipt]
        share = reservation.drawn / reservation.receipt.run.uses
        for account in self.accounts.values():
            account.curve = share * account.curve

    monkeypatch.setattr(Books, "_take_close", refund)
    with pytest.raises(AssertionError, match="runs cost epsilon"):
        crash_until_refused(ready)


# Reports


def test_a_report_holds_no_figure_that_was_read_from_private_records() -> None:
    public = {
        "adapter", "verdict", "records", "blocks", "epsilon", "epsilon_pld", "delta", "unit", "neighbours",
        "noise_multiplier", "steps", "epsilon_left", "resumed", "gain",
    }  # fmt: skip
    assert set(NightReport.__dataclass_fields__) == public, "a new field must be public or noised; say so here"


def test_status_of_a_home_tells_what_was_learned_and_spent(ready: Learner) -> None:
    ready.learn(PLAN)
    status = ready.status()
    assert (status["records"], status["trained"], status["fresh"]) == (24, 24, 0)
    assert status["epsilon_spent"] + status["epsilon_left"] == pytest.approx(LIFETIME.epsilon)
    assert status["unfinished_nights"] == 0
    assert status["label"]["plan"] == PLAN.to_dict()
    assert status["can_go_on"] is None
    json.dumps(status)


def test_a_plan_is_fixed_before_any_record_is_looked_at(ready: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reservation does not depend on what the records say: other texts, same entry."""
    ready.learn(PLAN)
    first = ready.ledger.entries()[2].body
    ready.forget(everything=True)
    other = [replace(item, answer="quite other words", prompt="") for item in one_day()]
    ready.remember(other)
    ready.learn(PLAN)
    second = [entry for entry in ready.ledger.entries() if entry.kind == "reserve"][1].body
    assert json.loads(first)["run"] == json.loads(second)["run"]


def test_how_many_records_there_are_decides_nothing_where_their_number_is_protected(ready: Learner) -> None:
    assert ready.public_count(Unit.RECORD) == 24
    assert ready.public_count(Unit.DAY) is None
    assert ready.public_count(Unit.CONVERSATION) is None
