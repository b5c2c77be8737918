import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from personalize.database import _PRAGMAS
from personalize.errors import StoreError
from personalize.experience import Experience
from personalize.store import Forgotten, Store

KEY = b"k" * 32
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
WINDOW_BYTES = 16  # So long a piece of random bytes cannot be there by chance.


def said(length: int = 30, *, minutes: int = 0, contact: str | None = None) -> Experience:
    return Experience(prompt="", answer="x" * length, at=NOON + timedelta(minutes=minutes), contact=contact)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "experience.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path, key=KEY) as store:
        yield store


def payloads(path: Path) -> dict[str, list[bytes]]:
    """All sealed bytes by record: its own and those cached from it."""
    with closing(sqlite3.connect(path)) as reader:
        found = {name: [payload] for name, payload in reader.execute("SELECT id, payload FROM experience")}
        for name, payload in reader.execute("SELECT record_id, payload FROM cache"):
            found[name].append(payload)
    return found


def traces(path: Path, sealed: list[bytes]) -> int:
    """How many of these payloads have left a piece in the database, its log or its index.

    Every piece of twice the window's size is found: it covers one of the windows that the raw bytes are cut into.
    """
    raw = b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))
    windows = {raw[start : start + WINDOW_BYTES] for start in range(0, len(raw), WINDOW_BYTES)}
    return sum(
        any(payload[start : start + WINDOW_BYTES] in windows for start in range(len(payload) - WINDOW_BYTES + 1))
        for payload in sealed
    )


def fill(store: Store, count: int = 40) -> list[str]:
    ids = store.add_all((said((10, 300, 900, 9_000)[index % 4]), "night 1") for index in range(count))
    for index, record_id in enumerate(ids):
        store.put_cache(record_id, "hidden", os.urandom((100, 700, 6_000)[index % 3]))
    return ids


def test_a_forgotten_record_and_what_was_cached_from_it_leave_no_bytes_on_disk(path: Path, store: Store) -> None:
    ids = fill(store)
    sealed = payloads(path)
    gone = ids[3:30:3]
    old = [payload for record_id in gone for payload in sealed[record_id]]
    assert traces(path, old) == len(old)  # They are there before.
    assert store.forget(ids=gone) == Forgotten(count=9, trained_blocks=())
    assert traces(path, old) == 0
    assert all(store.get_cache(record_id, "hidden") is None for record_id in gone)
    kept = [payload for record_id in ids if record_id not in gone for payload in sealed[record_id]]
    assert traces(path, kept) == len(kept)
    assert len(list(store.all())) == 31


@pytest.mark.parametrize("seed", range(6))
def test_many_nights_of_adding_training_and_forgetting_leave_no_bytes_on_disk(tmp_path: Path, seed: int) -> None:
    assert traces_after_many_nights(tmp_path, seed) == 0


def traces_after_many_nights(folder: Path, seed: int) -> int:
    """Add, train and forget; rows grow and move between pages meanwhile."""
    path, chance, left = folder / f"{seed}.db", random.Random(seed), 0
    with Store.open(path, key=KEY) as store:
        fresh = list[str]()
        trained = list[str]()
        for night in range(16):
            fresh += store.add_all((said(chance.choice([10, 300, 600, 900])), f"night {night}") for _ in range(12))
            learned = [record_id for record_id in fresh if chance.random() < 0.3]
            store.mark_trained(learned, "run " * chance.choice([1, 20]))
            fresh, trained = [record_id for record_id in fresh if record_id not in learned], trained + learned
            gone = chance.sample(fresh + trained, 4)
            sealed = payloads(path)
            store.forget(ids=gone)
            left += traces(path, [payload for record_id in gone for payload in sealed[record_id]])
            fresh, trained = [one for one in fresh if one not in gone], [one for one in trained if one not in gone]
    return left


def only_empty_the_log(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def test_forgetting_without_emptying_the_log_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("personalize.store.leave_no_old_bytes", lambda connection: None)
    assert traces_after_many_nights(tmp_path, 0) > 30


def test_forgetting_without_rewriting_the_file_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("personalize.store.leave_no_old_bytes", only_empty_the_log)
    # secure_delete is on, and yet one seed in about seven leaves a piece; that none of 60 does has a chance of 1e-4.
    assert any(traces_after_many_nights(tmp_path, seed) for seed in range(19, 79))


def test_deleting_without_overwriting_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("personalize.store.leave_no_old_bytes", only_empty_the_log)
    monkeypatch.setattr("personalize.database._PRAGMAS", changed_pragmas("secure_delete = ON", "secure_delete = OFF"))
    assert traces_after_many_nights(tmp_path, 0) > 10


def test_forgetting_a_record_but_not_its_cache_would_be_seen(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("personalize.database._PRAGMAS", changed_pragmas("foreign_keys = ON", "foreign_keys = OFF"))
    with Store.open(path, key=KEY) as store:
        ids = fill(store)
        sealed = payloads(path)
        store.forget(ids=ids[:5])
    assert traces(path, [payload for record_id in ids[:5] for payload in sealed[record_id]]) == 5


def changed_pragmas(old: str, new: str) -> tuple[str, ...]:
    changed = tuple(pragma.replace(old, new) for pragma in _PRAGMAS)
    assert changed != _PRAGMAS
    return changed


def test_records_are_forgotten_by_time(store: Store) -> None:
    store.add_all((said(minutes=minute), f"night {minute}") for minute in (0, 1, 2))
    assert store.forget(before=NOON + timedelta(minutes=1)).count == 1
    assert store.expire(NOON + timedelta(minutes=2)).count == 1
    with pytest.raises(StoreError, match="has no zone; give one"):
        store.expire(datetime(2030, 1, 1))
    assert store.blocks() == ["night 2"]


def test_everything_with_one_contact_is_forgotten_however_it_is_written(path: Path, store: Store) -> None:
    store.add_all((said(minutes=index, contact="Ana@Example.org"), "night 1") for index in range(3))
    store.add_all([(said(contact="bob@example.org"), "night 1"), (said(), "night 1")])
    assert store.forget(contact=" ana@example.ORG").count == 3
    assert {record.experience.contact for record in store.all()} == {"bob@example.org", None}


def test_everything_is_forgotten_and_the_store_goes_on(path: Path, store: Store) -> None:
    ids = fill(store)
    store.mark_trained(ids[:2], "run 1")
    sealed = [payload for record in payloads(path).values() for payload in record]
    assert store.forget(everything=True) == Forgotten(count=40, trained_blocks=("night 1",), trained_runs=("run 1",))
    assert traces(path, sealed) == 0
    assert (store.count(), store.blocks()) == (0, [])
    store.add(said(), block="night 2")
    assert store.count() == 1


def test_the_blocks_that_an_adapter_learned_from_are_told(store: Store) -> None:
    ids = store.add_all([(said(), "night 2"), (said(), "night 1"), (said(), "night 1"), (said(), "night 3")])
    store.mark_trained(ids[:3], "run 1")
    assert store.forget(ids=ids) == Forgotten(count=4, trained_blocks=("night 1", "night 2"), trained_runs=("run 1",))


def test_what_is_not_there_is_forgotten_already(store: Store) -> None:
    store.add(said(), block="night 1")
    assert store.forget(ids=["0" * 32, "'; DROP TABLE experience; --", "\ud800", "\0"]) == Forgotten(
        count=0, trained_blocks=()
    )
    assert store.forget(ids=[]).count == 0
    assert store.forget(contact="nobody@example.org").count == 0
    assert store.count() == 1


def test_a_hundred_thousand_ids_are_no_problem(store: Store) -> None:
    real = store.add(said(), block="night 1")
    assert store.forget(ids=[f"{number:032x}" for number in range(100_000)] + [real]).count == 1


@pytest.mark.parametrize("selectors", [{}, {"ids": [], "everything": True}, {"contact": "ana", "before": NOON}])
def test_what_to_forget_is_said_in_exactly_one_way(store: Store, selectors: dict[str, object]) -> None:
    store.add(said(), block="night 1")
    with pytest.raises(StoreError, match="exactly one of ids, before, contact or everything"):
        store.forget(**selectors)  # type: ignore[arg-type]  # Any combination can be given.
    assert store.count() == 1


def test_records_can_be_forgotten_while_they_are_gone_through(path: Path, store: Store) -> None:
    fill(store)
    sealed = [payload for record in payloads(path).values() for payload in record]
    for record in store.all():
        store.forget(ids=[record.id])
    assert traces(path, sealed) == 0


def test_a_reader_in_another_program_delays_the_erasure_and_is_told(
    path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("personalize.database.BUSY_SECONDS", 0.1)
    ids = fill(store)
    sealed = payloads(path)
    with Store.open(path, key=KEY) as other, closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT COUNT(*) FROM experience").fetchone()
        with pytest.raises(StoreError, match=r"1 records are forgotten, but .* not yet gone .* reading it; close that"):
            other.forget(ids=ids[:1])
        assert ids[0] not in {record.id for record in other.all()}
        with pytest.raises(StoreError, match="not yet gone"):
            other.forget(ids=ids[1:2])
        reader.rollback()
        other.forget(ids=[])  # Nothing new to forget, but the erasure is made up for.
        assert traces(path, sealed[ids[0]] + sealed[ids[1]]) == 0


KILLED_WHILE_FORGETTING = """
import os, signal, sys
from pathlib import Path
import personalize.store
from personalize.store import Store

personalize.store.leave_no_old_bytes = lambda connection: os.kill(os.getpid(), signal.SIGKILL)
Store.open(Path(sys.argv[1]), key=b"k" * 32).forget(ids=sys.argv[2:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_an_erasure_that_was_killed_is_made_up_for_at_the_next_opening(path: Path) -> None:
    with Store.open(path, key=KEY) as store:
        ids = fill(store)
        sealed = payloads(path)
    old = [payload for record_id in ids[:5] for payload in sealed[record_id]]
    command = [sys.executable, "-c", KILLED_WHILE_FORGETTING, str(path), *ids[:5]]
    assert subprocess.run(command, check=False, cwd=Path(__file__).parents[2]).returncode == -signal.SIGKILL
    assert traces(path, old) > 0
    with Store.open(path, key=KEY) as store:
        assert traces(path, old) == 0
        assert store.count() == 35


FORGET_ONE_BY_ONE = """
import sys
from pathlib import Path
from personalize.store import Store

store = Store.open(Path(sys.argv[1]), key=b"k" * 32)
print("ready", flush=True)
for record in store.all():
    store.forget(ids=[record.id])
    print(record.id, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("delay_ms", [5, 17, 33, 61])
def test_a_kill_at_any_time_leaves_each_record_whole_or_without_a_trace(path: Path, delay_ms: int) -> None:
    with Store.open(path, key=KEY) as store:
        fill(store, 60)
        sealed = payloads(path)
    command = [sys.executable, "-c", FORGET_ONE_BY_ONE, str(path)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as forgetter:
        assert forgetter.stdout is not None
        assert forgetter.stdout.readline() == "ready\n"
        time.sleep(delay_ms / 1_000)
        os.kill(forgetter.pid, signal.SIGKILL)
        told = forgetter.stdout.read().split()
    with Store.open(path, key=KEY) as store:
        left = {record.id for record in store.all()}  # Each of them opens.
    assert left.isdisjoint(told)
    assert traces(path, [payload for record_id in sealed.keys() - left for payload in sealed[record_id]]) == 0
