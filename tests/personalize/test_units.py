"""Which records are clipped as one: pieces of a text, a conversation, a day; never beyond a block."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from personalize.learner import LIFETIME
from personalize.sources import from_text
from personalize.store import Record
from personalize.units import units_of
from privacy import BudgetError, Unit, epsilon
from tests.nights import PLAN, one_day, opened_learner, tiny_base


def record(number: int, *, block: str = "b", day: str = "2026-11-20", **fields: Any) -> Record:
    experience = replace(one_day(day)[0], **fields)
    return Record(id=f"{number:032x}", block=block, trained_run=None, experience=experience)


def test_whole_records_are_units_of_their_own() -> None:
    assert units_of([record(1), record(2, contact="Ana"), record(3, contact="Ana")], Unit.RECORD) is None
    assert units_of([], Unit.RECORD) is None


def test_pieces_of_one_text_are_one_unit() -> None:
    assert units_of([record(1, part_of="t"), record(2), record(3, part_of="t")], Unit.RECORD) == [0, 1, 0]
    assert units_of([record(1, part_of="t"), record(2, part_of="t", block="c")], Unit.RECORD) is None, (
        "a unit does not reach beyond its block"
    )


def test_a_conversation_is_a_contact_in_a_block() -> None:
    records = [
        record(1, contact="Ana"), record(2), record(3, contact=" ana "), record(4, contact="Bob"), record(5),
        record(6, contact="Ana", block="c"), record(7, part_of="t"), record(8, part_of="t"),
    ]  # fmt: skip
    assert units_of(records, Unit.CONVERSATION) == [0, 1, 0, 2, 3, 4, 5, 5]


def test_a_day_is_a_day_of_a_block() -> None:
    records = [record(1), record(2, contact="Ana"), record(3, day="2026-11-21"), record(4, block="b+")]
    assert units_of(records, Unit.DAY) == [0, 0, 1, 2]


def test_a_long_paragraph_is_imported_as_pieces_of_one_unit(tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text("word " * 2_000 + "\n\nshort one\n\n" + "other " * 2_000)
    found = from_text(file)
    names = [one.part_of for one in found]
    assert names.count(None) == 1
    assert len({name for name in names if name}) == 2
    opened = opened_learner(tmp_path / "home")
    opened.remember(found)
    assert [one.experience.part_of for one in opened.store.all()] == names, "the store keeps it, sealed"
    opened.close()


def test_a_night_for_conversations_is_charged_reported_and_kept_by_the_ledger(tmp_path: Path) -> None:
    learner = opened_learner(tmp_path / "home", tiny_base())
    plan = replace(PLAN, unit=Unit.CONVERSATION)
    items = [replace(item, contact=f"person {number // 2}") for number, item in enumerate(one_day(count=44))]
    assert learner.learnable(plan) == 0
    learner.remember(items)
    assert learner.learnable(plan) == 22
    report = learner.learn(plan)
    assert (report.records, report.unit) == (22, "conversation")
    assert "each of 22 conversations" in report.summary()
    assert report.epsilon == pytest.approx(epsilon(plan.run(), delta=1e-5, accountant="rdp"))
    assert learner.ledger.budget().unit is Unit.CONVERSATION
    assert learner.ledger.budget().epsilon == LIFETIME.epsilon
    learner.remember([replace(item, at=item.at + timedelta(days=2)) for item in items])
    with pytest.raises(BudgetError, match="conversation"):
        learner.learn(PLAN)
    learner.close()
    again = opened_learner(tmp_path / "home", tiny_base())
    assert again.status()["unit"] == "conversation"
    again.close()


def test_two_units_are_too_few_however_many_records_they_have(tmp_path: Path) -> None:
    learner = opened_learner(tmp_path / "home", tiny_base())
    learner.remember(one_day(count=40))
    with pytest.raises(Exception, match="1 fresh days, a night needs 20; remember 19 more"):
        learner.learn(replace(PLAN, unit=Unit.DAY))
    learner.close()
