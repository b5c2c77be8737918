"""A policy and a snapshot of the device in, whether a night may run now and why out. Pure: no clock, no sensor.

What a sensor cannot tell is None in the snapshot. The rule for that:
    - charger and battery: a machine that shows no battery runs on mains, so both are passed over;
    - temperature and load: passed over, the system guards itself, and the decision names what was not known;
    - idle time: refused, because not to disturb is what was asked for; `idle_minutes=0` asks for less.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, time
from typing import Any, ClassVar, Protocol, TypeVar

from personalize.errors import TrainingError

__all__ = ["Decision", "NightPolicy", "Snapshot", "decide", "with_settings"]


@dataclass(frozen=True, kw_only=True)
class NightPolicy:
    """When a night may run. Every limit can be switched off; the defaults suit a laptop on its charger at night."""

    idle_minutes: float = 10.0
    """Minutes since anybody last typed or pointed, ≥ 0; 0 does not ask."""
    charger: bool = True
    """Only on the charger."""
    battery_percent: float = 50.0
    """Least charge of the battery, 0 to 100; 0 does not ask."""
    celsius: float = 80.0
    """Hottest sensor of the processor at most, in degrees Celsius."""
    window: str = "00:00-24:00"
    """Local time of day, `HH:MM-HH:MM`; may pass midnight. The default is the whole day."""
    load: float = 0.5
    """Load average of the last minute over the number of processors at most, > 0. Not asked while a night runs: most of
    the load is then its own."""
    free_megabytes: float = 200.0
    """Free room on the disk of the home at least, in MB."""

    def __post_init__(self) -> None:
        """Refuse what can never hold."""
        for name in ("idle_minutes", "battery_percent", "celsius", "load", "free_megabytes"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise TrainingError(f"{name} of a policy must be a number from 0 up, got {value}; nothing was started")
        if self.battery_percent > 100 or self.load == 0:
            raise TrainingError(
                f"battery_percent must be at most 100 and load above 0, got {self.battery_percent:g} and {self.load:g}"
            )
        _times(self.window)

    def changed(self, settings: Iterable[str]) -> "NightPolicy":
        """This policy with `NAME=VALUE` settings, as a command line gives them.

        Raises:
            TrainingError: No such name, or a value that it cannot have.
        """
        return with_settings(self, settings, called="a policy", refusal=TrainingError)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What the sensors say at one moment. None: this machine cannot tell."""

    at: datetime
    """Local time, with its zone."""
    idle_minutes: float | None = None
    """Minutes since the last input of anybody who is logged in."""
    charger: bool | None = None
    """Whether it is on the charger."""
    battery_percent: float | None = None
    """Charge of the battery."""
    celsius: float | None = None
    """Hottest sensor of the processor."""
    load: float | None = None
    """Load average of a minute over the number of processors."""
    free_megabytes: float | None = None
    """Free room on the disk of the home, in MB."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether a night may run, and why."""

    run: bool
    """True if nothing stands against it."""
    against: tuple[str, ...] = ()
    """What stands against it, one clause each."""
    unknown: tuple[str, ...] = ()
    """What could not be read and was passed over."""

    def why(self) -> str:
        """One line for a person."""
        words = "; ".join(self.against) or "idle, powered and cool enough"
        return f"{words} (not known here: {', '.join(self.unknown)})" if self.unknown else words

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self) | {"against": list(self.against), "unknown": list(self.unknown)}


def decide(policy: NightPolicy, now: Snapshot, *, learnable: int | None = None, running: bool = False) -> Decision:
    """Hold a snapshot against a policy.

    Args:
        policy: When a night may run.
        now: What the sensors say.
        learnable: Whether there is anything to do: records that are fresh and can pay for the night, 0 for too few;
            None does not ask.
        running: A night runs already: load, room and budget are then its own and no reason to stop.
    """
    against = [*_about_people(policy, now), *_about_power(policy, now), *_about_heat(policy, now)]
    if not running:
        against += _about_room(policy, now)
        if learnable == 0:
            against.append("too few fresh records that can pay for a night")
    asked = {
        "charger": policy.charger,
        "battery_percent": policy.battery_percent > 0,
        "celsius": True,
        "load": not running,
    }
    unknown = [name.replace("_percent", "") for name, wanted in asked.items() if wanted and getattr(now, name) is None]
    return Decision(run=not against, against=tuple(against), unknown=tuple(unknown))


def _about_people(policy: NightPolicy, now: Snapshot) -> list[str]:
    found = []
    first, last = _times(policy.window)
    clock = now.at.time().replace(tzinfo=None)
    # 24:00 is written as 00:00: the window then ends with the day, and equal ends are the whole day.
    inside = first <= clock < last if first < last else clock >= first or clock < last
    if not inside:
        found.append(f"it is {clock:%H:%M}, outside {policy.window}")
    if policy.idle_minutes > 0 and now.idle_minutes is None:
        found.append("the idle time cannot be told on this machine; set idle_minutes=0 to go without it")
    elif policy.idle_minutes > 0 and now.idle_minutes is not None and now.idle_minutes < policy.idle_minutes:
        found.append(f"in use {now.idle_minutes:.0f} minutes ago, idle means {policy.idle_minutes:g}")
    return found


def _about_power(policy: NightPolicy, now: Snapshot) -> list[str]:
    found = []
    if policy.charger and now.charger is False:
        found.append("not on the charger")
    if now.battery_percent is not None and now.battery_percent < policy.battery_percent:
        found.append(f"battery at {now.battery_percent:.0f} %, less than {policy.battery_percent:g} %")
    return found


def _about_heat(policy: NightPolicy, now: Snapshot) -> list[str]:
    if now.celsius is not None and now.celsius > policy.celsius:
        return [f"{now.celsius:.0f} °C, more than {policy.celsius:g} °C"]
    return []


def _about_room(policy: NightPolicy, now: Snapshot) -> list[str]:
    found = []
    if now.load is not None and now.load > policy.load:
        found.append(f"load {now.load:.2f} a processor, more than {policy.load:g}")
    if now.free_megabytes is not None and now.free_megabytes < policy.free_megabytes:
        found.append(f"{now.free_megabytes:,.0f} MB free, fewer than {policy.free_megabytes:,.0f} MB")
    return found


def _times(window: str) -> tuple[time, time]:
    try:
        first, last = (part.strip() for part in window.split("-"))
        return time.fromisoformat(first), time.fromisoformat("00:00" if last == "24:00" else last)
    except ValueError as cause:
        raise TrainingError(f"a window is HH:MM-HH:MM, such as 23:00-06:30, got {window!r}") from cause


class _Settings(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


Policy = TypeVar("Policy", bound=_Settings)


def with_settings(policy: Policy, settings: Iterable[str], *, called: str, refusal: type[Exception]) -> Policy:
    """A policy with `NAME=VALUE` settings, as a command line gives them.

    Args:
        policy: A frozen dataclass of numbers, texts, and yes or no.
        settings: Hyphens in names count as underscores.
        called: How the refusal calls the policy, such as `a policy`.
        refusal: What is raised.

    Raises:
        refusal: No such name, or a value of another kind; what the policy itself refuses, it raises itself.
    """
    kinds = {item.name: type(getattr(policy, item.name)) for item in fields(policy)}
    changes: dict[str, Any] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        name = name.strip().replace("-", "_")
        if name not in kinds:
            raise refusal(f"{called} has no {name!r:.40}; it has {', '.join(kinds)}")
        changes[name] = _read(kinds[name], name, value.strip(), refusal)
    return replace(policy, **changes)


def _read(kind: type, name: str, value: str, refusal: type[Exception]) -> Any:
    if kind is bool:
        if value.lower() not in ("yes", "no", "true", "false"):
            raise refusal(f"{name} is yes or no, got {value!r:.40}")
        return value.lower() in ("yes", "true")
    if kind is str:
        return value
    try:
        return float(value)
    except ValueError as cause:
        raise refusal(f"{name} is a number, got {value!r:.40}") from cause
