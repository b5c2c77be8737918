"""A ledger in, findings about its sums out: does it charge what the accountant says, and keep what it charged?"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from privacy.accounting import epsilon
from privacy.audit.findings import Finding
from privacy.audit.parts import Engine
from privacy.budget import Budget
from privacy.errors import BudgetExhaustedError, ExportError, PrivacyError, ReceiptError
from privacy.events import DpSgdRun, Event, GateRelease, GaussianRelease, LaplaceRelease
from privacy.ledger import Ledger
from privacy.verify import verify_export

__all__ = ["charges_kept", "composition", "independent_sum", "limits_hold"]

BUDGET = Budget(epsilon=6.0)
_SAME = 1e-9  # Relative: two sums of the same numbers.
REAL = Engine()

HISTORY: tuple[tuple[Event, tuple[str, ...]], ...] = (
    (DpSgdRun(noise_multiplier=6.798, sampling_rate=1.0, steps=10), ("first",)),
    (DpSgdRun(noise_multiplier=1.6, sampling_rate=0.05, steps=40), ("first", "second")),
    (GaussianRelease(noise_multiplier=9.0, count=2), ("second",)),
    (GateRelease(noise_multiplier=12.0), ("first", "third")),
    (LaplaceRelease(scale=20.0), ("third", "second")),
)
"""Runs of every usual kind, with the blocks that they read."""


def composition(folder: Path, engine: Engine = REAL) -> Finding:
    """Every block owes what the accountant says of the events that read it; none is dropped or counted twice."""
    worst = 0.0
    with _ledger(folder, "composition", engine) as ledger:
        for count, (event, blocks) in enumerate(HISTORY, start=1):
            ledger.reserve(event, blocks=blocks)
            owed = _owed(HISTORY[:count])
            charged = ledger.spent_by_block()
            gaps = [abs(charged.get(block, 0.0) - due) / due for block, due in owed.items()]
            worst = max(worst, *gaps, abs(ledger.spent() - max(owed.values())))
    return Finding(
        leg="composition",
        claim="each block is charged for all events that read it, and the lifetime figure is that of the worst block",
        passed=worst <= _SAME,
        measured=f"largest difference {worst:.2e} from the accountant over {len(HISTORY)} events in 3 blocks",
    )


def charges_kept(folder: Path, engine: Engine = REAL) -> Finding:
    """Nothing that happens after a reservation lowers what was charged: closing, crashing, opening again."""
    returned = 0.0
    outcomes = ("admitted", "rejected", "crashed", "")
    with _ledger(folder, "refund", engine) as ledger:
        for number, (event, blocks) in enumerate(HISTORY):
            receipt = ledger.reserve(event, blocks=blocks)
            before = ledger.spent_by_block()
            if event.uses > 1:
                ledger.draw(receipt, event.uses // 2)  # Half the steps: what never ran was charged all the same.
            if outcome := outcomes[number % len(outcomes)]:
                ledger.close(receipt, outcome)
            after = ledger.spent_by_block()
            returned = max(returned, *(before[block] - after.get(block, 0.0) for block in before))
        before = ledger.spent_by_block()
    with _ledger(folder, "refund", engine) as ledger:
        after = ledger.spent_by_block()
        returned = max(returned, *(before[block] - after.get(block, 0.0) for block in before))
    return Finding(
        leg="no refund",
        claim="what was charged stays charged: after fewer steps, a rejection, a crash, or opening again",
        passed=returned <= 0,
        measured=f"largest epsilon given back {returned:.2e} over {len(HISTORY)} runs and one more opening",
    )


def independent_sum(folder: Path, engine: Engine = REAL) -> Finding:
    """The export of the ledger stands up to an accountant that others maintain."""
    with _ledger(folder, "independent", engine) as ledger:
        for event, blocks in HISTORY:
            ledger.reserve(event, blocks=blocks)
        try:
            verdict = verify_export(ledger.export(beside=False))
        except ExportError as refused:
            passed, measured = False, str(refused)
        else:
            passed = verdict.runs == len(HISTORY)
            measured = f"{verdict.runs} of {len(HISTORY)} runs recomputed, epsilon {max(verdict.spent.values()):.4f}"
    return Finding(
        leg="independent sum",
        claim="Google's dp-accounting gets the same figures from the exported entries alone",
        passed=passed,
        measured=measured,
    )


def limits_hold(folder: Path, engine: Engine = REAL) -> Finding:
    """No run passes the budget, and no receipt gives more steps than it was charged for."""
    run = DpSgdRun(noise_multiplier=6.798, sampling_rate=1.0, steps=4)
    admitted, kept = 0, True
    with _ledger(folder, "limits", engine) as ledger:
        receipt = ledger.reserve(run, blocks=["first"])
        ledger.draw(receipt, run.steps)
        kept &= _refused(lambda: ledger.draw(receipt), ReceiptError)
        try:
            while admitted < 1_000:
                ledger.reserve(run, blocks=["first"])
                admitted += 1
        except BudgetExhaustedError:
            pass
        spent = ledger.spent()
        recomputed = epsilon([run] * (admitted + 1), delta=BUDGET.delta, accountant="rdp")
    return Finding(
        leg="limits",
        claim="a run that would pass the budget is refused, and so is a step beyond the reservation",
        passed=kept and admitted < 1_000 and max(spent, recomputed) <= BUDGET.epsilon,
        measured=f"epsilon {max(spent, recomputed):.4f} of {BUDGET.epsilon:g} when the ledger refused; a step too many "
        f"was {'refused' if kept else 'given'}",
    )


def _owed(history: Sequence[tuple[Event, tuple[str, ...]]]) -> dict[str, float]:
    """Return the epsilon of each block, from its own events alone."""
    read: dict[str, list[Event]] = {}
    for event, blocks in history:
        for block in blocks:
            read.setdefault(block, []).append(event)
    return {block: epsilon(events, delta=BUDGET.delta, accountant="rdp") for block, events in read.items()}


def _refused(ask: Callable[[], object], error: type[PrivacyError]) -> bool:
    try:
        ask()
    except error:
        return True
    return False


_KEY = secrets.token_bytes(32)  # Of throw-away ledgers.


@contextmanager
def _ledger(folder: Path, name: str, engine: Engine) -> Iterator[Ledger]:
    """Open a throw-away ledger; it must be closed before it is opened again."""
    ledger = engine.ledger(folder / f"{name}.db", key=_KEY, budget=BUDGET)
    try:
        yield ledger
    finally:
        ledger.disconnect()
