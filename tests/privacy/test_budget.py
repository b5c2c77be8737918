from typing import Any

import pytest

from privacy.budget import Budget
from privacy.errors import BudgetError
from privacy.events import GaussianRelease, Neighbours, Unit


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epsilon", 0),
        ("epsilon", -1),
        ("epsilon", float("nan")),
        ("epsilon", float("inf")),
        ("epsilon", "2"),
        ("epsilon", True),
        ("delta", 0),
        ("delta", 2e-5),
        ("delta", -1),
        ("delta", float("nan")),
        ("total_epsilon", 0),
        ("caller_epsilon", -2),
        ("unit", "person"),
        ("neighbours", "nobody"),
    ],
)
def test_what_no_policy_allows_is_refused_in_one_line(field: str, value: Any) -> None:
    with pytest.raises(BudgetError) as caught:
        Budget(**{"epsilon": 2.0, field: value})
    assert "\n" not in str(caught.value)


def test_delta_is_at_most_one_in_a_hundred_thousand_by_policy() -> None:
    assert Budget(epsilon=1).delta == 1e-5
    with pytest.raises(BudgetError, match="1e-05"):
        Budget(epsilon=1, delta=1.1e-5)


@pytest.mark.parametrize(
    "period",
    [{"period_epsilon": 1.0}, {"period_days": 7}, *({"period_epsilon": 1.0, "period_days": days} for days in (0, 1.5))],
)
def test_a_period_has_a_limit_and_a_length(period: dict[str, Any]) -> None:
    with pytest.raises(BudgetError, match="period_days"):
        Budget(epsilon=1, **period)


def test_writing_and_reading_a_budget_is_identity() -> None:
    budget = Budget(epsilon=8, total_epsilon=20, period_epsilon=2, period_days=7, caller_epsilon=1, unit=Unit.DAY)
    assert Budget.from_dict(budget.to_dict()) == budget


@pytest.mark.parametrize("written", [{}, {"format": "budget/2", "epsilon": 1}, {"format": "budget/1", "eps": 1}])
def test_an_unknown_budget_format_or_field_is_refused(written: dict[str, Any]) -> None:
    with pytest.raises(BudgetError):
        Budget.from_dict(written)


def test_a_run_for_another_unit_or_relation_is_refused() -> None:
    budget = Budget(epsilon=1)
    budget.require_same_relation(GaussianRelease(noise_multiplier=1))
    for other in (
        GaussianRelease(noise_multiplier=1, unit=Unit.DAY),
        GaussianRelease(noise_multiplier=1, neighbours=Neighbours.REPLACE),
    ):
        with pytest.raises(BudgetError, match="scope"):
            budget.require_same_relation(other)


@pytest.mark.parametrize(
    ("change", "weaker"),
    [
        ({"epsilon": 8.1}, True),
        ({"epsilon": 7.9}, False),
        ({"total_epsilon": None}, True),
        ({"total_epsilon": 19}, False),
        ({"period_epsilon": 3}, True),
        ({"period_days": 6}, True),
        ({"period_days": 8}, False),
        ({"delta": 1e-6}, False),
        ({"caller_epsilon": 1}, False),
        ({"unit": Unit.DAY}, True),
    ],
)
def test_a_weaker_promise_is_told_from_a_stronger_one(change: dict[str, Any], weaker: bool) -> None:
    values: dict[str, Any] = {"epsilon": 8, "total_epsilon": 20, "period_epsilon": 2, "period_days": 7}
    recorded = Budget(**values)
    assert Budget(**{**values, **change}).raises(recorded) is weaker


def test_a_promise_is_weakened_only_on_purpose_and_never_reinterpreted() -> None:
    recorded = Budget(epsilon=2)
    with pytest.raises(BudgetError, match="on purpose"):
        Budget(epsilon=3).require_may_replace(recorded, charged=True, allow_raise=False)
    Budget(epsilon=3).require_may_replace(recorded, charged=True, allow_raise=True)
    with pytest.raises(BudgetError, match="new scope"):
        Budget(epsilon=2, unit=Unit.DAY).require_may_replace(recorded, charged=True, allow_raise=True)


@pytest.mark.parametrize("limit", [10**400, -(10**400), 10**5000], ids=["400 digits", "negative", "5000 digits"])
def test_a_limit_that_is_no_finite_float_is_refused_in_one_line(limit: int) -> None:
    with pytest.raises(BudgetError, match="finite"):
        Budget(epsilon=limit)


@pytest.mark.parametrize(
    "written",
    [None, 7, "budget/1", [], {"format": ["budget/1"]}, {"format": 10**5000}],
    ids=lambda written: type(written).__name__,
)
def test_what_is_no_written_budget_is_refused(written: Any) -> None:
    with pytest.raises(BudgetError):
        Budget.from_dict(written)
