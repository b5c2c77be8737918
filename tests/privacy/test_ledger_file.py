"""Hand-edited, swapped, shortened and foreign files; schema upgrades; a full disk."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from privacy import ledger_file
from privacy.errors import (
    LedgerBusyError,
    LedgerError,
    LedgerFormatError,
    LedgerFullError,
    LedgerKeyError,
    LedgerTamperedError,
)
from privacy.ledger import Ledger
from privacy.schema import SCHEMA
from tests.privacy.ledgers import KEY, NIGHT, edit, opened

REST = "at, kind, scope, caller, receipt, body, previous, hash, mac"


@pytest.fixture
def spent(tmp_path: Path) -> Path:
    """A folder whose ledger holds two nights, one of them closed."""
    with opened(tmp_path) as ledger:
        receipt = ledger.reserve(NIGHT, blocks=["monday"])
        ledger.draw(receipt, 10)
        ledger.close(receipt)
        ledger.reserve(NIGHT, blocks=["tuesday"])
    return tmp_path


def require_refused(folder: Path, kind: type[LedgerError] = LedgerTamperedError) -> None:
    with pytest.raises(kind) as caught:
        Ledger.open(folder / "ledger.db", key=KEY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "statement",
    [
        "update entries set body = replace(body, '6.798', '9.999') where kind = 'reserve'",
        "update entries set body = '{}' where seq = 3",
        "update entries set body = 7 where seq = 3",
        "update entries set kind = 'budget' where seq = 3",
        "update entries set scope = 'other' where seq = 3",
        "update entries set at = '1999-01-01' where seq = 3",
        "update entries set mac = hash where seq = 3",
        "update entries set hash = mac where seq = 6",
        "update entries set seq = 99 where seq = 6",
        "update entries set seq = -1 where seq = 3",
        "delete from entries where seq = 3",
        "delete from entries where seq = 6",
        "delete from entries where seq > 2",
        "delete from entries",
        "delete from head",
        "update head set seq = 5, hash = (select hash from entries where seq = 5)",
        "update head set mac = 'x'",
        f"insert into entries select 7, {REST} from entries where seq = 6",
        "drop table head",
        "drop table entries",
        "alter table entries rename column body to facts",
        "pragma user_version = 0",
        "pragma user_version = 1",
    ],
)
def test_what_is_changed_by_hand_is_noticed_at_the_next_start(spent: Path, statement: str) -> None:
    edit(spent, statement, disarm="table" not in statement)
    with pytest.raises(LedgerError):
        Ledger.open(spent / "ledger.db", key=KEY)


def test_removing_the_last_entries_and_moving_the_head_back_is_noticed(spent: Path) -> None:
    """The head's seal is of its own: the seal of an older entry does not fit."""
    edit(
        spent,
        "delete from entries where seq = 6",
        "update head set seq = 5, hash = (select hash from entries where seq = 5)",
        "update head set mac = (select mac from entries where seq = 5)",
    )
    require_refused(spent)


@pytest.mark.parametrize(
    "statement",
    [
        "update entries set body = '{}' where seq = 3",
        "delete from entries where seq = 6",
        "insert or replace into entries select * from entries where seq = 3",
        f"replace into entries select 2, {REST} from entries where seq = 3",
        f"insert into entries select 9, {REST} from entries where seq = 6",
        "update head set seq = 3",
        "delete from head",
    ],
)
def test_the_tables_themselves_refuse_updates_and_deletes(spent: Path, statement: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        edit(spent, statement, disarm=False)
    opened(spent).verify()


def test_tables_without_their_triggers_do_not_verify(spent: Path) -> None:
    with opened(spent) as ledger:
        edit(spent, "drop trigger entries_are_never_deleted", disarm=False)
        with pytest.raises(LedgerTamperedError, match="tables were altered"):
            ledger.verify()
    with pytest.raises(LedgerTamperedError, match="tables were altered"):
        opened(spent)


def test_a_trigger_of_another_origin_does_not_verify(spent: Path) -> None:
    edit(spent, "create trigger quiet after insert on entries begin delete from head; end", disarm=False)
    with pytest.raises(LedgerTamperedError, match="tables were altered"):
        opened(spent)


def test_while_the_ledger_does_not_verify_nothing_can_be_reserved(spent: Path) -> None:
    with opened(spent) as ledger:
        edit(spent, "delete from entries where seq = 6")
        with pytest.raises(LedgerTamperedError):
            ledger.verify()
        for _ in range(2):
            with pytest.raises(LedgerTamperedError):
                ledger.reserve(NIGHT, blocks=["wednesday"])


def test_a_file_that_is_swapped_for_an_older_one_while_open_is_noticed(spent: Path) -> None:
    old = spent / "old.db"
    shutil.copy(spent / "ledger.db", old)
    with opened(spent) as ledger:
        ledger.reserve(NIGHT, blocks=["wednesday"])
        with closing(sqlite3.connect(old)) as source, closing(sqlite3.connect(spent / "ledger.db")) as target:
            source.backup(target)
        with pytest.raises(LedgerTamperedError):
            ledger.reserve(NIGHT, blocks=["thursday"])


def test_another_devices_key_is_told_from_damage(spent: Path) -> None:
    with pytest.raises(LedgerKeyError, match="another device's key"):
        Ledger.open(spent / "ledger.db", key=b"x" * 32)


def test_a_shortened_file_and_one_with_flipped_bits_are_refused(spent: Path) -> None:
    path = spent / "ledger.db"
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:100], whole[:4096], b"\x00" * len(whole), b"hello " * 1000):
        path.write_bytes(damaged)
        require_refused(spent, LedgerError)
    for position in range(4096, len(whole), 577):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            with Ledger.open(path, key=KEY) as ledger:
                assert len(ledger.entries()) == 6, "a flipped bit in free space may go unnoticed, a lost charge may not"
        except LedgerError:
            pass


def test_a_newer_schema_and_a_foreign_database_are_refused(
    spent: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    edit(spent, "pragma user_version = 99", disarm=False)
    with pytest.raises(LedgerFormatError, match="newer"):
        Ledger.open(spent / "ledger.db", key=KEY)
    elsewhere = tmp_path_factory.mktemp("foreign")
    edit(elsewhere, "create table music (title text)", disarm=False)
    with pytest.raises(LedgerFormatError, match="not a ledger"):
        Ledger.open(elsewhere / "ledger.db", key=KEY)


def as_version_one(folder: Path) -> None:
    edit(folder, "drop view runs", "drop view charges", "drop index entries_by_receipt", "pragma user_version = 1")


def test_an_upgrade_of_the_schema_refunds_nothing(spent: Path) -> None:
    with opened(spent) as ledger:
        before = (ledger.entries(), ledger.spent_by_block())
    as_version_one(spent)
    with opened(spent) as ledger:
        assert (ledger.entries(), ledger.spent_by_block()) == before
        ledger.verify()


def test_an_upgrade_that_would_lose_a_charge_is_undone(spent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_version_one(spent)
    refund = ("drop trigger entries_are_never_deleted", "delete from entries where kind = 'reserve'")
    monkeypatch.setattr(ledger_file, "SCHEMA", (SCHEMA[0], refund))
    with pytest.raises(LedgerError, match="nothing was upgraded"):
        Ledger.open(spent / "ledger.db", key=KEY)
    monkeypatch.undo()
    with opened(spent) as ledger:
        assert len(ledger.entries()) == 6
        ledger.verify()


def test_a_ledger_that_is_held_too_long_says_so_and_records_nothing(spent: Path) -> None:
    with opened(spent, busy_seconds=0.05) as ledger, closing(sqlite3.connect(spent / "ledger.db")) as other:
        other.execute("begin immediate")
        with pytest.raises(LedgerBusyError, match="try again"):
            ledger.reserve(NIGHT, blocks=["wednesday"])
        assert len(ledger.entries()) == 6, "reading goes on meanwhile"
        other.rollback()
        ledger.reserve(NIGHT, blocks=["wednesday"])


def test_an_interrupt_after_the_commit_leaves_the_charge_and_whole_books(
    spent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from privacy.books import Account

    charge = Account.charge
    with opened(spent) as ledger:
        before = ledger.spent_by_block()

        def interrupted(self: Account, *rest: object) -> None:
            charge(self, *rest)  # type: ignore[arg-type]
            raise KeyboardInterrupt

        monkeypatch.setattr(Account, "charge", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ledger.reserve(NIGHT, blocks=["monday"])
        monkeypatch.undo()
        after = ledger.spent_by_block()
        assert after["tuesday"] == before["tuesday"]
        assert before["monday"] < after["monday"] < 2 * before["monday"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 400 KB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if os.name != "posix" or os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs to be root; the file size limit below tests the same without")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass


def test_a_full_disk_refuses_a_run_and_loses_nothing(small_disk: Path) -> None:
    with opened(small_disk, epsilon=400.0) as ledger:
        charged = 1
        receipt = ledger.reserve(NIGHT, blocks=["b"])
        fill(small_disk)
        with suppress(LedgerFullError):
            for _ in range(200):
                ledger.reserve(NIGHT, blocks=["b"])
                charged += 1
        assert charged < 200
        assert len(ledger.open_receipts()) == charged
        with pytest.raises(LedgerFullError, match="free some space"):
            ledger.reserve(NIGHT, blocks=["b"])
        (small_disk / "filler").unlink()
        ledger.draw(receipt)
        ledger.reserve(NIGHT, blocks=["b"])
        ledger.verify()
    with opened(small_disk, epsilon=400.0) as ledger:
        assert len(ledger.open_receipts()) == charged + 1


def test_a_full_disk_at_the_first_start_leaves_nothing_half_begun(small_disk: Path) -> None:
    fill(small_disk)
    with pytest.raises(LedgerError) as caught:
        opened(small_disk)
    assert "\n" not in str(caught.value)
    (small_disk / "filler").unlink()
    with opened(small_disk) as ledger:
        assert ledger.spent() == 0


LIMITED = """
import resource, signal, sys
from pathlib import Path
from privacy.errors import LedgerFullError
from tests.privacy.ledgers import NIGHT, opened
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
ledger = opened(Path(sys.argv[1]), epsilon=400.0)
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))
charged = 0
try:
    for _ in range(500):
        ledger.reserve(NIGHT, blocks=["b"])
        charged += 1
except LedgerFullError:
    assert len(ledger.open_receipts()) == charged
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    ledger.reserve(NIGHT, blocks=["b"])
    print(charged + 1)
"""


@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX's")
def test_a_file_that_may_not_grow_refuses_a_run_and_loses_nothing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True)
    with opened(tmp_path, epsilon=400.0) as ledger:
        assert len(ledger.open_receipts()) == int(done.stdout)
        ledger.verify()


@pytest.mark.parametrize(
    "statement",
    [
        "update entries set mac = 'é' || substr(mac, 2) where seq = 3",
        "update entries set kind = cast(x'c328' as text) where seq = 3",
        "update entries set body = cast(x'0a1b5b324ac3280a' as text) where seq = 3",
        "update head set mac = cast(x'c328' as text)",
    ],
)
def test_text_that_is_none_is_damage_told_in_one_line(spent: Path, statement: str) -> None:
    edit(spent, statement)
    require_refused(spent)


def test_a_table_whose_name_is_no_text_is_damage_told_in_one_line(spent: Path) -> None:
    path = spent / "ledger.db"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"VIEW runs", b"VIEW\xf5runs").replace(b"TABLE head (", b"TABLE\xf5hea\n ("))
    require_refused(spent)
