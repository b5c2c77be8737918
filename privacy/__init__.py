"""The guarantee: facts about private records in, what they cost and whether more may be spent out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from privacy.accounting import epsilon, noise_multiplier
    from privacy.books import Receipt
    from privacy.budget import Budget
    from privacy.device_key import DeviceKey
    from privacy.dp_sgd import ClippedSum, DpSgd, require_independent_examples
    from privacy.ledger import Ledger

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


_HOMES = {
    "Budget": "privacy.budget",
    "ClippedSum": "privacy.dp_sgd",
    "DeviceKey": "privacy.device_key",
    "DpSgd": "privacy.dp_sgd",
    "Ledger": "privacy.ledger",
    "Receipt": "privacy.books",
    "epsilon": "privacy.accounting",
    "noise_multiplier": "privacy.accounting",
    "require_independent_examples": "privacy.dp_sgd",
}


def __getattr__(name: str) -> Any:
    """Load a part when it is first asked for: an auditor of the ledger needs no torch, `limbeck --help` no scipy."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'privacy' has no attribute {name!r}")
