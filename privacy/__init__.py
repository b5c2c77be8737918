"""The guarantee: facts about private records in, what they cost and whether more may be spent out."""

from typing import TYPE_CHECKING, Any

from privacy.accounting import epsilon, noise_multiplier
from privacy.books import Receipt
from privacy.budget import Budget
from privacy.device_key import DeviceKey
from privacy.errors import (
    AccountingError,
    BudgetError,
    BudgetExhaustedError,
    DeviceKeyError,
    EngineError,
    EventError,
    ExportError,
    LedgerBusyError,
    LedgerError,
    LedgerFormatError,
    LedgerFullError,
    LedgerKeyError,
    LedgerRolledBackError,
    LedgerTamperedError,
    LossShapeError,
    PrivacyError,
    ReceiptError,
    StepsExhaustedError,
    UnsupportedLayerError,
)
from privacy.events import (
    DpSgdRun,
    GateRelease,
    GaussianRelease,
    LaplaceRelease,
    MatrixFactorisationRun,
    Neighbours,
    Unit,
)
from privacy.ledger import Ledger

if TYPE_CHECKING:
    from privacy.dp_sgd import ClippedSum, DpSgd, require_independent_examples

__all__ = [
    "AccountingError",
    "Budget",
    "BudgetError",
    "BudgetExhaustedError",
    "ClippedSum",
    "DeviceKey",
    "DeviceKeyError",
    "DpSgd",
    "DpSgdRun",
    "EngineError",
    "EventError",
    "ExportError",
    "GateRelease",
    "GaussianRelease",
    "LaplaceRelease",
    "Ledger",
    "LedgerBusyError",
    "LedgerError",
    "LedgerFormatError",
    "LedgerFullError",
    "LedgerKeyError",
    "LedgerRolledBackError",
    "LedgerTamperedError",
    "LossShapeError",
    "MatrixFactorisationRun",
    "Neighbours",
    "PrivacyError",
    "Receipt",
    "ReceiptError",
    "StepsExhaustedError",
    "Unit",
    "UnsupportedLayerError",
    "epsilon",
    "noise_multiplier",
    "require_independent_examples",
]


def __getattr__(name: str) -> Any:
    """Load the engine when it is first asked for: it brings torch, which an auditor of the ledger does not need."""
    if name in ("ClippedSum", "DpSgd", "require_independent_examples"):
        from privacy import dp_sgd

        return getattr(dp_sgd, name)
    raise AttributeError(f"module 'privacy' has no attribute {name!r}")
