"""A run, what its units have spent, and the last audit in; the privacy label of what was trained out.

A label is what travels with an adapter: whose presence is hidden, how well, by whose arithmetic, what an attack on this
very engine could show, and which versions said so. It holds no figure computed from private records.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from privacy.accounting import VALIDITY, check_delta, epsilon
from privacy.audit.findings import AuditReport
from privacy.audit.kept import newest_audit
from privacy.errors import AccountingError, ReportError
from privacy.events import Event
from privacy.versions import versions

__all__ = ["FORMAT", "label", "lines", "newest_audit"]

FORMAT = "privacy_label/1"
NOT_AUDITED = "not audited"
_ACCOUNTANTS = {
    "enforced": "Rényi DP at a fixed grid of orders (limbeck)",
    "beside": "privacy loss distributions (dp-accounting)",
}
_SAME = 1e-9  # Relative: two sums of the same numbers.


def label(
    run: Event, *, delta: float, spent: float, spent_pld: float, audit: AuditReport | None = None
) -> dict[str, Any]:
    """Return the label of what `run` trained, as JSON-ready values.

    Args:
        run: What was reserved and trained.
        delta: Of every epsilon on the label, in (0, 1).
        spent: Epsilon (nats) that the worst unit has spent by the enforcing accountant, this run included:
            `Ledger.spent()`. An adapter goes on from the one before, so it answers for all nights up to it.
        spent_pld: The same by the other: `Ledger.spent(accountant="pld")`.
        audit: The audit to cite (`newest_audit`); None: the label says that there was none.

    Raises:
        AccountingError: Less was spent than this run alone costs: the label would be false. Or delta is impossible.
    """
    check_delta(delta)
    tonight, tonight_pld = (epsilon(run, delta=delta, accountant=by) for by in ("rdp", "pld"))
    if not spent >= tonight * (1 - _SAME):  # Also refuses what is no number.
        raise AccountingError(
            f"the label would say epsilon {spent:.4f} and this run alone costs {tonight:.4f}; reserve the run first"
        )
    return {
        "format": FORMAT,
        "unit": run.unit.value,
        "neighbours": run.neighbours.value,
        "epsilon": spent,
        "epsilon_pld": min(max(spent_pld, tonight_pld), spent),
        "epsilon_tonight": tonight,
        "epsilon_tonight_pld": tonight_pld,
        "delta": delta,
        "accountants": dict(_ACCOUNTANTS),
        "validity": dict(VALIDITY),
        "mechanism": run.to_dict(),
        "audit": _cited(audit),
        "versions": versions(),
    }


def _cited(audit: AuditReport | None) -> dict[str, Any]:
    """What of an audit belongs on a label."""
    if audit is None:
        return {"status": NOT_AUDITED}
    cited: dict[str, Any] = {
        "status": "passed" if audit.passed else "failed",
        "at": audit.at,
        "checks": len(audit.findings),
        "failed": list(audit.failed),
        "engine": audit.versions.get("engine", "unknown"),
    }
    found = audit.canaries
    if found is None:
        return cited | {"epsilon_at_least": None}
    provable = max(found.largest_provable_epsilon, found.largest_provable_gaussian_epsilon or 0.0)
    return cited | {
        "epsilon_at_least": found.lower_bound(),
        "largest_provable_epsilon": provable,
        "claimed_epsilon": found.claimed_epsilon,
        "confidence": found.confidence,
        "delta": found.delta,
    }


def lines(written: Mapping[str, Any]) -> list[str]:
    """Say a label in three plain lines, each beginning with its name in a column of 12 characters.

    Raises:
        ReportError: It is no label of a format that is known here.
    """
    if not hasattr(written, "get") or written.get("format") != FORMAT:
        raise ReportError(f"this is no privacy label of format {FORMAT}; update limbeck")
    try:
        unit, audit, named = written["unit"], written["audit"], written["versions"]
        spent, beside, tonight = (_up(written[name]) for name in ("epsilon", "epsilon_pld", "epsilon_tonight"))
        cost = (
            f"epsilon {spent} at most for any {unit} (RDP, enforced; PLD {beside}), delta {written['delta']:g}, "
            f"{written['neighbours']}; the last night alone {tonight}"
        )
        made = ", ".join(f"{name} {named[name]}" for name in ("limbeck", "torch", "dp-accounting") if name in named)
        return [f"privacy     {cost}", f"audit       {_audit_line(audit)}", f"versions    {made}"]
    except (KeyError, TypeError, ValueError) as cause:
        raise ReportError("the privacy label is malformed; roll back or learn again") from cause


def _up(epsilon: float) -> str:
    """To 3 digits after the point, never made to look smaller."""
    return f"{math.ceil(epsilon * 1e3 - 1e-6) / 1e3:.3f}"


def _audit_line(audit: Mapping[str, Any]) -> str:
    if audit["status"] == NOT_AUDITED:
        return "not audited: run limbeck privacy audit"
    said = f"{audit['status']} on {audit['at'][:10]} ({audit['checks']} checks)"
    if audit["status"] == "failed":
        return f"{said}: {', '.join(audit['failed'])}; train nothing"
    if audit["epsilon_at_least"] is None:
        return f"{said}; no training was attacked"
    return (
        f"{said}: epsilon of a training charged {audit['claimed_epsilon']:.2f} is at least "
        f"{audit['epsilon_at_least']:.2f} at {audit['confidence']:.0%} confidence; it could have shown up to "
        f"{audit['largest_provable_epsilon']:.2f}"
    )
