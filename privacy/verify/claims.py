"""What a scope owes and what its export claims in; the figures that follow, or a refusal, out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from privacy.errors import ExportError
from privacy.verify.mechanisms import TOLERANCE, compare, fits_a_grid, pld_epsilon
from privacy.verify.replay import Scope

__all__ = ["check_beside", "check_claims"]

_BESIDE_TOLERANCE = 0.01  # Relative: two loss grids may differ.
_MAX_BESIDE = 5_000.0  # Epsilon beyond which no loss grid fits in memory, and no figure means anything.


def check_claims(name: str, scope: Scope, claims: Mapping[str, Any]) -> float:
    """Return the epsilon of the worst block by RDP, if all that the export claims for the scope follows."""
    budget = scope.budget
    if any(claims[field] != budget[field] for field in ("unit", "neighbours", "delta")):
        raise ExportError(f"the claims of scope {name} are for another unit, relation or delta than its budget")
    if set(claims["blocks"]) != set(scope.blocks):
        raise ExportError(f"the claims of scope {name} leave out a block that was charged, or invent one")
    for block, claim in claims["blocks"].items():
        compare(scope.blocks[block], claim["order"], budget["delta"], claim["epsilon"], f"block {block}")
    compare(scope.total, claims["total"]["order"], budget["delta"], claims["total"]["epsilon"], "all runs")
    worst = float(max((claim["epsilon"] for claim in claims["blocks"].values()), default=0.0))
    if claims["spent_rdp"] != worst:
        raise ExportError(f"the worst block of scope {name} spent {worst:.6f}, the export claims another figure")
    return worst


def check_beside(name: str, scope: Scope, claims: Mapping[str, Any], enforced: float) -> float:
    """Recompute the PLD figure of the blocks that could be the worst."""
    claimed = float(claims["spent_pld"])
    worst = 0.0
    for block in sorted(scope.blocks, key=lambda block: -float(claims["blocks"][block]["epsilon"])):
        if claims["blocks"][block]["epsilon"] <= worst:
            break
        bound = float(claims["blocks"][block]["epsilon"])
        if bound <= _MAX_BESIDE and fits_a_grid(scope.blocks[block]):
            bound = pld_epsilon(frozenset(scope.blocks[block].items()), scope.budget["delta"])
        worst = max(worst, bound)
    # The ledger states the exact value where all is Gaussian, and never more than RDP: so the grid may only add to it.
    if claimed > enforced * (1 + TOLERANCE) or abs(min(worst, enforced) - claimed) > _BESIDE_TOLERANCE * worst + 1e-3:
        raise ExportError(f"the PLD epsilon of scope {name} is {worst:.6f}, the export claims {claimed:.6f}")
    return worst
