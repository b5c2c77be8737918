"""Forgetting after nights: what may hold a trace, what exact removal takes out, what it costs to learn again."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from personalize import learner as module
from personalize import removal
from personalize.adapter import Adapter
from personalize.checkpoint import FILE
from personalize.errors import AdapterError, HomeBusyError, NightStoppedError
from personalize.home import Home
from personalize.learner import LIFETIME, Learner
from personalize.shelf import Shelf
from personalize.written import Written
from privacy import BudgetExhaustedError
from tests.nights import DIGEST, PLAN, one_day, opened_learner, tiny_base

BASE = tiny_base()
DAYS = ("2026-11-20", "2026-11-21", "2026-11-22")


@pytest.fixture
def learner(tmp_path: Path) -> Iterator[Learner]:
    """Three nights, each on a day of its own, each with one record about Ana."""
    opened = opened_learner(tmp_path / "home", BASE)
    for day in DAYS:
        experiences = one_day(day)
        opened.remember([replace(experiences[0], contact=f"Ana {day}"), *experiences[1:]])
        assert opened.learn(PLAN).verdict.admitted
    yield opened
    opened.close()


def in_use(learner: Learner) -> Adapter | None:
    return learner.shelf.load(base_digest=DIGEST)


def nights(learner: Learner) -> list[str]:
    return [name for name in learner.shelf.history if name]


def require_no_trace(learner: Learner, before: Adapter | None, traced: list[str]) -> None:
    """What answers was made before the record was learned, and nothing that learned from it is on the disk."""
    now = in_use(learner)
    assert (now is None) == (before is None), "another adapter answers"
    if now is not None and before is not None:
        assert all(torch.equal(now.b[site], before.b[site]) for site in now.b), "another adapter answers"
    left = {folder.name for folder in learner.home.adapters.iterdir()}
    assert not left & set(traced), f"an adapter with a trace is still there: {left & set(traced)}"


def test_plain_forgetting_says_which_adapters_may_hold_a_trace_and_how_much(learner: Learner) -> None:
    first, second, third = nights(learner)
    gone = learner.forget(contact=f"Ana {DAYS[1]}")
    assert gone.count == 1
    assert gone.adapters == (second, third), "what goes on from a trace holds it too, what came before does not"
    assert first not in gone.adapters
    assert gone.epsilon == pytest.approx(learner.ledger.spent_by_block()[DAYS[1]])
    assert (gone.delta, gone.undone) == (1e-5, None)
    assert f"{second}, {third} may hold a trace" in gone.remains()
    assert f"times at most (epsilon {gone.epsilon:.2f})" in gone.remains()
    assert nights(learner) == [first, second, third], "plain forgetting leaves the adapters"


def test_a_record_that_was_never_learned_leaves_no_trace(learner: Learner) -> None:
    learner.remember([replace(one_day("2026-11-23")[0], contact="Bob")])
    gone = learner.forget(contact="Bob")
    assert (gone.adapters, gone.remains()) == ((), "no adapter had learned from them")


def test_exact_removal_goes_back_to_before_the_record_was_learned(learner: Learner) -> None:
    first, second, third = nights(learner)
    before = Adapter.load(learner.home.adapters / first, base_digest=DIGEST)
    spent = learner.ledger.spent_by_block()
    gone = learner.forget(contact=f"Ana {DAYS[1]}", exact=True)
    assert gone.count == 1
    assert gone.undone is not None
    assert gone.undone.adapters == (second, third)
    assert gone.undone.fresh == 48, "the other records of the nights that were taken out are fresh again"
    assert gone.trained_blocks == (DAYS[1],)
    require_no_trace(learner, before, [second, third])
    assert learner.store.count() == 71
    assert len(list(learner.store.fresh())) == 47
    assert learner.ledger.spent_by_block() == spent, "removal refunds nothing"


def test_what_was_taken_out_is_learned_again_at_a_new_charge(learner: Learner) -> None:
    learner.forget(contact=f"Ana {DAYS[1]}", exact=True)
    report = learner.learn(PLAN)
    assert report.blocks == DAYS[1:]
    assert report.records == 47
    spent = learner.ledger.spent_by_block()
    assert spent[DAYS[0]] < spent[DAYS[1]] == pytest.approx(spent[DAYS[2]])
    assert spent[DAYS[1]] <= LIFETIME.epsilon
    assert report.verdict.look == 4


def test_a_block_that_cannot_pay_again_is_dropped_and_the_filter_says_so(learner: Learner) -> None:
    first, mine = nights(learner)[0], [record.id for record in learner.store.all() if record.block == DAYS[1]]
    while learner.ledger.affordable(PLAN.run(), blocks=[DAYS[1]]):
        learner.forget(ids=[mine.pop()], exact=True)
        learner.learn(PLAN)
    learner.forget(ids=[mine.pop()], exact=True)
    with pytest.raises(BudgetExhaustedError, match="is left"):
        learner.learn(PLAN)
    assert learner.ledger.spent_by_block()[DAYS[1]] > PLAN.epsilon
    assert max(learner.ledger.spent_by_block().values()) <= LIFETIME.epsilon
    assert learner.shelf.in_use == first, "what cannot be paid for again is not learned again"
    assert {record.block for record in learner.store.fresh()} == set(DAYS[1:])


def test_exact_removal_of_the_first_night_goes_back_to_the_start(learner: Learner) -> None:
    learner.forget(contact=f"Ana {DAYS[0]}", exact=True)
    require_no_trace(learner, None, nights(learner))
    assert len(list(learner.store.fresh())) == 71


def test_everything_can_be_removed_exactly(learner: Learner) -> None:
    traced = nights(learner)
    gone = learner.forget(everything=True, exact=True)
    assert gone.count == 72
    require_no_trace(learner, None, traced)
    assert "3 adapters that had learned from them are deleted" in gone.remains()


def test_where_the_adapter_before_is_gone_exact_removal_is_refused_and_nothing_is_done(learner: Learner) -> None:
    first, second, third = nights(learner)
    learner.home.update_state(lines={"default": [second, third]})
    with pytest.raises(AdapterError, match=f"the adapter before {second}, {first}, is no longer kept"):
        learner.forget(contact=f"Ana {DAYS[1]}", exact=True)
    assert learner.store.count() == 72
    assert nights(learner) == [second, third]


def test_a_night_that_was_stopped_is_given_up(learner: Learner) -> None:
    learner.remember(one_day("2026-11-23"))
    with pytest.raises(NightStoppedError):
        learner.learn(PLAN, stop=lambda: bool(learner.ledger.open_receipts()))
    assert (learner.home.path / FILE).exists()
    learner.forget(contact=f"Ana {DAYS[2]}", exact=True)
    assert not (learner.home.path / FILE).exists()
    assert learner.ledger.entries()[-1].facts()["outcome"] == "abandoned"


def test_while_a_night_is_learned_exact_removal_is_refused(learner: Learner) -> None:
    with learner.home.lock(), pytest.raises(HomeBusyError):
        learner.forget(everything=True, exact=True)
    assert learner.store.count() == 72


@pytest.mark.parametrize("exact", [False, True])
def test_texts_of_an_adapter_that_had_learned_from_it_go_too(learner: Learner, exact: bool) -> None:
    first = nights(learner)[0]
    learner.written.add([Written(prompt="say", answer=f"{name} wrote", writer=name) for name in nights(learner)])
    learner.written.add([Written(prompt="say", answer="the base wrote")])
    gone = learner.forget(contact=f"Ana {DAYS[1]}", exact=exact)
    assert gone.texts == 2
    assert {text.writer for text in learner.written.all()} == {"base", first}
    learner.forget(everything=True)
    assert learner.written.all() == []


def test_a_merge_passes_a_trace_to_another_line(learner: Learner) -> None:
    first, second, third = nights(learner)
    folder = learner.home.adapters / "merge-1"
    Adapter.load(learner.home.adapters / third, base_digest=DIGEST).save(
        folder, extra={"label.json": {"format": "label/1", "before": [], "merge": {"parts": [{"adapter": second}]}}}
    )
    learner.home.update_state(lines={"default": [first, second, third], "mail": ["merge-1"]})
    assert set(removal.traces(learner.home, [second.removeprefix("night-")])) == {second, third, "merge-1"}
    assert removal.traces(learner.home, [third.removeprefix("night-")]) == [third]
    gone = learner.forget(contact=f"Ana {DAYS[1]}", exact=True)
    assert gone.undone is not None
    assert "merge-1" in gone.undone.adapters
    assert Shelf(Home.open(learner.home.path), "mail").in_use is None


# The checks above can fail


def test_going_back_only_by_name_and_not_on_the_disk_is_caught(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = nights(learner)
    before = Adapter.load(learner.home.adapters / first, base_digest=DIGEST)

    def hide(self: Shelf, name: str) -> list[str]:
        self._write((first,))
        return [second, third]

    monkeypatch.setattr(Shelf, "undo", hide)
    monkeypatch.setattr(Shelf, "sweep", lambda self: None)
    learner.forget(contact=f"Ana {DAYS[1]}", exact=True)
    with pytest.raises(AssertionError, match="is still there"):
        require_no_trace(learner, before, [second, third])


def test_leaving_what_later_nights_built_on_a_trace_is_caught(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = nights(learner)
    before = Adapter.load(learner.home.adapters / first, base_digest=DIGEST)
    monkeypatch.setattr(module, "take_out", lambda *args, **more: removal.Undone(adapters=(), runs=(), fresh=0))
    learner.forget(contact=f"Ana {DAYS[1]}", exact=True)
    with pytest.raises(AssertionError, match="another adapter answers"):
        require_no_trace(learner, before, [second, third])
