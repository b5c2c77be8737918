"""How many records, and at what epsilon, in; the adapter kind that gained most in the bench out.

The table is public and was written by `python -m tests.bench.personal --table` from people who are not the user, so
choosing by it costs no privacy; the number of records is public where a neighbour is an emptied record.
"""

import json
import math
from collections.abc import Collection
from functools import lru_cache
from importlib import resources
from typing import Any

from personalize.errors import TrainingError

__all__ = ["chosen_kind"]

FORMAT = "kinds/1"
TABLE = "kinds.json"


def chosen_kind(*, records: int, epsilon: float, available: Collection[str]) -> str:
    """The kind with the largest mean gain in the nearest row of the table.

    Args:
        records: Records of the night.
        epsilon: Of the night, in nats; the nearest epsilon measured is taken. What no policy allows is refused later.
        available: Kinds that can be used here; `basis` needs directions.

    Raises:
        TrainingError: None of them was measured; nothing was started.
    """
    rows = [row for row in _table() if row["kind"] in available]
    if not rows:
        raise TrainingError(f"no kind of {', '.join(sorted(available))} was measured; choose one with --kind")

    def distance(row: dict[str, Any]) -> tuple[float, float]:
        outside = max(row["records"][0] - records, records - row["records"][1], 0)
        return outside, abs(row["epsilon"] - epsilon) if math.isfinite(epsilon) else 0.0

    nearest = min(map(distance, rows))
    return str(max((row for row in rows if distance(row) == nearest), key=lambda row: row["gain"])["kind"])


@lru_cache(maxsize=1)
def _table() -> list[dict[str, Any]]:
    table = json.loads(resources.files("personalize").joinpath(TABLE).read_text())
    assert table["format"] == FORMAT, table["format"]
    return list(table["rows"])
