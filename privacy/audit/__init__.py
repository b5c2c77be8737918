"""The engine in, findings about it out: the check that the claim is not false."""

from typing import TYPE_CHECKING, Any

from privacy.audit.findings import ALARM, DEFAULT_CANARIES, AuditReport, Canaries, Finding, Membership
from privacy.audit.kept import keep, kept_audits, newest_audit
from privacy.audit.membership import attack
from privacy.audit.one_run import (
    Guesses,
    epsilon_lower_bound,
    epsilon_p_value,
    gaussian_epsilon_lower_bound,
    gaussian_p_value,
    guess,
    largest_provable_epsilon,
)

if TYPE_CHECKING:
    from privacy.audit.legs import audit, default_run, mechanism_checks
    from privacy.audit.parts import Engine

__all__ = [
    "ALARM",
    "DEFAULT_CANARIES",
    "AuditReport",
    "Canaries",
    "Engine",
    "Finding",
    "Guesses",
    "Membership",
    "attack",
    "audit",
    "default_run",
    "epsilon_lower_bound",
    "epsilon_p_value",
    "gaussian_epsilon_lower_bound",
    "gaussian_p_value",
    "guess",
    "keep",
    "kept_audits",
    "largest_provable_epsilon",
    "mechanism_checks",
    "newest_audit",
]


def __getattr__(name: str) -> Any:
    """Load what runs the engine when it is first asked for: it brings torch, which reading a report does not need."""
    if name == "Engine":
        from privacy.audit.parts import Engine

        return Engine
    if name in ("audit", "default_run", "mechanism_checks"):
        from privacy.audit import legs

        return getattr(legs, name)
    raise AttributeError(f"module 'privacy.audit' has no attribute {name!r}")
