"""What the legs of an audit found, as frozen facts: written as JSON, read back, shown to a person."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from privacy.errors import AuditError

__all__ = ["ALARM", "DEFAULT_CANARIES", "AuditReport", "Canaries", "Finding", "Membership", "judged"]

ALARM = 1e-6  # A sound engine raises a statistical alarm in one of a million checks: rarer than a fault of the machine.
DEFAULT_CANARIES = 2_500  # Enough strangers for one false accusation in a thousand; 50 MB and a second.
FORMAT = "audit/1"

_Facts = TypeVar("_Facts", "Canaries", "Finding", "Membership")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One check of one property."""

    leg: str
    """What was checked, in two or three words."""
    claim: str
    """What must hold."""
    passed: bool
    """Whether it held."""
    measured: str
    """What was seen, with figures."""
    p_value: float | None = None
    """Chance to see something at least as strange when the claim holds, in [0, 1]; None where the check is exact."""


def judged(leg: str, claim: str, p_value: float, measured: str, *, alarm: float = ALARM) -> Finding:
    """Make a finding of a test: it fails when its p-value is below `alarm`, or is no number."""
    value = float(min(max(p_value, 0.0), 1.0)) if math.isfinite(p_value) else 0.0
    return Finding(leg=leg, claim=claim, passed=value >= alarm, measured=measured, p_value=value)


@dataclass(frozen=True, kw_only=True)
class Canaries:
    """What guessing which canaries were in one training run proves about it."""

    canaries: int
    """Canaries, each in the data by a fair coin."""
    guesses: int
    """For how many of them a guess was made; fixed before the run."""
    correct: int
    """How many guesses were right."""
    confidence: float
    """Of the bounds below, in (0, 1)."""
    delta: float
    """Delta of every epsilon here."""
    claimed_epsilon: float
    """What the run was charged with (nats)."""
    epsilon_at_least: float
    """The run is not (epsilon, delta)-private for any smaller epsilon (nats): arXiv:2305.08846, Theorem 5.2."""
    gaussian_epsilon_at_least: float | None
    """The same for a run that is a Gaussian mechanism: arXiv:2410.22235. None where it is not one, as with sampling."""
    largest_provable_epsilon: float
    """What `epsilon_at_least` would be if every guess had been right: more this audit cannot show (nats)."""
    largest_provable_gaussian_epsilon: float | None
    """The same for `gaussian_epsilon_at_least`."""

    def lower_bound(self) -> float:
        """Return the better of the two bounds (nats)."""
        return max(self.epsilon_at_least, self.gaussian_epsilon_at_least or 0.0)


@dataclass(frozen=True, kw_only=True)
class Membership:
    """How well an attacker with the trained model tells members from strangers."""

    members: int
    """Canaries that were in the data."""
    strangers: int
    """Canaries that were not."""
    auc: float
    """Chance that a member scores above a stranger; 0.5 is guessing."""
    auc_low: float
    """Lower end of its confidence interval."""
    auc_high: float
    """Upper end."""
    auc_allowed: float
    """The most that the claim allows."""
    false_positive_rate: float
    """Share of strangers that may be taken for members, for the next figures."""
    true_positive_rate: float
    """Share of members found at that rate."""
    true_positive_rate_low: float
    """Lower end of its confidence interval (Clopper-Pearson at the threshold)."""
    true_positive_rate_high: float
    """Upper end."""
    true_positive_rate_allowed: float
    """The most that the claim allows."""
    confidence: float
    """Of both intervals, two-sided, in (0, 1)."""
    resolved: bool
    """Whether there are enough strangers for that false positive rate; else the threshold is the highest stranger."""


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """All legs of one audit."""

    at: str
    """When: ISO 8601, UTC."""
    run: Mapping[str, Any]
    """The training run that was audited, as `Event.to_dict` writes it."""
    versions: Mapping[str, str]
    """What was audited, by name and version."""
    seconds: float
    """How long it took."""
    findings: tuple[Finding, ...]
    """Every check."""
    canaries: Canaries | None = None
    """The one-run audit; None when only the mechanism was checked."""
    membership: Membership | None = None
    """The attack on the same run; None likewise."""

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(finding.passed for finding in self.findings)

    @property
    def failed(self) -> tuple[str, ...]:
        """The legs that failed."""
        return tuple(finding.leg for finding in self.findings if not finding.passed)

    def to_dict(self) -> dict[str, Any]:
        """Write the report as JSON-ready values."""
        values = asdict(self)
        return {"format": FORMAT, "passed": self.passed, **values, "findings": list(values["findings"])}

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> AuditReport:
        """Read what `to_dict` wrote.

        Raises:
            AuditError: The format is unknown, or a field is missing, unknown or of another kind.
        """
        if not hasattr(written, "get") or written.get("format") != FORMAT:
            raise AuditError(f"this is no audit of format {FORMAT}; run the audit again")
        values = {name: value for name, value in written.items() if name not in ("format", "passed")}
        try:
            values["findings"] = tuple(_read(Finding, each) for each in values["findings"])
            if values.get("canaries") is not None:
                values["canaries"] = _read(Canaries, values["canaries"])
            if values.get("membership") is not None:
                values["membership"] = _read(Membership, values["membership"])
            if not isinstance(values["at"], str) or not isinstance(values["run"], Mapping):
                raise TypeError
            return cls(**values)
        except (TypeError, KeyError, ValueError) as cause:
            raise AuditError("the record of the audit is malformed; run the audit again") from cause


_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "str": (str,),
    "bool": (bool,),
}


def _read(kind: type[_Facts], written: Mapping[str, Any]) -> _Facts:
    for field in fields(kind):
        if not isinstance(written[field.name], _KINDS[str(field.type)]):
            raise TypeError(field.name)
    return kind(**written)
