"""What may be spent, decided without a file: blocks, periods, callers, totals, and the order fixed in advance."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy import chain, rdp
from privacy.accounting import epsilon, rdp_curve
from privacy.books import AccountName, Books
from privacy.budget import Budget
from privacy.chain import Head
from privacy.errors import BudgetError, BudgetExhaustedError, LedgerFormatError, LedgerTamperedError
from privacy.events import DpSgdRun, Event, GaussianRelease, LaplaceRelease
from tests.privacy.ledgers import KEY, NIGHT
from tests.privacy.strategies import events

AT = "2026-11-01T00:00:00.000000+00:00"


class Desk:
    """Appends entries to books as the ledger would."""

    def __init__(self, budget: Budget) -> None:
        self.books = Books()
        self.append("genesis", {"format": "ledger/1", "ledger": "a" * 32, "key": "f"})
        self.append("budget", {"budget": budget.to_dict()}, scope="s")

    def append(
        self, kind: str, body: dict[str, Any], at: str = AT, scope: str = "", receipt: str = "", caller: str = ""
    ) -> None:
        head = self.books.head
        entry = chain.link(head, key=KEY, at=at, kind=kind, scope=scope, caller=caller, receipt=receipt, body=body)
        self.books.apply(entry, chain.check(entry, head, key=KEY))

    def reserve(self, run: Event, *blocks: str, at: str = AT, caller: str = "learner") -> str:
        orders = self.books.admit(run, blocks=blocks, scope="s", caller=caller, at=at)
        receipt = self.books.next_receipt()
        body = {"run": run.to_dict(), "blocks": list(blocks), "plan_digest": "", "orders": orders}
        self.append("reserve", body, at=at, scope="s", receipt=receipt, caller=caller)
        return receipt


def on(day: int) -> str:
    return f"2026-11-{day:02d}T03:00:00.000000+00:00"


def test_a_scope_has_spent_what_its_worst_block_has() -> None:
    desk = Desk(Budget(epsilon=8))
    desk.reserve(NIGHT, "monday")
    desk.reserve(NIGHT, "monday", "tuesday")
    desk.reserve(NIGHT, "wednesday")
    once, twice = (epsilon([NIGHT] * times, delta=1e-5, accountant="rdp") for times in (1, 2))
    assert desk.books.spent_by_block("s") == pytest.approx({"monday": twice, "tuesday": once, "wednesday": once})
    assert desk.books.spent("s") == pytest.approx(twice)
    assert desk.books.spent_in_total("s") == pytest.approx(epsilon([NIGHT] * 3, delta=1e-5, accountant="rdp"))


def test_pld_stands_beside_and_is_the_worst_block_too() -> None:
    desk = Desk(Budget(epsilon=8))
    sampled = DpSgdRun(noise_multiplier=1.0, sampling_rate=0.02, steps=50)
    desk.reserve(sampled, "monday")
    desk.reserve(NIGHT, "tuesday")
    figures = {name: epsilon(run, delta=1e-5) for name, run in (("monday", sampled), ("tuesday", NIGHT))}
    assert desk.books.spent_by_block("s", "pld") == pytest.approx(figures)
    assert desk.books.spent("s", "pld") == pytest.approx(max(figures.values()))


def test_lifetime_privacy_does_not_grow_with_nights_that_read_fresh_blocks() -> None:
    desk = Desk(Budget(epsilon=2))
    for night in range(1, 29):
        desk.reserve(NIGHT, on(night), at=on(night))
    assert desk.books.spent("s") == pytest.approx(epsilon(NIGHT, delta=1e-5, accountant="rdp"))


def test_a_calibrated_run_fits_its_budget_exactly_once() -> None:
    desk = Desk(Budget(epsilon=2))
    desk.reserve(NIGHT, "monday")
    with pytest.raises(BudgetExhaustedError, match="block monday") as caught:
        desk.reserve(NIGHT, "monday")
    assert caught.value.wanted > caught.value.left >= 0
    desk.reserve(NIGHT, "tuesday")


@given(events(), st.floats(0.5, 12))
@settings(deadline=None, max_examples=80)
def test_equal_runs_fit_exactly_as_often_as_composition_allows(run: Event, budget: float) -> None:
    desk = Desk(Budget(epsilon=budget))
    admitted = 0
    while admitted < 12:
        try:
            desk.reserve(run, "b")
        except BudgetExhaustedError:
            break
        admitted += 1
    curve = rdp_curve(run)
    allowed = next((n for n in range(12) if rdp.epsilon_from_rdp((n + 1) * curve, 1e-5) > budget), 12)
    assert admitted == allowed


@given(st.lists(events(), min_size=1, max_size=12), st.floats(1, 10))
@settings(deadline=None, max_examples=60)
def test_whatever_is_asked_no_block_ever_passes_its_limit(runs: list[Event], budget: float) -> None:
    desk = Desk(Budget(epsilon=budget))
    before = 0.0
    for index, run in enumerate(runs):
        with suppress(BudgetExhaustedError):
            desk.reserve(run, f"block {index % 3}")
        spent = desk.books.spent("s")
        assert before <= spent <= budget + 1e-9
        before = spent


def test_the_order_is_fixed_by_the_first_run_and_never_moves() -> None:
    """A filter that may pick its order afterwards is not known to be sound (arXiv:2602.15815)."""
    desk = Desk(Budget(epsilon=4))
    desk.reserve(GaussianRelease(noise_multiplier=4), "b")
    order = desk.books.accounts[AccountName("s", "block", block="b")].order
    assert order is not None
    for _ in range(3):
        desk.reserve(LaplaceRelease(scale=10), "b")
    account = desk.books.accounts[AccountName("s", "block", block="b")]
    assert account.order == order
    enforced = rdp.epsilon_at_orders(account.curve, 1e-5)[rdp.ORDERS.index(order)]
    assert desk.books.spent("s") <= enforced <= 4


def test_a_total_counts_runs_on_disjoint_blocks_together() -> None:
    desk = Desk(Budget(epsilon=8, total_epsilon=4.5))
    spends = [epsilon([NIGHT] * nights, delta=1e-5, accountant="rdp") for nights in range(1, 10)]
    allowed = sum(spend <= 4.5 for spend in spends)
    for night in range(allowed):
        desk.reserve(NIGHT, f"night {night}")
    with pytest.raises(BudgetExhaustedError, match="the total of scope s"):
        desk.reserve(NIGHT, "one night more")
    assert desk.books.spent_in_total("s") == pytest.approx(spends[allowed - 1])


def test_a_period_renews_when_its_days_have_passed() -> None:
    desk = Desk(Budget(epsilon=8, period_epsilon=3.1, period_days=7))
    desk.reserve(NIGHT, "1", at=on(1))
    desk.reserve(NIGHT, "2", at=on(2))
    with pytest.raises(BudgetExhaustedError, match="the period of scope s"):
        desk.reserve(NIGHT, "3", at=on(3))
    desk.reserve(NIGHT, "8", at=on(8))
    with pytest.raises(BudgetExhaustedError):
        desk.reserve(NIGHT, "8 again", at=on(8))
    desk.reserve(NIGHT, "9", at=on(9))


def test_a_caller_has_a_share_and_the_block_a_limit_for_all() -> None:
    desk = Desk(Budget(epsilon=3.5, caller_epsilon=2))
    desk.reserve(NIGHT, "b", caller="learner")
    with pytest.raises(BudgetExhaustedError, match="the share of learner in block b"):
        desk.reserve(NIGHT, "b", caller="learner")
    desk.reserve(NIGHT, "b", caller="gate")
    with pytest.raises(BudgetExhaustedError, match="in block b"):
        desk.reserve(NIGHT, "b", caller="third")
    assert set(desk.books.spent_by_caller("s")) == {"learner", "gate"}


def test_a_limit_set_later_counts_what_was_spent_before_it() -> None:
    desk = Desk(Budget(epsilon=8))
    for night in range(3):
        desk.reserve(NIGHT, f"{night}")
    desk.append("budget", {"budget": Budget(epsilon=8, total_epsilon=4.0).to_dict()}, scope="s")
    with pytest.raises(BudgetExhaustedError, match="total"):
        desk.reserve(NIGHT, "3")
    desk.append("budget", {"budget": Budget(epsilon=8, total_epsilon=6.0).to_dict()}, scope="s")
    desk.reserve(NIGHT, "3")


def test_a_scope_without_a_budget_may_spend_nothing() -> None:
    with pytest.raises(BudgetError, match="no budget"):
        Desk(Budget(epsilon=8)).books.admit(NIGHT, blocks=["b"], scope="other", caller="c", at=AT)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("reserve", {}),
        ("reserve", {"run": {"event": "teleport/1"}, "blocks": ["b"], "plan_digest": "", "orders": {}}),
        ("draw", {"steps": 1}),
        ("close", {"outcome": "admitted"}),
        ("budget", {"budget": {"format": "budget/1", "epsilon": -1}}),
    ],
)
def test_an_entry_that_contradicts_the_others_is_refused(kind: str, body: dict[str, Any]) -> None:
    with pytest.raises(LedgerTamperedError, match="contradicts"):
        Desk(Budget(epsilon=8)).append(kind, body, scope="s", receipt="nobody-1")


def test_entries_of_a_newer_version_are_refused() -> None:
    with pytest.raises(LedgerFormatError, match="update"):
        Desk(Budget(epsilon=8)).append("refund", {})
    body = {"format": "ledger/2"}
    entry = chain.link(Head(), key=KEY, at=AT, kind="genesis", scope="", caller="", receipt="", body=body)
    with pytest.raises(LedgerFormatError, match="newer"):
        Books().apply(entry, Head(seq=1, hash=entry.hash, at=AT))
