"""Every query of docs/ledger_queries.md runs on a real ledger, with the tools that it names, and changes nothing."""

import hashlib
import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from privacy import Budget, DpSgdRun, GateRelease, LedgerTamperedError, Unit
from tests.privacy.ledgers import NIGHT, Clock, edit, opened

PAGE = (Path(__file__).parents[2] / "docs" / "ledger_queries.md").read_text(encoding="utf-8")
QUERIES = dict(re.findall(r"^## ([^\n]+)\n\n```sql\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^(sqlite-utils [^\n]+)$", PAGE, re.MULTILINE)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A ledger with nights that were admitted, rejected, crashed and never closed, a gate, and a clock set back."""
    clock = Clock()
    with opened(tmp_path, epsilon=8.0, clock=clock) as ledger:
        ledger.set_budget(Budget(epsilon=1.0, unit=Unit.DAY), scope="telemetry")
        for day, outcome in (("2026-11-23", "admitted"), ("2026-11-24", "rejected"), ("2026-11-24", "crashed")):
            receipt = ledger.reserve(NIGHT, blocks=[day], plan_digest="sha256:00")
            ledger.draw(receipt, 4)
            ledger.draw(receipt, 3)
            ledger.close(receipt, outcome)
            clock.move(days=1)
        clock.move(hours=-26)
        ledger.reserve(GateRelease(noise_multiplier=30.0), blocks=["2026-11-23", "2026-11-24"], caller="gate")
        ledger.reserve(DpSgdRun(noise_multiplier=9.0, sampling_rate=0.1, steps=5), blocks=["2026-11-25"])
    return tmp_path


def digest(home: Path) -> str:
    return hashlib.sha256((home / "ledger.db").read_bytes()).hexdigest()


def by_sqlite_utils(home: Path, *words: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "sqlite_utils", *words]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def by_reading(home: Path, query: str, how: str) -> list[dict[str, Any]]:
    """As Datasette opens a file: by a URI that cannot write, plain or immutable."""
    with closing(sqlite3.connect(f"file:{home / 'ledger.db'}?{how}", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query)]


def test_the_page_has_its_queries() -> None:
    assert len(QUERIES) == PAGE.count("```sql") == 7
    assert len(COMMANDS) == 2


@pytest.mark.parametrize("title", QUERIES)
def test_a_documented_query_finds_something_with_every_tool_and_changes_nothing(title: str, home: Path) -> None:
    before = digest(home)
    rows = by_sqlite_utils(home, "query", "ledger.db", QUERIES[title])
    assert rows
    for how in ("mode=ro", "immutable=1"):
        assert by_reading(home, QUERIES[title], how) == rows
    assert digest(home) == before
    with opened(home) as ledger:
        ledger.verify()


def test_the_documented_commands_run(home: Path) -> None:
    found = []
    for command in COMMANDS:
        words = re.findall(r'"[^"]+"|\S+', command)[1:]
        found.append(by_sqlite_utils(home, *(word.strip('"') for word in words if word != "--table")))
    assert [len(rows) for rows in found] == [5, 6]


def test_the_answers_are_right(home: Path) -> None:
    answers = {title: by_reading(home, query, "mode=ro") for title, query in QUERIES.items()}
    newest = answers["Every run, the newest first"]
    assert [row["outcome"] for row in newest] == [None, None, "crashed", "rejected", "admitted"]
    assert newest[-1]["epsilon_alone"] == 2.0
    often = {row["block"]: row["runs"] for row in answers["Which records were read most often"]}
    assert often == {"2026-11-24": 3, "2026-11-23": 2, "2026-11-25": 1}
    stopped = answers["Runs that were stopped, or never closed"]
    assert [(row["reserved"], row["drawn"], row["outcome"]) for row in stopped] == [
        (10, 7, "crashed"),
        (1, 0, None),
        (5, 0, None),
    ]
    by_month = answers["Spending by month and mechanism"]
    assert [(row["mechanism"], row["runs"], row["uses"]) for row in by_month] == [
        ("dp_sgd_run/1", 4, 35),
        ("gate_release/1", 1, 1),
    ]
    promised = answers["What was promised, and when it was changed"]
    assert [(row["scope"], row["epsilon"], row["unit"]) for row in promised] == [
        ("experience", 8.0, "record"),
        ("telemetry", 1.0, "day"),
    ]
    assert [row["seconds"] for row in answers["Has the clock been set back?"]] == [7200.0, 7200.0]
    assert {row["plan"] for row in answers["Which plan did a night follow?"]} == {"sha256:00"}


@pytest.mark.parametrize("how", ["mode=ro", "immutable=1"])
@pytest.mark.parametrize("statement", ["delete from entries", "insert into head values (2, 1, '', '')", "vacuum"])
def test_whoever_reads_cannot_write(how: str, statement: str, home: Path) -> None:
    before = digest(home)
    with pytest.raises(sqlite3.Error):
        by_reading(home, statement, how)
    assert digest(home) == before


def test_sqlite_utils_cannot_change_an_entry(home: Path) -> None:
    before = digest(home)
    for statement in ("delete from entries", "update entries set body = '{}'", "delete from head"):
        command = [sys.executable, "-m", "sqlite_utils", "query", "ledger.db", statement]
        done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode != 0
        assert "the ledger is append-only" in done.stderr
    assert digest(home) == before


def test_a_trigger_that_a_tool_adds_is_noticed(home: Path) -> None:
    """`sqlite-utils enable-counts` adds triggers: the page warns of it."""
    edit(home, "create trigger counted after insert on entries begin select 1; end", disarm=False)
    with pytest.raises(LedgerTamperedError, match="tables were altered"):
        opened(home)
