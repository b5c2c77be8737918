"""Which adapter kind a night takes: by a table that the bench wrote, never by a private record."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from personalize import choice as module
from personalize.choice import chosen_kind
from personalize.errors import TrainingError
from personalize.trainable import KINDS

ROWS = [
    {"kind": "xs", "epsilon": 2.0, "records": [1, 99], "people": 9, "gain": 0.001},
    {"kind": "basis", "epsilon": 2.0, "records": [1, 99], "people": 9, "gain": 0.01},
    {"kind": "xs", "epsilon": 8.0, "records": [100, 100_000], "people": 9, "gain": 0.03},
    {"kind": "basis", "epsilon": 8.0, "records": [100, 100_000], "people": 9, "gain": 0.02},
]
ALL = ("xs", "basis")


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_table", lambda: ROWS)


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("records", "epsilon", "available", "kind"),
    [
        (50, 2.0, ALL, "basis"),
        (50, 2.0, ("xs",), "xs"),
        (300, 8.0, ALL, "xs"),
        (300, 1.0, ALL, "xs"),
        (120, 100.0, ("basis",), "basis"),
        (200_000, 8.0, ALL, "xs"),
    ],
)
def test_the_kind_that_gained_most_nearby_is_taken(
    records: int, epsilon: float, available: tuple[str, ...], kind: str
) -> None:
    assert chosen_kind(records=records, epsilon=epsilon, available=available) == kind


@pytest.mark.usefixtures("table")
def test_what_was_never_measured_is_not_chosen() -> None:
    with pytest.raises(TrainingError, match="--kind"):
        chosen_kind(records=50, epsilon=2.0, available=("lora",))


def test_the_shipped_table_names_known_kinds_and_how_many_people_stand_behind_it() -> None:
    table = json.loads((Path(module.__file__).parent / module.TABLE).read_text())
    assert table["format"] == module.FORMAT
    assert {row["kind"] for row in table["rows"]} <= set(KINDS)
    assert all(row["people"] >= 1 and row["records"][0] <= row["records"][1] for row in table["rows"])


@pytest.mark.parametrize("pick", [min, max])
def test_the_shipped_table_has_a_kind_for_every_night(pick: Callable[..., float]) -> None:
    for records in (1, 50, 300, 5000):
        assert chosen_kind(records=records, epsilon=pick(0.1, 8.0), available=KINDS) in KINDS
        assert chosen_kind(records=records, epsilon=pick(0.1, 8.0), available=("xs",)) == "xs"
