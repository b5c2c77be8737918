"""A ledger in, one self-contained page for a person out: no script, no network, works when mailed and when printed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from privacy.ledger import Ledger
from privacy.statement import statement
from privacy.whole_file import write_whole

__all__ = ["render", "write_report"]

TEMPLATES = Path(__file__).parent / "templates"
MOST_BLOCKS = 20  # Bars; more would be a wall. The least spent ones are counted in a line.
MOST_RUNS = 200  # Rows; the ledger's export has them all.
MOST_POINTS = 400  # Corners of a line; a phone has about as many pixels.
DASH = "–"
THIN = "\u202f"  # A narrow space that does not break.
MECHANISMS = {
    "dp_sgd_run/1": "Private training (DP-SGD)",
    "gaussian_release/1": "Figure with Gaussian noise",
    "laplace_release/1": "Figure with Laplace noise",
    "gate_release/1": "Private gate",
    "matrix_factorisation_run/1": "Private training on a stream",
}
UNITS = {"record": "one record", "conversation": "one conversation", "day": "one day"}
NEIGHBOURS = {
    "zero_out": "one of them replaced by an empty one",
    "add_or_remove": "one of them added or taken away",
    "replace": "one of them replaced by any other",
}
PROTECTION = {
    "keyring": "the system’s keyring remembers where the ledger ended, so an older copy is noticed",
    "file": "a file outside the home remembers where the ledger ended, so an older copy is noticed by who cannot "
    "change that file too",
    "none": "nothing outside the file remembers where the ledger ended: an older copy would not be noticed",
}


def write_report(ledger: Ledger, path: Path, audits: Sequence[Mapping[str, Any]] | None = None) -> None:
    """Write the report on `ledger` to `path`, whole or not at all, readable by its owner only.

    Args:
        ledger: Open; it is verified again.
        path: The HTML file; an older one is replaced.
        audits: What `AuditReport.to_dict` wrote, oldest first.

    Raises:
        LedgerTamperedError: The ledger does not verify; nothing was written.
        ReportError: The file cannot be written; an older one stays as it was.
    """
    write_whole(path, render(statement(ledger, audits or ())))


def render(said: Mapping[str, Any]) -> str:
    """Return the page that says what `privacy.statement.statement` found."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "upwards": upwards, "day": day, "moment": moment, "chance": chance}
    return environment.get_template("report.html.jinja").render(_view(said))


def _view(said: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows, from what is to be said."""
    scopes = [_scope(name, scope, said) for name, scope in said["scopes"].items()]
    runs = [_run(run) for run in reversed(said["runs"])]
    audits = list(said["audits"])
    return {
        **{name: said[name] for name in ("at", "ledger", "since", "entries", "head", "open_runs", "not_covered")},
        "scopes": scopes,
        "worst": max(scopes, key=lambda scope: scope["spent"] / scope["limit"], default=None),
        "runs": runs[:MOST_RUNS],
        "older_runs": max(0, len(runs) - MOST_RUNS),
        "run_count": len(runs),
        "protection": PROTECTION.get(said["rollback_protection"], said["rollback_protection"]),
        "rollback": said["rollback_protection"],
        "clock": said["clock_set_back_seconds"],
        "validity": said["validity"],
        "audit": _audit(audits[-1]) if audits else None,
        "older_audits": [
            {"at": audit["at"], "passed": audit["passed"], "checks": len(audit["findings"])}
            for audit in reversed(audits[:-1])
        ],
    }


# --- numbers as people read them -------------------------------------------------------------------------------------


def number(value: float | None, digits: int = 2) -> str:
    """A number with so many digits after the point and a real minus sign."""
    if value is None or not math.isfinite(value):
        return DASH
    text = f"{value:,.{digits}f}"
    return (text if text.strip("-0.,") else text.lstrip("-")).replace("-", "−")


def upwards(value: float | None, digits: int = 2) -> str:
    """The same, rounded up: what was spent is never made to look smaller."""
    if value is None or not math.isfinite(value):
        return DASH
    return number(math.ceil(value * 10**digits - 1e-9) / 10**digits, digits)


def day(at: str) -> str:
    """The day of a recorded time: 24 Nov 2026."""
    then = datetime.fromisoformat(at)
    return f"{then.day} {then:%b %Y}"


def moment(at: str) -> str:
    """A recorded time: 24 Nov 2026, 05:58 UTC."""
    return f"{day(at)}, {datetime.fromisoformat(at):%H:%M} UTC"


def chance(probability: float) -> str:
    """A small probability as people say it: 1 in 100,000."""
    return f"1 in {round(1 / probability):,}" if 0 < probability < 1 else DASH


def certainty(epsilon: float) -> str:
    """How sure somebody can become who started at a coin flip: e^epsilon / (1 + e^epsilon), rounded up."""
    doubt = 100 * math.exp(-epsilon) / (1 + math.exp(-epsilon))  # In percent.
    digits = min(6, max(1, math.ceil(-math.log10(max(doubt, 1e-6)))))
    return f"{upwards(100 - doubt, digits)}{THIN}%"


# --- what is drawn ---------------------------------------------------------------------------------------------------


def _scope(name: str, scope: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    budget, spent = scope["budget"], scope["spent_rdp"]
    limits = {
        "All runs together": budget["total_epsilon"],
        f"In any {budget['period_days']} days": budget["period_epsilon"],
        "Any one caller": budget["caller_epsilon"],
    }
    return {
        "name": name,
        "limit": budget["epsilon"],
        "delta": budget["delta"],
        "unit": UNITS[budget["unit"]],
        "neighbours": NEIGHBOURS[budget["neighbours"]],
        "spent": spent,
        "beside": scope["spent_pld"],
        "left": scope["left"],
        "in_total": scope["in_total"],
        "share": _percent(spent, budget["epsilon"]),
        "certainty": certainty(spent),
        "certainty_at_limit": certainty(budget["epsilon"]),
        "limits": {words: limit for words, limit in limits.items() if limit is not None},
        "timeline": _timeline(scope["history"], said["at"]),
        "blocks": _blocks(scope["blocks"], budget["epsilon"]),
    }


def _timeline(history: Sequence[Mapping[str, Any]], until: str) -> dict[str, Any] | None:
    """Lines from left (first entry) to right (now), in a box of 1000 by 1000 that the page stretches."""
    points = [point for point in history if point["spent"] or point["in_total"]]
    if not points:
        return None
    start, end = _seconds(history[0]["at"]), max(_seconds(until), _seconds(history[-1]["at"]))
    top = max(max(point[key] for key in ("spent", "in_total", "budget")) for point in history) * 1.08
    corners = [
        {
            "x": round((_seconds(point["at"]) - start) / max(end - start, 1e-9) * 1000, 2),
            **{key: round(1000 - point[key] / top * 1000, 2) for key in ("spent", "in_total", "budget")},
        }
        for point in _thinned(history)
    ]
    step = _round_step(top / 4)
    ticks = [round(count * step, 12) for count in range(1, int(top / step) + 1)]
    labels = [_label(start + (end - start) * share, end - start, middle=share == 0.5) for share in (0.0, 0.5, 1.0)]
    return {
        "paths": {key: _stairs(corners, key) for key in ("spent", "in_total", "budget")},
        "ticks": [{"y": round(100 - tick / top * 100, 3), "text": f"{tick:g}"} for tick in ticks],
        "days": labels,
        "budget_y": round(corners[-1]["budget"] / 10, 3),
    }


def _stairs(corners: Sequence[Mapping[str, float]], key: str) -> str:
    """The path of a figure that holds until the next point, drawn to the right end."""
    first, *rest = corners
    return f"M{first['x']:g} {first[key]:g}" + "".join(f"H{c['x']:g}V{c[key]:g}" for c in rest) + "H1000"


def _thinned(history: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At most `MOST_POINTS` points, the last one always; figures only rise, so what lies between is bounded by both."""
    stride = max(1, math.ceil(len(history) / MOST_POINTS))
    return [*history[:-1:stride], history[-1]]


def _blocks(spent: Mapping[str, float], limit: float) -> dict[str, Any]:
    worst = sorted(spent.items(), key=lambda item: (-item[1], item[0]))
    shown = dict(worst[:MOST_BLOCKS])
    return {
        "rows": [{"name": name, "spent": shown[name], "share": _percent(shown[name], limit)} for name in sorted(shown)],
        "more": len(worst) - len(shown),
        "most_of_more": worst[MOST_BLOCKS][1] if len(worst) > MOST_BLOCKS else None,
        "count": len(worst),
    }


def _run(run: Mapping[str, Any]) -> dict[str, Any]:
    event = run["event"]
    noise, rate = event.get("noise_multiplier", event.get("scale")), event.get("sampling_rate", 1.0)
    details = [f"noise {noise:.4g} × the most one can add", f"{run['uses']:,} step{'s' * (run['uses'] != 1)}"]
    if rate < 1:
        details.append(f"each joins a step with chance {rate:.3g}")
    blocks = run["blocks"]
    return {
        "at": run["at"],
        "mechanism": MECHANISMS.get(event["event"], event["event"]),
        "details": ", ".join(details),
        "caller": run["caller"],
        "scope": run["scope"],
        "blocks": blocks[0] if len(blocks) == 1 else f"{len(blocks)} blocks: {min(blocks)} to {max(blocks)}",
        "epsilon": run["epsilon_alone"],
        "drawn": f"{run['drawn']:,} of {run['uses']:,}",
        "outcome": run["outcome"] or "never closed; stays spent",
        "open": run["outcome"] is None,
    }


def _audit(audit: Mapping[str, Any]) -> dict[str, Any]:
    findings = [dict(finding) for finding in audit["findings"]]
    return {
        "at": audit["at"],
        "passed": audit["passed"],
        "findings": findings,
        "held": sum(finding["passed"] for finding in findings),
        "versions": ", ".join(f"{name} {version}" for name, version in audit["versions"].items()),
        "seconds": audit["seconds"],
        "canaries": _canaries(audit["canaries"]) if audit.get("canaries") else None,
        "membership": audit.get("membership"),
    }


def _canaries(found: Mapping[str, Any]) -> dict[str, Any]:
    shown = max(found["epsilon_at_least"], found["gaussian_epsilon_at_least"] or 0.0)
    provable = max(found["largest_provable_epsilon"], found["largest_provable_gaussian_epsilon"] or 0.0)
    top = max(shown, provable, found["claimed_epsilon"]) * 1.04
    return {
        **found,
        "shown": shown,
        "provable": provable,
        "rows": [
            {"name": name, "value": value, "share": _percent(value, top), "kind": kind}
            for name, value, kind in (
                ("Shown by the attack", shown, "shown"),
                ("Charged by the ledger", found["claimed_epsilon"], "charged"),
                ("Most it could have shown", provable, "provable"),
            )
        ],
    }


def _percent(part: float, whole: float) -> float:
    return round(min(100.0, max(0.0, 100 * part / whole)), 3)


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


def _label(seconds: float, span: float, *, middle: bool) -> str:
    """A day, or where the whole line is hours long, a time; short enough for three on a phone."""
    at = datetime.fromtimestamp(seconds, tz=UTC)
    if span >= 2 * 86_400:
        return f"{at.day} {at:%b %Y}"
    return f"{at:%H:%M}" if middle else f"{at.day} {at:%b %H:%M}"


def _round_step(step: float) -> float:
    """The 1, 2 or 5 times a power of ten that is at least `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next((factor * power for factor in (1.0, 2.0, 5.0) if factor * power >= step * (1 - 1e-9)), 10 * power)
