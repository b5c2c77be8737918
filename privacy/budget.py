"""What a person allows: a budget a scope, as a frozen policy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from privacy.errors import BudgetError, shown
from privacy.events import Event, Neighbours, Unit

__all__ = ["MAX_DELTA", "Budget"]

MAX_DELTA = 1e-5  # Policy: n^-1.1 would be 0.6 % at 100 records, which lets a record out in one run of 160.
_FORMAT = "budget/1"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much privacy one scope may spend. Every limit holds at once; the tightest decides."""

    epsilon: float
    """Most that one record may spend in its life (nats), > 0: every block of records is held to it."""
    delta: float = MAX_DELTA
    """Probability that the bound fails, in (0, 1e-5]."""
    total_epsilon: float | None = None
    """Most that all runs of the scope may spend together (nats), as if every run read every record. It bounds a person
    who is in all blocks, which `epsilon` does not. None: no such limit."""
    period_epsilon: float | None = None
    """Most that the runs inside any `period_days` may spend together (nats). It renews with time (and early when the
    clock is set forward), so it bounds the rate of spending, never a lifetime. None: no such limit."""
    period_days: int | None = None
    """Length of the sliding period, in days of the recorded clock, >= 1; given exactly when `period_epsilon` is."""
    caller_epsilon: float | None = None
    """Most that any one caller may spend of a block (nats), inside the limits above. None: no such limit."""
    unit: Unit = Unit.RECORD
    """Whose presence is hidden; runs for another unit are refused."""
    neighbours: Neighbours = Neighbours.ZERO_OUT
    """Which datasets are compared; runs for another relation are refused."""

    def __post_init__(self) -> None:
        """Refuse what no policy allows.

        Raises:
            BudgetError: A limit is not a positive number, delta is above 1e-5, or a period has no length.
        """
        object.__setattr__(self, "epsilon", _limit("epsilon", self.epsilon))
        for name in ("total_epsilon", "period_epsilon", "caller_epsilon"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _limit(name, getattr(self, name)))
        object.__setattr__(self, "delta", _limit("delta", self.delta))
        if self.delta > MAX_DELTA:
            raise BudgetError(f"delta must be at most {MAX_DELTA:g} by policy, got {self.delta:g}")
        if (self.period_epsilon is None) != (self.period_days is None):
            raise BudgetError("period_epsilon and period_days are given together or not at all")
        days = self.period_days
        if days is not None and (type(days) is not int or not 1 <= days <= 36_500):
            raise BudgetError(f"period_days must be in [1, 36500], got {shown(days)}")
        try:
            object.__setattr__(self, "unit", Unit(self.unit))
            object.__setattr__(self, "neighbours", Neighbours(self.neighbours))
        except ValueError as cause:
            raise BudgetError(f"unknown unit or neighbours: {shown(self.unit)}, {shown(self.neighbours)}") from cause

    def require_same_relation(self, run: Event) -> None:
        """Refuse a run whose unit or neighbours are not those of the budget.

        Raises:
            BudgetError: They differ, so the figures could not be added up.
        """
        if (run.unit, run.neighbours) != (self.unit, self.neighbours):
            raise BudgetError(
                f"the budget is for unit={self.unit.value}, neighbours={self.neighbours.value}; the run is for "
                f"unit={run.unit.value}, neighbours={run.neighbours.value}; give it a scope of its own"
            )

    def require_may_replace(self, recorded: Budget, *, charged: bool, allow_raise: bool) -> None:
        """Refuse to replace a promise by a weaker one.

        Raises:
            BudgetError: This budget allows more and `allow_raise` is not set, or it would reinterpret what was charged.
        """
        if charged and (recorded.unit, recorded.neighbours) != (self.unit, self.neighbours):
            raise BudgetError("unit and neighbours of a scope that was charged cannot change; use a new scope")
        if self.raises(recorded) and not allow_raise:
            raise BudgetError(
                f"this allows more than the epsilon {recorded.epsilon:g} that was promised; raise it on purpose"
            )

    def raises(self, other: Budget) -> bool:
        """Tell whether this budget allows anything that `other` forbids."""
        if (self.unit, self.neighbours) != (other.unit, other.neighbours) or self.delta > other.delta:
            return True
        if self.period_days is not None and other.period_days is not None and self.period_days < other.period_days:
            return True
        limits = ("epsilon", "total_epsilon", "period_epsilon", "caller_epsilon")
        return any(_or_infinite(getattr(self, name)) > _or_infinite(getattr(other, name)) for name in limits)

    def to_dict(self) -> dict[str, Any]:
        """Write the budget as JSON-ready values."""
        return {"format": _FORMAT, **asdict(self), "unit": self.unit.value, "neighbours": self.neighbours.value}

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> Budget:
        """Read what `to_dict` wrote.

        Raises:
            BudgetError: The format or a field is unknown, or a value is refused.
        """
        if not isinstance(written, Mapping):
            raise BudgetError(f"a budget must be an object, got {type(written).__name__}")
        values = dict(written)
        written_as = values.pop("format", None)
        if not isinstance(written_as, str) or written_as != _FORMAT:
            raise BudgetError(f"unknown budget format; expected {_FORMAT}")
        try:
            return cls(**values)
        except TypeError as cause:
            raise BudgetError("the budget has unknown or missing fields") from cause


def _limit(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BudgetError(f"{name} must be a number, got {shown(value)}")
    try:
        limit = float(value)
    except OverflowError:
        limit = math.inf
    if not 0 < limit < math.inf:
        raise BudgetError(f"{name} must be above 0 and finite, got {limit:g}")
    return limit


def _or_infinite(limit: float | None) -> float:
    return math.inf if limit is None else limit
