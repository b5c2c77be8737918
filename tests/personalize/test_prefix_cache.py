"""What the frozen layers made of a record: kept sealed, found again, bound to base, cut and tokens, gone with it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from personalize import prefix_cache
from personalize.forward import Encoded, encode, prefixes
from personalize.prefix_cache import kept_prefixes
from personalize.store import Store
from tests.nights import DIGEST, PLAN, SPEC, one_day, opened_learner, taught_model, tiny_base
from tests.tiny import tiny_tokenizer

MODEL, KEY = taught_model(), bytes(range(32))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "experience.db", key=KEY) as opened:
        opened.add_all([(item, "b") for item in one_day()])
        yield opened


def named(store: Store) -> list[tuple[str, Encoded]]:
    tokenizer = tiny_tokenizer()
    return [
        (item.id, encode(tokenizer, item.experience.prompt, item.experience.answer, max_tokens=40))
        for item in store.all()
    ]


class Counted:
    """How many records went through the frozen layers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.records = 0

        def counted(model: Any, records: Any, *, cut: int) -> Any:
            self.records += len(records)
            return prefixes(model, records, cut=cut)

        monkeypatch.setattr(prefix_cache, "prefixes", counted)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def kept(store: Store, *, digest: str = DIGEST, cut: int = SPEC.cut) -> list[Any]:
    return list(kept_prefixes(store, MODEL, named(store), cut=cut, base_digest=digest))


def test_the_second_time_nothing_is_computed_and_every_bit_is_the_same(store: Store, counted: Counted) -> None:
    first = kept(store)
    assert counted.records == 24
    second = kept(store)
    assert counted.records == 24
    for one, other, (_, record) in zip(first, second, named(store), strict=True):
        assert torch.equal(one.hidden, other.hidden)
        assert one.record == other.record == record


def test_only_what_is_missing_is_computed(store: Store, counted: Counted) -> None:
    kept(store)
    store.add_all([(item, "c") for item in one_day("2026-11-21", count=3)])
    assert len(kept(store)) == 27
    assert counted.records == 27


@pytest.mark.parametrize("other", [{"digest": "sha256:" + "6" * 64}, {"cut": SPEC.cut - 1}])
def test_another_base_or_cut_finds_nothing(store: Store, counted: Counted, other: dict[str, Any]) -> None:
    kept(store)
    kept(store, **other)
    assert counted.records == 48


def test_other_tokens_of_the_same_record_find_nothing(store: Store, counted: Counted) -> None:
    kept(store)
    shorter = [(name, replace(record, ids=record.ids[:-1])) for name, record in named(store)]
    made = list(kept_prefixes(store, MODEL, shorter, cut=SPEC.cut, base_digest=DIGEST))
    assert counted.records == 48
    assert all(len(prefix.hidden) == len(record.ids) for prefix, (_, record) in zip(made, shorter, strict=True))


def test_it_lies_sealed_and_goes_with_its_record(store: Store) -> None:
    made = kept(store)
    gone = named(store)[0][0]
    raw = made[0].hidden.numpy().tobytes()
    assert len(raw) > 500
    for file in store.path.parent.glob("experience.db*"):
        assert raw[:64] not in file.read_bytes()
    sealed = [row[0] for row in store._connection.execute("SELECT payload FROM cache WHERE record_id = ?", [gone])]
    assert len(sealed) == 1
    store.forget(ids=[gone])
    for file in store.path.parent.glob("experience.db*"):
        assert sealed[0][:64] not in file.read_bytes(), "a forgotten record's activations are still on the disk"


def test_a_record_that_was_forgotten_meanwhile_gets_no_value(store: Store) -> None:
    rows = named(store)
    store.forget(ids=[rows[0][0]])
    made = list(kept_prefixes(store, MODEL, rows, cut=SPEC.cut, base_digest=DIGEST))
    assert len(made) == 24
    assert store._connection.execute("SELECT COUNT(*) FROM cache").fetchone() == (23,)


def test_the_oldest_values_go_where_they_would_be_too_many(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_cache, "MAX_BYTES", 20_000)
    kept(store)
    sizes = store._connection.execute("SELECT record_id, LENGTH(payload) FROM cache ORDER BY rowid").fetchall()
    assert 0 < sum(size for _, size in sizes) <= 20_000
    order = [name for name, _ in named(store)]
    assert [name for name, _ in sizes] == order[-len(sizes) :], "the newest are kept"


def test_a_cache_that_cannot_be_written_or_opened_is_passed_over(store: Store, counted: Counted) -> None:
    kept(store)
    store._connection.execute("UPDATE cache SET payload = x'00'")
    store._connection.commit()
    store._connection.execute(
        "CREATE TRIGGER full BEFORE INSERT ON cache BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
    )
    assert len(kept(store)) == 24
    assert counted.records == 48


def test_a_night_and_its_retraining_run_the_frozen_layers_once(tmp_path: Path, counted: Counted) -> None:
    learner = opened_learner(tmp_path / "home", tiny_base())
    learner.remember(one_day())
    learner.learn(PLAN)
    assert counted.records == 24
    learner.forget(ids=[next(iter(learner.store.all())).id], exact=True)
    assert learner.learn(PLAN).records == 23
    assert counted.records == 24
    learner.close()
