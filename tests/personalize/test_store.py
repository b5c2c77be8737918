import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from personalize.errors import ExperienceError, StoreError
from personalize.experience import Consent, Experience, Signal
from personalize.store import Store

KEY = b"k" * 32
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def said(
    answer: str = "hello there",
    *,
    prompt: str = "greet",
    minutes: int = 0,
    contact: str | None = None,
    signal: Signal = Signal.WRITTEN,
    consent: Consent = Consent.LEARN,
) -> Experience:
    at = NOON + timedelta(minutes=minutes)
    return Experience(prompt=prompt, answer=answer, at=at, contact=contact, signal=signal, consent=consent)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "experience.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path, key=KEY) as store:
        yield store


def raw_bytes(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(path.parent.iterdir()) if file.is_file())


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])


ANY_TEXT = st.text(st.characters(codec=None))  # Lone surrogates and control characters too.
EXPERIENCES = st.builds(
    Experience,
    prompt=ANY_TEXT,
    answer=ANY_TEXT.map(lambda text: "a" + text),
    signal=st.sampled_from(Signal),
    consent=st.sampled_from(Consent),
    contact=st.none() | ANY_TEXT,
    at=st.datetimes(timezones=st.just(UTC)),
)


@given(experience=EXPERIENCES, block=st.text())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_read_is_what_was_written(store: Store, experience: Experience, block: str) -> None:
    record_id = store.add(experience, block=block)
    (record,) = [record for record in store.all() if record.id == record_id]
    found = record.experience
    assert (found.prompt, found.answer, found.contact) == (experience.prompt, experience.answer, experience.contact)
    assert (found.at, found.signal, found.consent) == (experience.at, experience.signal, experience.consent)
    assert (record.block, record.trained_run, found.id) == (block, None, record_id)
    store.forget(everything=True)


@given(minutes=st.lists(st.integers(-(10**9), 10**9), max_size=30))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_records_come_back_in_time_order_and_equal_times_as_added(store: Store, minutes: list[int]) -> None:
    store.add_all((said(f"answer {index}", minutes=minute), "night") for index, minute in enumerate(minutes))
    expected = [f"answer {index}" for index, _ in sorted(enumerate(minutes), key=lambda entry: entry[1])]
    assert [record.experience.answer for record in store.all()] == expected
    store.forget(everything=True)


def test_records_are_there_after_the_store_is_opened_again(path: Path) -> None:
    with Store.open(path, key=KEY) as store:
        record_id = store.add(said("kept"), block="night 1")
    with Store.open(path, key=KEY) as store:
        assert [(record.id, record.experience.answer) for record in store.all()] == [(record_id, "kept")]


def test_equal_texts_are_separate_records(store: Store) -> None:
    assert store.add(said(), block="night 1") != store.add(said(), block="night 1")
    assert store.count() == 2


def test_fresh_leaves_out_what_was_trained_rejected_or_only_kept(store: Store) -> None:
    trained = store.add(said("trained"), block="night 1")
    store.add(said("rejected", signal=Signal.REJECTED), block="night 1")
    store.add(said("only kept", consent=Consent.KEEP), block="night 1")
    store.add(said("new"), block="night 2")
    assert store.mark_trained([trained], "run 1") == 1
    assert [record.experience.answer for record in store.fresh()] == ["new"]
    assert [record.trained_run for record in store.all()] == ["run 1", None, None, None]
    assert (store.count(), store.count(trained=True), store.count(trained=False)) == (4, 1, 3)


def test_blocks_are_told_apart_by_whether_any_of_their_records_was_trained(store: Store) -> None:
    store.add(said(minutes=9), block="a")
    trained, _ = store.add_all([(said(minutes=5), "b"), (said(minutes=6), "b")])
    store.mark_trained([trained], "run 1")
    assert (store.blocks(), store.blocks(True), store.blocks(False)) == (["b", "a"], ["b"], ["a"])


def test_contacts_are_told_once_each_however_they_are_written(store: Store) -> None:
    for contact in ("Zoe Lang", None, "ana@kos.example", "zoe  lang"):
        store.add(said(contact=contact), block="night")
    assert store.contacts() == ["Zoe Lang", "ana@kos.example"]
    store.forget(contact="ZOE LANG")
    assert store.contacts() == ["ana@kos.example"]


def test_a_record_is_not_trained_by_two_runs(store: Store) -> None:
    first, second = store.add_all([(said(), "b"), (said(), "b")])
    store.mark_trained([first], "run 1")
    assert store.mark_trained([first], "run 1") == 1  # The same run may say it again, as after a crash.
    with pytest.raises(StoreError, match="1 records were trained before, by run run 1"):
        store.mark_trained([first, second], "run 2")
    assert store.count(trained=True) == 1


def test_records_forgotten_while_a_run_learned_are_passed_over(store: Store) -> None:
    first, second = store.add_all([(said(), "b"), (said(), "b")])
    store.forget(ids=[first])
    assert store.mark_trained([first, second], "run 1") == 1


def test_nothing_is_added_when_one_of_many_is_refused(store: Store) -> None:
    def experiences() -> Iterator[tuple[Experience, str]]:
        yield said(), "night 1"
        yield said(""), "night 1"

    with pytest.raises(ExperienceError):
        store.add_all(experiences())
    assert store.count() == 0


def test_cached_values_come_back_are_replaced_and_need_their_record(store: Store) -> None:
    record_id = store.add(said(), block="night 1")
    assert store.get_cache(record_id, "hidden") is None
    store.put_cache(record_id, "hidden", b"first")
    store.put_cache(record_id, "hidden", b"second")
    assert store.get_cache(record_id, "hidden") == b"second"
    with pytest.raises(StoreError, match="may have been forgotten"):
        store.put_cache("0" * 32, "hidden", b"value")


# --- on disk ---------------------------------------------------------------------------------------------------------

SECRETS = ("prompt-4711-geheim", "answer-4711-geheim", "contact-4711@example.org", "rejected", "cache-4711-geheim")


def secret(*, minutes: int = 0) -> Experience:
    return said(SECRETS[1], prompt=SECRETS[0], contact=SECRETS[2], signal=Signal.REJECTED, minutes=minutes)


def holds_plain_text(path: Path) -> bool:
    raw = raw_bytes(path)
    return any(word.encode(code) in raw for word in SECRETS for code in ("utf-8", "utf-16-le", "utf-16-be"))


def test_no_plain_text_reaches_the_disk(path: Path, store: Store) -> None:
    for index in range(50):
        record_id = store.add(secret(minutes=index), block="night 1")
        store.put_cache(record_id, "hidden", b"cache-4711-geheim")
        assert not holds_plain_text(path)
    store.forget(ids=[record_id])
    assert not holds_plain_text(path)
    store.close()
    assert not holds_plain_text(path)


def test_a_store_that_does_not_seal_would_be_seen(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("personalize.cipher.Cipher.seal", lambda self, plain, *place: plain)
    monkeypatch.setattr("personalize.cipher.Cipher.open", lambda self, sealed, *place: sealed)
    with Store.open(path, key=KEY) as store:
        store.add(secret(), block="night 1")
    assert holds_plain_text(path)


def test_sizes_on_disk_tell_little_about_texts(path: Path, store: Store) -> None:
    store.add_all((said("x" * size), "night 1") for size in (1, 20, 100))
    with closing(sqlite3.connect(path)) as reader:
        assert len({len(payload) for (payload,) in reader.execute("SELECT payload FROM experience")}) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no file modes")
def test_only_the_owner_can_read_the_files(path: Path, store: Store) -> None:
    store.add(said(), block="night 1")
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == dict.fromkeys(["experience.db", "experience.db-wal", "experience.db-shm"], 0o600)


def test_the_file_opens_in_other_programs_with_its_clear_columns(path: Path, store: Store) -> None:
    record_id = store.add(said(), block="night 1")
    store.mark_trained([record_id], "run 1")
    with closing(sqlite3.connect(path)) as reader:
        row = reader.execute("SELECT id, block, at, trained_run, contact_tag FROM experience").fetchone()
        assert row == (record_id, "night 1", int(NOON.timestamp()), "run 1", None)
        assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# --- bad keys, damage, no room ---------------------------------------------------------------------------------------


def edit(path: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as editor, editor:
        editor.execute(statement, values)


def test_another_key_is_refused_with_what_to_do(path: Path) -> None:
    with Store.open(path, key=KEY) as store:
        store.add(said(), block="night 1")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"the key does not open .*; bring back the key it was written with"):
        Store.open(path, key=b"j" * 32)
    assert path.read_bytes() == before
    with Store.open(path, key=KEY) as store:
        assert store.count() == 1


def test_a_newer_format_is_refused_and_left_as_it_is(path: Path) -> None:
    Store.open(path, key=KEY).close()
    edit(path, "UPDATE store SET value = 'experience/2' WHERE name = 'format'")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="has format 'experience/2' and this version reads 'experience/1'"):
        Store.open(path, key=KEY)
    assert path.read_bytes() == before


def test_a_file_that_is_no_store_is_refused_and_left_as_it_is(path: Path) -> None:
    path.write_bytes(b"my shopping list\n" * 300)
    with pytest.raises(StoreError, match="it is not a store; bring back"):
        Store.open(path, key=KEY)
    assert path.read_bytes() == b"my shopping list\n" * 300


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE experience SET payload = zeroblob(300) WHERE number = 1",
        "UPDATE experience SET payload = hex(payload) WHERE number = 1",
        "UPDATE experience SET block = x'00' WHERE number = 1",
        "UPDATE experience SET payload = x'' WHERE number = 1",
        "UPDATE experience SET payload = (SELECT payload FROM experience WHERE number = 2) WHERE number = 1",
        "UPDATE experience SET block = 'night 2' WHERE number = 1",
        "UPDATE experience SET at = at + 1 WHERE number = 1",
        "UPDATE experience SET at = 'soon' WHERE number = 1",
        "UPDATE experience SET id = 'other' WHERE number = 1",
    ],
)
def test_a_row_changed_by_hand_is_named_and_can_be_forgotten(path: Path, change: str) -> None:
    with Store.open(path, key=KEY) as store:
        store.add_all([(said("first"), "night 1"), (said("second", minutes=1), "night 1")])
    edit(path, change)
    with Store.open(path, key=KEY) as store:
        with pytest.raises(
            StoreError, match=r"does not open; bring back a copy of .*, or forget the record"
        ) as refusal:
            list(store.fresh())
        changed = str(refusal.value).split()[1]
        assert store.forget(ids=[changed]).count == 1
        assert [record.experience.answer for record in store.all()] == ["second"]


def test_a_changed_cached_value_is_not_used(path: Path, store: Store) -> None:
    record_id = store.add(said(), block="night 1")
    store.put_cache(record_id, "hidden", b"value")
    edit(path, "UPDATE cache SET payload = zeroblob(40)")
    assert store.get_cache(record_id, "hidden") is None


@pytest.mark.parametrize("seed", range(5))
def test_a_damaged_file_gives_one_clear_line_and_never_wrong_text(path: Path, seed: int) -> None:
    with Store.open(path, key=KEY) as store:
        store.add_all((said(f"answer {index}", minutes=index), "night 1") for index in range(200))
    raw, chance = bytearray(path.read_bytes()), random.Random(seed)
    for _ in range(40):
        start = chance.randrange(100, len(raw) - 100)
        raw[start : start + 50] = chance.randbytes(50)
    path.write_bytes(raw)
    try:
        with Store.open(path, key=KEY) as store:
            outcome: str | set[str] = {record.experience.answer for record in store.all()}
    except StoreError as refusal:
        outcome = str(refusal)
    all_answers = {f"answer {index}" for index in range(200)}
    assert ";" in outcome if isinstance(outcome, str) else outcome <= all_answers


def test_a_folder_that_is_not_there_gives_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot open .*: No such file or directory; check the path"):
        Store.open(tmp_path / "none" / "experience.db", key=KEY)


def test_a_full_disk_loses_nothing(store: Store) -> None:
    kept = store.add_all((said(minutes=index), "night 1") for index in range(20))
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match=r"cannot add to .*: there is no room on the disk; free some and try again"):
        store.add_all((said("x" * 5_000), "night 2") for _ in range(20))
    assert [record.id for record in store.all()] == kept
    store._connection.execute(f"PRAGMA max_page_count = {pages + 1_000}")
    store.add(said(), block="night 2")
    assert store.count() == 21


ADD_UNTIL_REFUSED = """
import resource, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from personalize.errors import StoreError
from personalize.experience import Experience
from personalize.store import Store

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Store.open(Path(sys.argv[1]), key=b"k" * 32) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
    try:
        while True:
            print(store.add(Experience(prompt="", answer="x" * 3_000, at=datetime.now(UTC)), block="night 1"))
    except StoreError as refusal:
        print(refusal)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot limit the size of a process's files")
def test_a_write_that_the_system_refuses_loses_nothing(path: Path) -> None:
    done = run_python(ADD_UNTIL_REFUSED, path)
    *added, refusal = done.stdout.splitlines()
    assert refusal.startswith("cannot add to"), done.stderr
    assert "then try again" in refusal
    with Store.open(path, key=KEY) as store:
        assert [record.id for record in store.all()] == added
        assert len(added) > 10


# --- several processes, killed ones ----------------------------------------------------------------------------------

ADD_FOR_EVER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from personalize.experience import Experience
from personalize.store import Store

store = Store.open(Path(sys.argv[1]), key=b"k" * 32)
for index in range(int(sys.argv[2])):
    print(store.add(Experience(prompt="", answer=f"answer {index}", at=datetime.now(UTC)), block="night 1"), flush=True)
"""


def test_several_processes_create_and_fill_one_store(path: Path) -> None:
    command = [sys.executable, "-c", ADD_FOR_EVER, str(path), "20"]
    root = Path(__file__).parents[2]
    writers = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
    outcomes = [writer.communicate() for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 4, outcomes
    with Store.open(path, key=KEY) as store:
        ids = {record.id for record in store.all()}
    assert ids == {line.decode() for out, _ in outcomes for line in out.split()}
    assert len(ids) == 80


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_what_was_added_before_a_kill_is_there(path: Path) -> None:
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", ADD_FOR_EVER, str(path), "1000000"], cwd=root, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        told = [writer.stdout.readline().strip() for _ in range(30)]
        os.kill(writer.pid, signal.SIGKILL)
        told += writer.stdout.read().split()
    with Store.open(path, key=KEY) as store:
        ids = [record.id for record in store.all()]
    assert ids[: len(told)] == told
    assert len(ids) - len(told) <= 1  # One may be committed that was not told yet.


def test_a_reader_is_not_held_up_by_a_writer_and_a_second_writer_is_told(
    path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add(said(), block="night 1")
    monkeypatch.setattr("personalize.database.BUSY_SECONDS", 0.1)
    with Store.open(path, key=KEY) as other, closing(sqlite3.connect(path)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert other.count() == 1
        with pytest.raises(StoreError, match="another program is using it; try again when that has finished"):
            other.add(said(), block="night 1")
        writer.rollback()
        other.add(said(), block="night 1")
    assert store.count() == 2
