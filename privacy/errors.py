"""PrivacyError
├── EventError                  a fact that cannot be: noise 0, rate above 1, unknown type; nothing was recorded
├── AccountingError             the figure asked for cannot be computed soundly, or the noise asked for does not exist
├── BudgetError                 the budget itself is refused (epsilon, delta, policy); the ledger is unchanged
├── BudgetExhaustedError        the run would overspend; nothing was recorded and nothing may be trained
├── ReceiptError                a receipt is unknown, closed, or has no step left; nothing was drawn
├── DeviceKeyError              the device key is missing, damaged or readable by others
├── LedgerError                 the ledger cannot be used; what it recorded so far stays spent
│   ├── LedgerBusyError         another process held the ledger too long; nothing was recorded
│   ├── LedgerFullError         no room on the disk; nothing was recorded
│   ├── LedgerFormatError       written by a newer version, or not a ledger
│   └── LedgerTamperedError     the chain does not verify; training stays off
│       ├── LedgerKeyError      written with another device's key
│       └── LedgerRolledBackError  older than what the anchor outside the file remembers
├── ExportError                 an exported ledger is malformed, or its claims do not follow from its entries
├── AuditError                  the audit asked for is impossible, its record is malformed, or the engine failed it
├── ReportError                 the report cannot be written; an older one stays as it was
└── EngineError                 the privatised step cannot be trusted; nothing was added to the model
    ├── UnsupportedLayerError   the layer mixes examples, so per-example clipping means nothing
    ├── LossShapeError          the loss is not one number an example
    └── StepsExhaustedError     the run has no step left
"""

from __future__ import annotations

import math

MAX_MESSAGE_CHARS = 400  # What a terminal shows in a few rows.


class PrivacyError(Exception):
    """Root of every error of this package; the message is one line that says what to do next."""

    def __str__(self) -> str:
        """Return one printable line, whatever a damaged file or an odd value wrote into the message."""
        line = " ".join("".join(letter if letter.isprintable() else " " for letter in super().__str__()).split())
        return line if len(line) <= MAX_MESSAGE_CHARS else f"{line[: MAX_MESSAGE_CHARS - 1]}…"


class EventError(PrivacyError, ValueError):
    """A fact that cannot be, such as noise 0 or a sampling rate above 1. Nothing was recorded."""


class AccountingError(PrivacyError, ValueError):
    """The figure asked for cannot be computed soundly, or no noise reaches it."""


class BudgetError(PrivacyError, ValueError):
    """The budget itself is refused; the ledger is unchanged."""


class BudgetExhaustedError(PrivacyError):
    """The run would overspend. Nothing was recorded and nothing may be trained.

    Args:
        wanted: Epsilon that the run would add.
        left: Epsilon that is left where it would be charged.
        where: The account that is too small, for example `block 2026-11-24`.
    """

    def __init__(self, *, wanted: float, left: float, where: str = "") -> None:
        self.wanted = wanted
        self.left = left
        self.where = where
        place = f" in {where}" if where else ""
        super().__init__(
            f"run needs epsilon {_up(wanted):.2f} but {_down(left):.2f} is left{place}; "
            "use more noise or fewer steps, or wait for new records"
        )

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the keyword arguments when the error crosses a process border."""
        return (_rebuild_exhausted, (self.wanted, self.left, self.where))


def shown(value: object) -> str:
    """Return `value` as an error message quotes it: short, even when it is a number of a million digits."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # A whole number of millions of digits, or a nest of lists.
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def _up(epsilon: float) -> float:
    return math.ceil(epsilon * 100) / 100 if math.isfinite(epsilon) else epsilon


def _down(epsilon: float) -> float:
    return math.floor(epsilon * 100) / 100 if math.isfinite(epsilon) else epsilon


def _rebuild_exhausted(wanted: float, left: float, where: str) -> BudgetExhaustedError:
    return BudgetExhaustedError(wanted=wanted, left=left, where=where)


class ReceiptError(PrivacyError):
    """A receipt is unknown, closed, or asked for more steps than were reserved. Nothing was drawn."""


class DeviceKeyError(PrivacyError):
    """The device key is missing, damaged or readable by others."""


class LedgerError(PrivacyError):
    """The ledger cannot be used. What it recorded so far stays spent."""


class LedgerBusyError(LedgerError):
    """Another process held the ledger too long. Nothing was recorded."""


class LedgerFullError(LedgerError):
    """No room on the disk. Nothing was recorded."""


class LedgerFormatError(LedgerError):
    """The file was written by a newer version, or is not a ledger."""


class LedgerTamperedError(LedgerError):
    """The chain does not verify. Training stays off."""


class LedgerKeyError(LedgerTamperedError):
    """The ledger was written with another device's key."""


class LedgerRolledBackError(LedgerTamperedError):
    """The ledger is older than what the anchor outside the file remembers."""


class ExportError(PrivacyError):
    """An exported ledger is malformed, or its claims do not follow from its entries."""


class AuditError(PrivacyError, ValueError):
    """The audit asked for is impossible, its record is malformed, or the engine failed it."""


class ReportError(PrivacyError):
    """The report cannot be written. An older one stays as it was."""


class EngineError(PrivacyError):
    """The privatised step cannot be trusted. Nothing was added to the model."""


class UnsupportedLayerError(EngineError):
    """The layer mixes examples, so per-example clipping means nothing."""


class LossShapeError(EngineError, ValueError):
    """The loss is not one number an example, so one record would rescale the others."""


class StepsExhaustedError(EngineError):
    """The run has no step left; a further step would not be covered by its reservation."""
