import hashlib
import json
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy import chain
from privacy.chain import Entry, Head
from privacy.errors import LedgerTamperedError

KEY = b"k" * 32


def linked(count: int = 3) -> list[Entry]:
    entries, head = [], Head()
    for number in range(count):
        entry = chain.link(
            head,
            key=KEY,
            at=f"2026-01-0{number + 1}",
            kind="draw",
            scope="s",
            caller="c",
            receipt="r",
            body={"n": number},
        )
        entries.append(entry)
        head = Head(seq=entry.seq, hash=entry.hash, at=entry.at)
    return entries


def follow(entries: list[Entry], key: bytes = KEY) -> Head:
    head = Head()
    for entry in entries:
        head = chain.check(entry, head, key=key)
    return head


def test_what_is_linked_follows() -> None:
    entries = linked()
    assert follow(entries) == Head(seq=3, hash=entries[-1].hash, at="2026-01-03")


@pytest.mark.parametrize("name", [field.name for field in fields(Entry)])
def test_a_change_of_any_field_of_any_entry_is_noticed(name: str) -> None:
    for index in range(3):
        entries = linked()
        value = getattr(entries[index], name)
        entries[index] = replace(entries[index], **{name: value + 1 if name == "seq" else value[:-1] + "x"})
        with pytest.raises(LedgerTamperedError):
            follow(entries)


def test_a_missing_a_doubled_and_a_swapped_entry_are_noticed() -> None:
    one, two, three = linked()
    for altered in ([one, three], [one, one, two], [two, one, three], [one, two, two]):
        with pytest.raises(LedgerTamperedError):
            follow(altered)


def test_time_never_runs_backwards() -> None:
    one = linked(1)[0]
    head = Head(seq=1, hash=one.hash, at=one.at)
    early = chain.link(head, key=KEY, at="2025-12-31", kind="draw", scope="", caller="", receipt="", body={})
    with pytest.raises(LedgerTamperedError, match="dated before"):
        chain.check(early, head, key=KEY)


def test_another_key_cannot_have_written_it() -> None:
    with pytest.raises(LedgerTamperedError, match="not written by this device"):
        follow(linked(), key=b"x" * 32)


def test_anybody_can_recompute_a_hash_from_the_text_alone() -> None:
    entry = linked(1)[0]
    text = json.dumps([1, "2026-01-01", "draw", "s", "c", "r", '{"n":0}', "0" * 64], separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == entry.hash


@given(st.dictionaries(st.text(), st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()))
def test_canonical_json_reads_back_and_does_not_depend_on_order(facts: dict[str, object]) -> None:
    text = chain.canonical(facts)
    assert json.loads(text) == facts
    assert chain.canonical(dict(reversed(facts.items()))) == text


def test_canonical_json_has_no_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        chain.canonical({"epsilon": float("nan")})


def test_seals_of_heads_differ_from_seals_of_entries_and_by_position() -> None:
    entry = linked(1)[0]
    seals = {entry.mac, *(chain.seal_head(Head(seq=seq, hash=entry.hash), key=KEY) for seq in (1, 2))}
    assert len(seals) == 3
    assert chain.key_fingerprint(KEY) != chain.key_fingerprint(b"x" * 32)


@pytest.mark.parametrize("body", ["", "[1]", "{", "null", "[" * 100_000])
def test_a_body_that_is_no_object_is_refused(body: str) -> None:
    with pytest.raises(LedgerTamperedError):
        replace(linked(1)[0], body=body).facts()
