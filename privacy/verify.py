"""An exported ledger in, a verdict out: everything recomputed from the text alone, by Google's dp-accounting.

This path shares no accounting with the ledger: it reads the text, follows the hashes, and composes the events again
with a library that others maintain. Checks, in this order:

    (1) the text is an export of a known format, of bounded size, without surprises in its JSON;
    (2) every entry hashes to what it says and names the entry before it, to the head; time never runs backwards;
    (3) with the device key, every entry carries this device's seal;
    (4) reservations have a budget for their unit and relation; nobody drew more than was reserved or after closing;
    (5) no admitted run passed its limit at the Renyi order that was fixed before its records were read;
    (6) the epsilon of each block, of the worst block, and of all runs together are what the entries give, within 1e-6;
    (7) the PLD figure is what the entries give, within 1 %, and not above the RDP figure.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import rdp_privacy_accountant as google_rdp

from privacy.errors import ExportError, shown

__all__ = ["Verdict", "verify_export", "verify_file"]

MAX_EXPORT_BYTES = 256 * 1024 * 1024  # About 300,000 entries: centuries of nights.
_TOLERANCE = 1e-6  # Relative: two implementations of the same series.
_BESIDE_TOLERANCE = 0.01  # Relative: two loss grids may differ.
MAX_ORDER = 1024.0
MAX_STREAM = 1_000_000
_MAX_USES = 10**12
_MIN_RATE, _MAX_DELTA, _MAX_DAYS = 1e-12, 1e-5, 36_500
_UNITS = ("record", "conversation", "day")
_SENSITIVITY = {"replace": 2.0, "zero_out": 1.0, "add_or_remove": 1.0}
_MIN_AMOUNT, _MAX_AMOUNT = 1e-300, 1e9  # Of noise and clip norms: no ledger accepts less or more.
_MAX_BESIDE = 5_000.0  # Epsilon beyond which no loss grid fits in memory, and no figure means anything.
_MAX_BESIDE_GROUPS = 256  # The ledger states the RDP bound as the figure beside where a grid would take minutes:
_MAX_BESIDE_USES = 1_000_000  # too many mechanisms, too many uses of one, or one that may lose too many nats.
_MAX_BESIDE_LOSS = 300.0
_SERIES_SLACK = 1e-11  # Of a log-moment: dp-accounting drops terms below e^-30, and rounds log-binomials of size 1e3.
_ROUNDING = 1e-15  # Of a divergence that is computed as the difference of numbers near 1.
_TINY_PURE = 1e-4
_FAINT = 1e-8  # A log-moment below this is rounding noise in any series of the size of 1.
_FORMAT = "ledger_export/1"
_FIELDS = ("seq", "at", "kind", "scope", "caller", "receipt", "body", "previous")
_BUDGET = {"format", "unit", "neighbours", "delta", "epsilon", "total_epsilon", "caller_epsilon"}
_BUDGET |= {"period_epsilon", "period_days"}
_RUNS = {
    "dp_sgd_run/1": {"noise_multiplier", "sampling_rate", "steps", "clip_norm"},
    "gaussian_release/1": {"noise_multiplier", "count"},
    "gate_release/1": {"noise_multiplier", "count"},
    "laplace_release/1": {"scale", "count"},
    "matrix_factorisation_run/1": {
        *("noise_multiplier", "steps", "bands", "min_separation", "max_participations", "clip_norm"),
    },
}
"""Fields of each mechanism, besides event, unit and neighbours. One more or less, and its meaning is not known here."""

Mechanism = tuple[str, float, float]
"""Name, noise over sensitivity, sampling rate."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What an export proves."""

    ledger: str
    """Name of the ledger."""
    entries: int
    """Number of entries, all of them linked."""
    runs: int
    """Number of reservations."""
    spent: Mapping[str, float]
    """Epsilon (nats) that the worst block of each scope has lost at most, at the scope's delta (RDP)."""
    spent_beside: Mapping[str, float]
    """The same by PLD, for scopes that claim it."""
    delta: Mapping[str, float]
    """Delta of each scope."""
    unit: Mapping[str, str]
    """Unit and neighbours of each scope, such as record/zero_out."""
    sealed: bool
    """Whether the device's seal was checked; without the key only the order of the entries is proved."""
    rollback_protection: str
    """Where the device remembers the end of the ledger; with "none" an older copy would verify too."""


@dataclass
class _Scope:
    budget: Mapping[str, Any] = field(default_factory=dict)
    blocks: dict[str, Counter[Mechanism]] = field(default_factory=lambda: defaultdict(Counter))
    total: Counter[Mechanism] = field(default_factory=Counter)
    orders: dict[str, float] = field(default_factory=dict)
    spent_at: dict[str, float] = field(default_factory=dict)
    """Renyi divergence so far of each limited account, at its own order; the upper end."""
    history: list[tuple[datetime, Mechanism, int]] = field(default_factory=list)


def verify_file(path: Path, *, key: bytes | None = None, beside: bool = True) -> Verdict:
    """Check the export in the file at `path`; as `verify_export`."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_EXPORT_BYTES + 1)
        return verify_export(content.decode("utf-8"), key=key, beside=beside)
    except OSError as cause:
        raise ExportError(
            f"the export cannot be read ({cause.strerror}); give the path of an exported ledger"
        ) from cause
    except UnicodeDecodeError as cause:
        raise ExportError("the export is not text; give the path of an exported ledger") from cause


def verify_export(text: str, *, key: bytes | None = None, beside: bool = True) -> Verdict:
    """Recompute everything that `text` claims.

    Args:
        text: What `Ledger.export` returned.
        key: The ledger's key, where this is the device; None elsewhere.
        beside: Also recompute the PLD figure (slower).

    Raises:
        ExportError: The text is malformed, or something in it does not follow from its entries; the line says what.
    """
    with np.errstate(all="ignore"):  # Odd noise overflows into the infinite divergence that it has.
        return _verify(_read(text), key=key, beside=beside)  # (1)


def _verify(written: Mapping[str, Any], *, key: bytes | None, beside: bool) -> Verdict:
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)  # dp-accounting warns of each order that it gives up on; `_divergence` deals with them.
    try:
        entries = _chain(written, key)  # (2), (3)
        scopes = _replay(entries)  # (4), (5)
        claims = written["claims"]
        if set(claims) != set(scopes):
            raise ExportError("the claims do not name the scopes of the entries; export the ledger again")
        spent = {name: _check_claims(name, scopes[name], claims[name]) for name in scopes}  # (6)
        figures_beside = {
            name: _check_beside(name, scopes[name], claims[name], spent[name])  # (7)
            for name in scopes
            if beside and claims[name]["spent_pld"] is not None
        }
        return Verdict(
            ledger=str(_loads(entries[0]["body"])["ledger"]),
            entries=len(entries),
            runs=sum(entry["kind"] == "reserve" for entry in entries),
            spent=spent,
            spent_beside=figures_beside,
            delta={name: scope.budget["delta"] for name, scope in scopes.items()},
            unit={name: f"{scope.budget['unit']}/{scope.budget['neighbours']}" for name, scope in scopes.items()},
            sealed=key is not None,
            rollback_protection=str(written["rollback_protection"]),
        )
    except ExportError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, RecursionError) as cause:
        raise ExportError(f"the export is malformed ({type(cause).__name__}); export the ledger again") from cause
    finally:
        log.setLevel(level)


def _read(text: str) -> dict[str, Any]:
    if not isinstance(text, str):
        raise ExportError(f"an export is a text, got {type(text).__name__}")
    if len(text) > MAX_EXPORT_BYTES:
        raise ExportError(f"the export is larger than {MAX_EXPORT_BYTES // 1024**2} MB; no ledger grows that long")
    try:
        written = _loads(text)
    except (ValueError, RecursionError) as cause:
        raise ExportError(f"the export is not JSON as the ledger writes it ({str(cause)[:60]})") from cause
    if not isinstance(written, dict) or written.get("format") != _FORMAT:
        raise ExportError(f"the file is not an export of format {_FORMAT}; update limbeck or export again")
    return written


def _loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_once, parse_constant=_refuse_constant)


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _chain(written: Mapping[str, Any], key: bytes | None) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = written["entries"]
    previous, at = "0" * 64, ""
    for number, entry in enumerate(entries, start=1):
        fields = json.dumps([entry[name] for name in _FIELDS], separators=(",", ":"))
        digest = hashlib.sha256(fields.encode()).hexdigest()
        if entry["seq"] != number or entry["previous"] != previous or entry["hash"] != digest:
            raise ExportError(f"entry {number} does not follow the one before it; the export was altered")
        if entry["at"] < at:
            raise ExportError(f"entry {number} is dated before the one in front of it; the export was altered")
        if key is not None and not _sealed(key, digest, entry["mac"]):
            raise ExportError(f"entry {number} does not carry this device's seal")
        previous, at = digest, entry["at"]
    if not entries or written["head"] != {"seq": len(entries), "hash": previous}:
        raise ExportError("the export does not end with its head; entries are missing")
    return entries


def _sealed(key: bytes, digest: str, seal: str) -> bool:
    expected = hmac.new(key, b"limbeck ledger entry/1\0" + digest.encode(), hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, seal)


def _replay(entries: Sequence[Mapping[str, Any]]) -> dict[str, _Scope]:
    scopes: dict[str, _Scope] = {}
    reserved: dict[str, int] = {}
    closed: set[str] = set()
    for entry in entries:
        facts, receipt = _loads(entry["body"]), entry["receipt"]
        if entry["kind"] == "budget":
            scopes.setdefault(entry["scope"], _Scope()).budget = _known_budget(facts["budget"])
        elif entry["kind"] == "reserve":
            if entry["scope"] not in scopes or receipt in reserved:
                raise ExportError(f"entry {entry['seq']} reserves without a budget, or a receipt twice")
            reserved[receipt] = _reserve(scopes[entry["scope"]], entry, facts)
        elif entry["kind"] == "draw":
            reserved[receipt] -= _whole(facts["steps"])
            if reserved[receipt] < 0 or receipt in closed:
                raise ExportError(f"entry {entry['seq']} draws more than receipt {receipt} reserved")
        elif entry["kind"] == "close":
            if receipt not in reserved or receipt in closed:
                raise ExportError(f"entry {entry['seq']} closes receipt {receipt}, which is not open")
            closed.add(receipt)
        elif entry["kind"] != "genesis" or entry["seq"] != 1:
            raise ExportError(f"entry {entry['seq']} is of an unknown kind; verify with a newer version")
    return scopes


def _known_budget(budget: Mapping[str, Any]) -> Mapping[str, Any]:
    """Refuse a budget with limits that are not known here, or that no ledger accepts."""
    if set(budget) != _BUDGET or budget["format"] != "budget/1":
        raise ExportError("an entry holds a budget of an unknown format; verify with a newer version")
    for name in ("epsilon", "delta", "total_epsilon", "caller_epsilon", "period_epsilon"):
        if budget[name] is not None or name in ("epsilon", "delta"):
            _positive(budget[name], least=math.ulp(0.0), most=_MAX_DELTA if name == "delta" else sys.float_info.max)
    period = budget["period_days"]
    if (budget["period_epsilon"] is None) != (period is None) or (period is not None and _whole(period) > _MAX_DAYS):
        raise ExportError("an entry holds a budget with half a period or an endless one; no ledger accepts it")
    if budget["unit"] not in _UNITS or budget["neighbours"] not in _SENSITIVITY:
        raise ExportError("an entry holds a budget for an unknown unit or relation; verify with a newer version")
    return budget


def _reserve(scope: _Scope, entry: Mapping[str, Any], facts: Mapping[str, Any]) -> int:
    """Charge one reservation; return how many uses it covers."""
    run, budget = facts["run"], scope.budget
    if (run["unit"], run["neighbours"]) != (budget["unit"], budget["neighbours"]):
        raise ExportError(f"entry {entry['seq']} charges another unit or relation than its budget")
    mechanism, uses = _mechanism(run)
    alone = facts["alone"]
    _compare({mechanism: uses}, alone["order"], budget["delta"], alone["epsilon"], f"the run in entry {entry['seq']}")
    if set(facts["orders"]) & set(scope.orders):
        raise ExportError(f"entry {entry['seq']} moves a Renyi order that was fixed before; the filter would not hold")
    scope.orders |= {name: float(order) for name, order in facts["orders"].items()}
    at = datetime.fromisoformat(entry["at"])
    scope.history.append((at, mechanism, uses))
    blocks = facts["blocks"]
    if not blocks or len(set(blocks)) != len(blocks):
        raise ExportError(f"entry {entry['seq']} names no block, or one twice")
    for account, limit in _limits(budget, blocks, entry["caller"]):
        order = scope.orders[account]
        divergence = uses * _divergence(mechanism, order)[1]
        if account == "period":
            since = at - timedelta(days=_whole(budget["period_days"]))
            spent = math.fsum(times * _divergence(one, order)[1] for when, one, times in scope.history if when > since)
        else:
            spent = scope.spent_at.get(account, 0.0) + divergence
            scope.spent_at[account] = spent
        proved = google_rdp.compute_epsilon([order], [spent], budget["delta"])[0]
        if proved > limit * (1 + _TOLERANCE):
            raise ExportError(f"entry {entry['seq']} passes the limit of {account}: {proved:.4f} of {limit:.4f}")
    for block in blocks:
        scope.blocks[block][mechanism] += uses
    scope.total[mechanism] += uses
    return _whole(run.get("steps", run.get("count")))


def _limits(budget: Mapping[str, Any], blocks: Sequence[str], caller: str) -> Iterator[tuple[str, float]]:
    for block in blocks:
        yield f"block {block}", budget["epsilon"]
        if budget["caller_epsilon"] is not None:
            yield f"caller {caller} {block}", budget["caller_epsilon"]
    for name in ("total", "period"):
        if budget[f"{name}_epsilon"] is not None:
            yield name, budget[f"{name}_epsilon"]


def _mechanism(run: Mapping[str, Any]) -> tuple[Mechanism, int]:
    """Return what dp-accounting knows the run as, and how often it was used."""
    sensitivity = _SENSITIVITY[run["neighbours"]]
    kind = run["event"]
    if kind not in _RUNS or set(run) != {"event", "unit", "neighbours", *_RUNS[kind]}:
        raise ExportError(f"an entry holds a mechanism that cannot be verified: {str(kind)[:40]}")
    if "clip_norm" in run:
        _positive(run["clip_norm"])
    if kind == "dp_sgd_run/1":
        rate = _positive(run["sampling_rate"], least=_MIN_RATE, most=1.0)
        if rate < 1 and sensitivity != 1:
            raise ExportError("an entry samples under replace, for which no bound is known")
        name = "gaussian" if rate == 1 else "sampled"
        return (name, _positive(run["noise_multiplier"]) / sensitivity, rate), _whole(run["steps"])
    if kind in ("gaussian_release/1", "gate_release/1"):
        return ("gaussian", _positive(run["noise_multiplier"]) / sensitivity, 1.0), _whole(run["count"])
    if kind == "laplace_release/1":
        return ("laplace", _positive(run["scale"]) / sensitivity, 1.0), _whole(run["count"])
    if kind == "matrix_factorisation_run/1" and run["neighbours"] != "add_or_remove":
        return ("gaussian", _positive(run["noise_multiplier"]) / sensitivity / _stream_sensitivity(run), 1.0), 1
    raise ExportError(f"an entry holds a mechanism that cannot be verified: {str(kind)[:40]}")


def _stream_sensitivity(run: Mapping[str, Any]) -> float:
    """Sum the columns of the square root at the earliest participations (arXiv:2405.13763, Theorem 2)."""
    steps, bands, apart = _whole(run["steps"]), _whole(run["bands"]), _whole(run["min_separation"])
    if not bands <= steps <= MAX_STREAM:
        raise ExportError(f"an entry holds a stream of {str(steps)[:20]} steps, which no device makes")
    column = [1.0]
    while len(column) < steps:
        column.append(column[-1] * (2 * len(column) - 1) / (2 * len(column)) if len(column) < bands else 0.0)
    change, expired = list(column), apart * _whole(run["max_participations"])
    for step in range(apart, steps):
        change[step] += change[step - apart] - (column[step - expired] if step >= expired else 0.0)
    return math.sqrt(math.fsum(value * value for value in change))


def _positive(value: object, least: float = _MIN_AMOUNT, most: float = _MAX_AMOUNT) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ExportError(f"the export holds {shown(value)} where an amount belongs")
    return float(value)


def _event(mechanism: Mechanism, uses: int) -> dp_event.DpEvent:
    name, noise, rate = mechanism
    one: dp_event.DpEvent = dp_event.LaplaceDpEvent(noise) if name == "laplace" else dp_event.GaussianDpEvent(noise)
    if name == "sampled":
        one = dp_event.PoissonSampledDpEvent(rate, one)
    return dp_event.SelfComposedDpEvent(one, uses)


@lru_cache(maxsize=100_000)
def _divergence(mechanism: Mechanism, order: float) -> tuple[float, float]:
    """Return the least and the largest Renyi divergence that one use may be charged with at one order.

    They differ by what dp-accounting leaves open. It rounds; and at fractional orders it cuts its series, overshoots or
    gives up, so there the log-moment is also bounded by the chord between the whole orders around: it is convex.
    """
    if not 1 < order <= MAX_ORDER:
        raise ExportError(f"order {order} is not one that the ledger uses")
    found = _google_divergence(mechanism, order)
    if mechanism[0] == "gaussian":
        return found, found
    if mechanism[0] == "laplace":  # Of a tiny pure epsilon only the bound order eps^2 / 2 survives rounding.
        pure = 1 / mechanism[1]
        return found - _ROUNDING, (order / 2 * pure * pure if pure < _TINY_PURE else found) + _ROUNDING
    slack = _SERIES_SLACK / (order - 1)
    if order == int(order):
        return found - slack, found + slack
    bound = _log_moment_bound(mechanism, order) / (order - 1)
    if math.isfinite(found) and found * (order - 1) > _FAINT:
        return min(found, bound) - slack, min(found, bound) + slack
    below = math.floor(order)
    return min(_google_divergence(mechanism, below) if below > 1 else 0.0, bound) - slack, bound + slack


def _log_moment_bound(mechanism: Mechanism, order: float) -> float:
    """Bound the log-moment at a fractional order by the chord between the whole ones, and by that of a mixture."""
    _, noise, rate = mechanism
    below, above = math.floor(order), math.floor(order) + 1
    ends = [(whole - 1) * _google_divergence(mechanism, whole) if whole > 1 else 0.0 for whole in (below, above)]
    chord = (above - order) * ends[0] + (order - below) * ends[1]
    lift = order * (order - 1) / 2 / noise / noise
    return min(chord, math.log1p(rate * math.expm1(lift))) if lift < 700 else chord


def _google_divergence(mechanism: Mechanism, order: float) -> float:
    accountant = google_rdp.RdpAccountant([order])
    accountant.compose(_event(mechanism, 1))
    return float(accountant.rdp[0])


def _compare(groups: Mapping[Mechanism, int], order: float, delta: float, claimed: float, what: str) -> None:
    """Refuse a claimed epsilon that is not what `groups` cost at `order`."""
    ranges = [(uses, _divergence(mechanism, float(order))) for mechanism, uses in groups.items()]
    least, most = (
        float(google_rdp.compute_epsilon([order], [max(0.0, math.fsum(n * r[end] for n, r in ranges))], delta)[0])
        for end in (0, 1)
    )
    if not least - _TOLERANCE * max(least, 1e-3) <= claimed <= most + _TOLERANCE * max(most, 1e-3):
        raise ExportError(f"the epsilon of {what} is {most:.6f}, the export claims {claimed:.6f}")


def _check_claims(name: str, scope: _Scope, claims: Mapping[str, Any]) -> float:
    budget = scope.budget
    if any(claims[field] != budget[field] for field in ("unit", "neighbours", "delta")):
        raise ExportError(f"the claims of scope {name} are for another unit, relation or delta than its budget")
    if set(claims["blocks"]) != set(scope.blocks):
        raise ExportError(f"the claims of scope {name} leave out a block that was charged, or invent one")
    for block, claim in claims["blocks"].items():
        _compare(scope.blocks[block], claim["order"], budget["delta"], claim["epsilon"], f"block {block}")
    _compare(scope.total, claims["total"]["order"], budget["delta"], claims["total"]["epsilon"], "all runs")
    worst = float(max((claim["epsilon"] for claim in claims["blocks"].values()), default=0.0))
    if claims["spent_rdp"] != worst:
        raise ExportError(f"the worst block of scope {name} spent {worst:.6f}, the export claims another figure")
    return worst


def _check_beside(name: str, scope: _Scope, claims: Mapping[str, Any], enforced: float) -> float:
    """Recompute the PLD figure of the blocks that could be the worst."""
    claimed = float(claims["spent_pld"])
    worst = 0.0
    for block in sorted(scope.blocks, key=lambda block: -float(claims["blocks"][block]["epsilon"])):
        if claims["blocks"][block]["epsilon"] <= worst:
            break
        bound = float(claims["blocks"][block]["epsilon"])
        if bound <= _MAX_BESIDE and _fits_a_grid(scope.blocks[block]):
            bound = _pld_epsilon(frozenset(scope.blocks[block].items()), scope.budget["delta"])
        worst = max(worst, bound)
    # The ledger states the exact value where all is Gaussian, and never more than RDP: so the grid may only add to it.
    if claimed > enforced * (1 + _TOLERANCE) or abs(min(worst, enforced) - claimed) > _BESIDE_TOLERANCE * worst + 1e-3:
        raise ExportError(f"the PLD epsilon of scope {name} is {worst:.6f}, the export claims {claimed:.6f}")
    return worst


def _fits_a_grid(groups: Mapping[Mechanism, int]) -> bool:
    gridded = {mechanism: uses for mechanism, uses in groups.items() if mechanism[0] != "gaussian"}
    if not gridded:
        return True  # One Gaussian, whatever their number.
    reach = max(1 / noise if name == "laplace" else 0.5 / noise / noise + 10 / noise for name, noise, _ in gridded)
    fits = max(gridded.values()) <= _MAX_BESIDE_USES and len(groups) <= _MAX_BESIDE_GROUPS
    return fits and reach <= _MAX_BESIDE_LOSS


@lru_cache(maxsize=1024)
def _pld_epsilon(groups: frozenset[tuple[Mechanism, int]], delta: float) -> float:
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    for mechanism, uses in sorted(groups):
        accountant.compose(_event(mechanism, uses))
    return float(accountant.get_epsilon(delta))


def _whole(value: object) -> int:
    if type(value) is not int or not 1 <= value <= _MAX_USES:
        raise ExportError(f"the export holds {shown(value)} where a count belongs")
    return value
