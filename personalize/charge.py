"""A plan and fresh records in, what they may cost and were charged out: all that a night asks of the ledger."""

from collections.abc import Sequence
from dataclasses import replace

from personalize import gain
from personalize.errors import TrainingError
from personalize.home import Home
from personalize.plan import NightPlan
from personalize.sources import MIN_RECORDS
from personalize.store import Record
from personalize.units import units_of
from privacy import Budget, BudgetError, BudgetExhaustedError, DeviceKey, Ledger, Receipt, Unit
from privacy.anchor import open_anchor
from privacy.ledger import DEFAULT_SCOPE

__all__ = [
    "LIFETIME",
    "affordable",
    "agree_on_unit",
    "blocks_of",
    "count_of",
    "drawn_of",
    "open_ledger",
    "require_policy",
    "reserve_look",
    "reserve_night",
    "split",
]

LIFETIME = Budget(epsilon=4.0, delta=1e-5)
"""Policy: what one record may ever cost, whatever a caller asks for: two nights of epsilon 2 compose to about 3."""


def require_policy(plan: NightPlan) -> None:
    """Refuse a plan that the policy forbids.

    Raises:
        TrainingError: Epsilon or delta is out of range; nothing was reserved.
    """
    if not 0 < plan.epsilon <= LIFETIME.epsilon:
        raise TrainingError(
            f"epsilon {plan.epsilon:g} is outside the policy (above 0, at most the lifetime budget of "
            f"{LIFETIME.epsilon:g}); choose another --epsilon"
        )
    if not 0 < plan.delta <= LIFETIME.delta:
        raise TrainingError(
            f"delta {plan.delta:g} is outside the policy (above 0, at most {LIFETIME.delta:g}); choose another --delta"
        )


def open_ledger(home: Home) -> Ledger:
    """The ledger of a home, checked, with the lifetime budget as its policy.

    Raises:
        LedgerError, DeviceKeyError: It cannot be trusted; training stays off.
    """
    key = DeviceKey.open(home.path).derive("ledger")
    ledger = Ledger.open(home.ledger_db, key=key, anchor=open_anchor(home.path))
    try:
        if DEFAULT_SCOPE not in ledger.scopes():
            ledger.set_budget(LIFETIME)
        elif replace(recorded := ledger.budget(), unit=LIFETIME.unit) != LIFETIME:  # The first night chose the unit.
            raise BudgetError(
                f"this home was promised epsilon {recorded.epsilon:g} at delta {recorded.delta:g}, and this version's "
                f"policy is {LIFETIME.epsilon:g} at {LIFETIME.delta:g}; use the version that made the home"
            )
    except BaseException:
        ledger.disconnect()
        raise
    return ledger


def agree_on_unit(ledger: Ledger, plan: NightPlan) -> None:
    """Let the first night choose whose presence the ledger of this home hides; nothing can change that later."""
    budget = ledger.budget()
    if budget.unit is not plan.unit and not ledger.spent_by_block():
        ledger.set_budget(replace(budget, unit=plan.unit), allow_raise=True)


def affordable(ledger: Ledger, records: list[Record], plan: NightPlan) -> list[Record]:
    """The fresh records whose blocks can still pay for the night; the rest were charged in a night that crashed."""
    require_policy(plan)
    if (count := count_of(records, plan.unit)) < MIN_RECORDS:
        word = f"{plan.unit.value}s" if plan.unit is not Unit.RECORD else "records"
        raise TrainingError(f"{count} fresh {word}, a night needs {MIN_RECORDS}; remember {MIN_RECORDS - count} more")
    blocks = blocks_of(records)
    fitting = set(ledger.affordable(plan.run(), blocks=blocks))
    able = [item for item in records if item.block in fitting]
    if count_of(able, plan.unit) < MIN_RECORDS:
        raise BudgetExhaustedError(wanted=plan.epsilon, left=ledger.left(blocks=blocks))
    return able


def reserve_night(ledger: Ledger, plan: NightPlan, records: Sequence[Record]) -> Receipt:
    """Charge a night to every block that it may read; errors as `Ledger.reserve`."""
    return ledger.reserve(
        plan.run(), blocks=blocks_of(records), plan_digest=plan.digest(), records=count_of(records, plan.unit)
    )


def split(records: Sequence[Record], plan: NightPlan, coin_key: bytes) -> tuple[list[Record], list[Record]]:
    """What to learn from, and what to look at afterwards; refused where either is too little."""
    learned, held = gain.held_out(records, plan.unit, coin_key)
    counts = count_of(learned, plan.unit), count_of(held, plan.unit)
    if counts[0] < MIN_RECORDS or counts[1] < gain.LEAST_UNITS:
        raise TrainingError(
            f"a gain check would leave {counts[0]} to learn from and {counts[1]} to look at, and needs "
            f"{MIN_RECORDS} and {gain.LEAST_UNITS}; remember more, or learn without it"
        )
    return learned, held


def reserve_look(ledger: Ledger, plan: NightPlan, records: Sequence[Record], held: Sequence[Record]) -> Receipt | None:
    """Charge the look at held-out records to every block of the night; None where the night left too little."""
    try:
        return ledger.reserve(
            gain.event(plan.unit),
            blocks=blocks_of(records),
            caller="gate",
            plan_digest=plan.digest(),
            records=count_of(held, plan.unit),
        )
    except BudgetExhaustedError:
        return None


def count_of(records: Sequence[Record], unit: Unit) -> int:
    """Number of units in records."""
    units = units_of(records, unit)
    return len(records) if units is None else len(set(units))


def blocks_of(records: Sequence[Record]) -> list[str]:
    """Blocks of records, each once, in their order."""
    return list(dict.fromkeys(record.block for record in records))


def drawn_of(ledger: Ledger, receipt: Receipt) -> int:
    """How many steps of a receipt were drawn so far."""
    return sum(
        int(entry.facts()["steps"])
        for entry in ledger.entries()
        if entry.kind == "draw" and entry.receipt == receipt.id
    )
