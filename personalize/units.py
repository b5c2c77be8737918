"""Records and a unit of privacy in, the number of each record's unit out: what is clipped as one, and hidden as one.

A unit never reaches beyond its block, because blocks are charged apart and compose in parallel: a conversation of three
days is three units, each hidden by what its own block was charged. Numbers depend on public facts only: block, day,
contact, and which records are pieces of one longer text.
"""

from collections.abc import Hashable, Sequence
from datetime import UTC

from personalize.store import Record
from privacy import Unit

__all__ = ["units_of"]


def units_of(records: Sequence[Record], unit: Unit) -> list[int] | None:
    """Number the units of records: equal numbers are one unit.

    Args:
        records: Of any blocks.
        unit: RECORD: pieces of one longer text are one unit. CONVERSATION: all with one contact; a record without a
            contact is its own. DAY: all of one UTC day.

    Returns:
        One number a record, in their order; None where each record is a unit of its own.
    """
    numbers: dict[Hashable, int] = {}
    named = [numbers.setdefault((record.block, *_name(record, unit)), len(numbers)) for record in records]
    return None if unit is Unit.RECORD and len(numbers) == len(records) else named


def _name(record: Record, unit: Unit) -> tuple[str, ...]:
    experience = record.experience
    if unit is Unit.DAY:
        return ("day", experience.at.astimezone(UTC).date().isoformat())
    if unit is Unit.CONVERSATION and experience.contact is not None:
        return ("contact", " ".join(experience.contact.casefold().split()))
    if experience.part_of is not None:
        return ("text", experience.part_of)
    return ("record", record.id)
