"""What happened to private records, as frozen facts. Accounting interprets them later.

Rules:
    1. A fact is valid when it exists: its constructor refuses what no mechanism can do.
    2. A fact names its unit and its neighbouring relation, so no figure computed from it is bare.
    3. Written facts carry a type and a version; an unknown type, version or field is refused, never skipped.
"""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, ClassVar, TypeVar

from privacy.errors import EventError, shown

__all__ = [
    "DpSgdRun",
    "Event",
    "GaussianRelease",
    "GateRelease",
    "LaplaceRelease",
    "MatrixFactorisationRun",
    "Neighbours",
    "Unit",
    "event_from_dict",
]

_Choice = TypeVar("_Choice", bound=Enum)

MAX_AMOUNT = 1e9  # Noise beyond it drowns any signal, and both accountants lose their footing.
MIN_AMOUNT = 1e-300  # Half of it is still a number above 0, so no division fails; epsilon is infinite all the same.
MIN_RATE = 1e-12  # One unit in a trillion.
MAX_STREAM = 1_000_000  # Steps of one correlated stream; its sensitivity is a sum over them.
MAX_USES = 10**12  # More uses of one mechanism than any device makes; keeps sums inside floating point.


class Unit(Enum):
    """Whose presence the guarantee hides. Clipping must have been done per unit.

    A guarantee for one unit says nothing about another: when whole days are clipped together, changing a single record
    may move the sum by as much as changing the day, and the two relations are not ordered under `Neighbours.ZERO_OUT`.
    """

    RECORD = "record"
    MESSAGE = "record"
    CONVERSATION = "conversation"
    DAY = "day"

    @classmethod
    def _missing_(cls, value: object) -> Unit | None:
        return cls.RECORD if value == "message" else None


class Neighbours(Enum):
    """Which pairs of datasets must look alike."""

    ZERO_OUT = "zero_out"
    """One unit is replaced by an empty one; their number and time stamps are public. Sensitivity: the clip norm."""
    ADD_OR_REMOVE = "add_or_remove"
    """One unit more or less. Sensitivity: the clip norm."""
    REPLACE = "replace"
    """One unit replaced by any other. Sensitivity: twice the clip norm."""


@dataclass(frozen=True, kw_only=True)
class Event(ABC):
    """One fact about private records. Abstract: a fact without a mechanism costs nothing that could be computed."""

    unit: Unit = Unit.RECORD
    """Whose presence is hidden."""
    neighbours: Neighbours = Neighbours.ZERO_OUT
    """Which datasets are compared."""

    kind: ClassVar[str]
    """Type and version under which the fact is written."""

    def __post_init__(self) -> None:
        self._set("unit", _member(Unit, self.unit))
        self._set("neighbours", _member(Neighbours, self.neighbours))
        self._check()

    @abstractmethod
    def _check(self) -> None:
        """Validate and normalise the fields of the subclass."""

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # Frozen for everybody else; here the field is being normalised.

    @property
    @abstractmethod
    def uses(self) -> int:
        """How often the mechanism is used: what `Ledger.draw` counts."""

    def to_dict(self) -> dict[str, Any]:
        """Write the fact as JSON-ready values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        plain = {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}
        return {"event": self.kind, **plain}


@dataclass(frozen=True, kw_only=True)
class DpSgdRun(Event):
    """Clipped per-unit gradients, summed and noised, `steps` times."""

    noise_multiplier: float
    """Std of the Gaussian noise on the clipped sum, divided by the clip norm (no unit), > 0."""
    sampling_rate: float
    """Chance that one unit joins one step, independently of all others (Poisson), in (0, 1]; 1 is the full batch."""
    steps: int
    """Number of noisy sums, empty batches included, >= 1."""
    clip_norm: float = 1.0
    """Largest L2 norm that one unit adds to a sum, > 0. Recorded for the reader; epsilon depends on the ratio only."""

    kind: ClassVar[str] = "dp_sgd_run/1"

    def _check(self) -> None:
        self._set("noise_multiplier", _positive("noise_multiplier", self.noise_multiplier))
        self._set("sampling_rate", _rate("sampling_rate", self.sampling_rate))
        self._set("steps", _count("steps", self.steps))
        self._set("clip_norm", _positive("clip_norm", self.clip_norm))

    @property
    def uses(self) -> int:
        """Steps of the run."""
        return self.steps


@dataclass(frozen=True, kw_only=True)
class GaussianRelease(Event):
    """A statistic published with Gaussian noise, `count` times with fresh noise."""

    noise_multiplier: float
    """Std of the noise divided by the largest L2 norm that one unit contributes (no unit), > 0."""
    count: int = 1
    """Number of releases, >= 1."""

    kind: ClassVar[str] = "gaussian_release/1"

    def _check(self) -> None:
        self._set("noise_multiplier", _positive("noise_multiplier", self.noise_multiplier))
        self._set("count", _count("count", self.count))

    @property
    def uses(self) -> int:
        """Number of releases."""
        return self.count


@dataclass(frozen=True, kw_only=True)
class LaplaceRelease(Event):
    """A statistic published with Laplace noise, `count` times with fresh noise."""

    scale: float
    """Scale of the noise divided by the largest L1 norm that one unit contributes (no unit), > 0."""
    count: int = 1
    """Number of releases, >= 1."""

    kind: ClassVar[str] = "laplace_release/1"

    def _check(self) -> None:
        self._set("scale", _positive("scale", self.scale))
        self._set("count", _count("count", self.count))

    @property
    def uses(self) -> int:
        """Number of releases."""
        return self.count


@dataclass(frozen=True, kw_only=True)
class GateRelease(Event):
    """A gate that compared a noisy score of private records with a threshold, `count` times.

    The score is released by the Gaussian mechanism and the verdict is post-processing of it, so the gate costs what the
    score costs whether it said yes or no.
    """

    noise_multiplier: float
    """Std of the noise on the score divided by the largest L2 norm that one unit contributes (no unit), > 0."""
    count: int = 1
    """Number of noisy scores that were read, >= 1."""

    kind: ClassVar[str] = "gate_release/1"

    def _check(self) -> None:
        self._set("noise_multiplier", _positive("noise_multiplier", self.noise_multiplier))
        self._set("count", _count("count", self.count))

    @property
    def uses(self) -> int:
        """Number of noisy scores."""
        return self.count


@dataclass(frozen=True, kw_only=True)
class MatrixFactorisationRun(Event):
    """Clipped per-unit gradients released with correlated noise over a stream of `steps` sums.

    The stream of partial sums is A = BC; the mechanism adds B z with z independent Gaussian noise, so the whole run is
    one Gaussian release of C g. Sensitivity follows from the fields (privacy.matrix_factorisation).
    """

    noise_multiplier: float
    """Std of each entry of z divided by the clip norm (no unit), > 0. Not divided by the sensitivity of C."""
    steps: int
    """Length of the stream, >= 1."""
    bands: int
    """Non-zero diagonals of the square-root factor C that are kept, in [1, steps]; `steps` keeps them all."""
    min_separation: int
    """Fewest steps between two participations of one unit, >= 1."""
    max_participations: int
    """Most participations of one unit in the stream, >= 1."""
    clip_norm: float = 1.0
    """Largest L2 norm that one unit adds to a sum, > 0."""

    kind: ClassVar[str] = "matrix_factorisation_run/1"

    def _check(self) -> None:
        self._set("noise_multiplier", _positive("noise_multiplier", self.noise_multiplier))
        for name in ("steps", "bands", "min_separation", "max_participations"):
            self._set(name, _count(name, getattr(self, name)))
        self._set("clip_norm", _positive("clip_norm", self.clip_norm))
        if self.steps > MAX_STREAM:
            raise EventError(f"steps of a stream must be at most {MAX_STREAM}, got {shown(self.steps)}")
        if self.bands > self.steps:
            raise EventError(f"bands must be at most steps ({self.steps}), got {self.bands}")

    @property
    def uses(self) -> int:
        """Steps of the stream."""
        return self.steps


_KINDS: dict[str, type[Event]] = {
    event.kind: event for event in (DpSgdRun, GaussianRelease, LaplaceRelease, GateRelease, MatrixFactorisationRun)
}


def event_from_dict(written: Mapping[str, Any]) -> Event:
    """Read a fact that `Event.to_dict` wrote.

    Raises:
        EventError: The type, version or a field is unknown or missing, or a value is impossible.
    """
    if not isinstance(written, Mapping):
        raise EventError(f"an event must be an object, got {type(written).__name__}")
    kind = written.get("event")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise EventError(f"unknown event type {shown(kind)}; update limbeck, or do not count what it cannot read")
    event = _KINDS[kind]
    known = {field.name for field in fields(event)}
    given = set(written) - {"event"}
    if given != known:
        wrong = ", ".join(sorted(map(shown, given ^ known)))
        raise EventError(f"event {kind} has unknown or missing fields: {wrong}")
    return event(**{name: written[name] for name in known})


def _member(choices: type[_Choice], value: object) -> _Choice:
    try:
        return choices(value)
    except ValueError as cause:
        allowed = ", ".join(choice.value for choice in choices)
        raise EventError(f"{choices.__name__.lower()} must be one of {allowed}, got {shown(value)}") from cause


def _number(name: str, value: object) -> float:
    if isinstance(value, (bool, str, bytes)):
        raise EventError(f"{name} must be a number, got {shown(value)}")
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as cause:
        raise EventError(f"{name} must be a number, got {shown(value)}") from cause
    if not math.isfinite(number):
        raise EventError(f"{name} must be finite, got {number}")
    return number


def _positive(name: str, value: object) -> float:
    number = _number(name, value)
    if number <= 0:
        raise EventError(f"{name} must be above 0, got {number:g}; without noise there is no guarantee")
    if number < MIN_AMOUNT:
        raise EventError(f"{name} must be at least {MIN_AMOUNT:g}, got {number:g}; it would be no noise at all")
    if number > MAX_AMOUNT:
        raise EventError(f"{name} must be at most {MAX_AMOUNT:g}, got {number:g}")
    return number


def _rate(name: str, value: object) -> float:
    number = _number(name, value)
    if not 0 < number <= 1:
        raise EventError(f"{name} must be in (0, 1], got {number:g}")
    if number < MIN_RATE:
        raise EventError(f"{name} must be at least {MIN_RATE:g}, got {number:g}; no step would ever meet a record")
    return number


def _count(name: str, value: object) -> int:
    if isinstance(value, bool):
        raise EventError(f"{name} must be a whole number, got {value}")
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError as cause:
        raise EventError(f"{name} must be a whole number, got {shown(value)}") from cause
    if not 1 <= number <= MAX_USES:
        raise EventError(f"{name} must be in [1, {MAX_USES}], got {shown(number)}")
    return number
