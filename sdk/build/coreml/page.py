"""A package's hits and costs in, one self-contained page for a person out: no script, no network, also on paper."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from privacy.whole_file import replace_whole
from sdk.build.coreml.lint import Hit, standing
from sdk.build.coreml.roofline import Cost, Total, Unit, by_block, total
from sdk.build.coreml.rules import RULES
from sdk.errors import PackageError

__all__ = ["grouped", "render", "write_lint_page"]

TEMPLATES = Path(__file__).parent / "templates"
SLOWEST = 12
"""Operations of a function that are listed."""


def write_lint_page(path: Path, name: str, hits: Sequence[Hit], costs: Sequence[Cost], unit: Unit) -> None:
    """Write the page, whole or not at all.

    Raises:
        PackageError: The file cannot be written; an older page stays as it was.
    """
    try:
        replace_whole(path, render(name, hits, costs, unit).encode())
    except OSError as cause:
        raise PackageError(f"cannot write the page to {path}: {cause.strerror}; choose another place") from cause


def render(name: str, hits: Sequence[Hit], costs: Sequence[Cost], unit: Unit) -> str:
    """The page of one package."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(  # The look is that of the privacy report; only what it lacks stands here.
            [jinja2.FileSystemLoader(TEMPLATES), jinja2.PackageLoader("privacy", "templates")]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    left = standing(hits)
    return environment.get_template("lint.html.jinja").render(
        name=name,
        unit=unit,
        errors=sum(hit.severity == "error" for hit in left),
        warnings=sum(hit.severity == "warning" for hit in left),
        rules=grouped(hits),
        functions=[
            _function(costs, function, blocks, unit) for function, blocks in by_block(list(costs), unit).items()
        ],
    )


def grouped(hits: Sequence[Hit]) -> list[dict[str, Any]]:
    """One row for all hits of one rule in one function that are accepted for one reason, in the order of the hits."""
    groups: dict[tuple[str, str, str], list[Hit]] = {}
    for hit in hits:
        groups.setdefault((hit.rule, hit.function, hit.reason), []).append(hit)
    return [
        {
            "rule": rule,
            "function": function or "package",
            "reason": reason,
            "severity": found[0].severity,
            "says": RULES[rule].says,
            "source": RULES[rule].source,
            "places": len(found),
            "first": f"{found[0].operation} {found[0].tensor} ({found[0].detail})",
            "line": found[0].line,
        }
        for (rule, function, reason), found in groups.items()
    ]


def _function(costs: Sequence[Cost], name: str, blocks: dict[str, Total], unit: Unit) -> dict[str, Any]:
    mine = [cost for cost in costs if cost.function == name]
    whole = total(mine, unit)
    slowest = sorted(mine, key=lambda cost: cost.seconds(unit), reverse=True)[:SLOWEST]
    return {
        "name": name,
        "whole": _shown(whole, whole),
        "blocks": [{"name": block, **_shown(made, whole)} for block, made in blocks.items()],
        "slowest": [
            {
                "kind": cost.kind,
                "output": cost.output,
                "line": cost.line or cost.block,
                "microseconds": f"{1e6 * cost.seconds(unit):,.1f}",
                "bound": cost.bound(unit),
                "flops": f"{cost.flops / 1e6:,.1f}",
                "bytes": f"{(cost.weights + cost.moved) / 1e3:,.1f}",
            }
            for cost in slowest
        ],
    }


def _shown(made: Total, whole: Total) -> dict[str, Any]:
    return {
        "operations": f"{made.operations:,}",
        "flops": f"{made.flops / 1e6:,.1f}",
        "weights": f"{made.weights / 1e6:,.2f}",
        "moved": f"{made.moved / 1e6:,.2f}",
        "milliseconds": f"{1e3 * made.seconds:,.3f}",
        "share": round(100 * made.seconds / whole.seconds, 2) if whole.seconds else 0.0,
    }
