"""Seconds and a seed in, hostile input on every door of the privacy package, counts of what came of it out.

Every case must end in one of two ways: a PrivacyError of one line, or a correct answer. Another exception, an answer
that is wrong, an epsilon that fell, or a case that takes minutes is a violation: the bench then names the seed and the
case that show it again, and exits with code 1.

The doors: what Python callers give (numbers, events, budgets, names), the ledger's file (rows, bytes, its log, its
anchor, an older copy), a live ledger, and exported text. `--seed S --case I` runs one case alone.
"""

# mypy: disable-error-code="arg-type, redundant-expr, unused-ignore"
# Values of the wrong type are what this bench is for.

import copy
import hashlib
import json
import math
import random
import shutil
import signal
import sqlite3
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, fields
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import click
import numpy as np

from privacy.accounting import curve_of, epsilon, gaussian_epsilon, group, noise_multiplier
from privacy.anchor import FileAnchor
from privacy.books import Receipt
from privacy.budget import Budget
from privacy.chain import canonical
from privacy.errors import PrivacyError, shown
from privacy.events import (
    DpSgdRun,
    Event,
    GateRelease,
    GaussianRelease,
    LaplaceRelease,
    MatrixFactorisationRun,
    Neighbours,
    Unit,
    event_from_dict,
)
from privacy.ledger import Ledger
from privacy.verify import verify_export
from tests.figures import show, table
from tests.privacy.ledgers import KEY, NIGHT, Clock

MAX_CASE_SECONDS = 20.0  # CPU; the slowest honest answer takes about 3 (a PLD figure of odd mechanisms).
MAX_MESSAGE_CHARS = 400  # One line that a terminal shows in a few rows.
SLACK = 1e-6  # Relative: two orders of addition.

NUMBERS: tuple[Any, ...] = (
    *(0, -0.0, 1, -1, 2, 0.5, 1.0, 1e-5, 1e-12, 5e-324, 1e-300, 1e-3, 6.798, 1e6, 1e9, 1e10, 1e300, 1.8e308),
    *(math.nan, math.inf, -math.inf, 10**12, 10**12 + 1, 2**63, -(2**63), 10**400, -(10**400), 10**5000),
    *(True, False, None, "", "1", "nan", "1e-5", b"1", "\n", "\ud800", [], [1.0], {}, {"a": 1}, (), object()),
    *(1 + 0j, Decimal("1"), Decimal("sNaN"), Decimal("1e999999"), Fraction(1, 3), Fraction(10**400), np.float64(0.1)),
    *(
        np.float32(1e30),
        np.float64("nan"),
        np.int64(7),
        np.array([1.0, 2.0]),
        np.array(3.0),
        np.datetime64("2026-01-01"),
    ),
    *(range(3), float, lambda: 1.0, Unit.DAY, Neighbours.REPLACE),
)
"""Whatever a caller may put where a number belongs."""
NAMES: tuple[Any, ...] = (
    *(
        "",
        " ",
        "a",
        "b",
        "night",
        "x" * 200,
        "x" * 201,
        "a\nb",
        "\x00",
        "\ud800",
        "‮",
        "total",
        "block a",
        "=1+1",
        "'; --",
    ),
    *(None, 7, 1.5, b"a", [], ["a"], [["a"]], {}, ("a", "a"), object(), Unit.DAY, math.nan),
)
"""Whatever a caller may put where a name belongs."""


class Violation(AssertionError):
    """An outcome that must not be."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """A sound ledger and what is true of it."""

    folder: Path
    """Holds ledger.db, older.db (a copy before the last run), anchor.json."""
    export: str
    """What the ledger exports."""
    spent: dict[str, dict[str, float]]
    """Epsilon of every block of every scope."""
    entries: int
    """Number of entries."""


Door = Callable[[random.Random, Base, Path], str]
"""Attack once: a chance, a sound ledger and an empty folder in, a word for what came of it out."""


def require(condition: bool, what: str) -> None:
    """Refuse an outcome."""
    if not condition:
        raise Violation(what)


# The sound ledger


def write_base(folder: Path) -> Base:
    """Write the ledger that is attacked: every kind of entry, every mechanism, two scopes; the same for every seed."""
    clock, anchor = Clock(), FileAnchor(folder / "anchor.json")
    budget = Budget(epsilon=8, total_epsilon=20, period_epsilon=8, period_days=7, caller_epsilon=6)
    with (
        mock.patch("privacy.ledger_file.secrets.token_hex", return_value="f" * 32),
        Ledger.open(folder / "ledger.db", key=KEY, budget=budget, anchor=anchor, clock=clock) as ledger,
    ):
        ledger.set_budget(Budget(epsilon=1, unit=Unit.DAY), scope="telemetry")
        receipt = ledger.reserve(DpSgdRun(noise_multiplier=6.798, sampling_rate=1.0, steps=10), blocks=["monday"])
        ledger.draw(receipt, 10)
        ledger.close(receipt)
        clock.move(days=1)
        for run in (
            DpSgdRun(noise_multiplier=1.5, sampling_rate=0.032, steps=60),
            GaussianRelease(noise_multiplier=20, count=2),
            GateRelease(noise_multiplier=30),
            LaplaceRelease(scale=40),
            MatrixFactorisationRun(noise_multiplier=25, steps=40, bands=8, min_separation=10, max_participations=4),
        ):
            ledger.reserve(run, blocks=["tuesday", "wednesday"], caller="other")
        ledger.reserve(LaplaceRelease(scale=2, unit=Unit.DAY), blocks=["tuesday"], scope="telemetry")
        with (
            closing(sqlite3.connect(folder / "ledger.db")) as now,
            closing(sqlite3.connect(folder / "older.db")) as copy_,
        ):
            now.backup(copy_)
        ledger.reserve(GaussianRelease(noise_multiplier=9), blocks=["wednesday"])
        spent = {scope: ledger.spent_by_block(scope) for scope in ledger.scopes()}
        return Base(folder=folder, export=ledger.export(), spent=spent, entries=len(ledger.entries()))


def reopen(folder: Path, *, anchored: bool = True) -> Ledger:
    """Open the attacked ledger as the device would."""
    anchor = FileAnchor(folder / "anchor.json") if anchored else None
    return Ledger.open(folder / "ledger.db", key=KEY, anchor=anchor, clock=Clock(), busy_seconds=0.05)


def require_nothing_fell(ledger: Ledger, base: Base) -> None:
    """Refuse a ledger that works on but tells less than was spent."""
    for scope, blocks in base.spent.items():
        found = ledger.spent_by_block(scope)
        for block, truth in blocks.items():
            require(found.get(block, 0.0) >= truth * (1 - SLACK), f"epsilon of {scope}/{block} fell from {truth}")


def use_on(ledger: Ledger, base: Base, chance: random.Random) -> str:
    """Use a ledger that survived an attack: it must still tell the truth, spend, verify and export."""
    require_nothing_fell(ledger, base)
    receipt = ledger.reserve(GaussianRelease(noise_multiplier=60), blocks=["thursday"])
    ledger.draw(receipt)
    ledger.close(receipt)
    ledger.verify()
    if chance.random() < 0.2:
        verify_export(ledger.export(beside=False), key=KEY, beside=False)
    require_nothing_fell(ledger, base)
    return "works on, nothing lost"


# Doors of Python callers


def odd(chance: random.Random, sound: Any, often: float = 0.6) -> Any:
    """Return something sound, or `often` a number near the edges or anything at all."""
    if chance.random() >= often:
        return sound
    if chance.random() < 0.3:
        return chance.choice((1, -1)) * 10 ** chance.uniform(-320, 308)
    return chance.choice(NUMBERS)


def odd_event(chance: random.Random, often: float = 0.5, **kept: Any) -> Event:
    """Construct an event from sound values but for those `kept`, and `often` odd ones, or let it refuse them."""
    kinds = (DpSgdRun, GaussianRelease, GateRelease, LaplaceRelease, MatrixFactorisationRun)
    kind: Any = chance.choice(kinds)
    sound = {
        "noise_multiplier": 10 ** chance.uniform(-3, 3),
        "scale": 10 ** chance.uniform(-3, 3),
        "sampling_rate": chance.choice((1.0, 10 ** chance.uniform(-12, 0))),
        "steps": chance.choice((1, 40, chance.randint(1, 10**12))),
        "count": chance.choice((1, chance.randint(1, 10**12))),
        "bands": chance.randint(1, 50),
        "min_separation": chance.choice((1, 10, 10**6)),
        "max_participations": chance.choice((1, 4, 10**12)),
        "clip_norm": 1.0,
        "unit": chance.choice((*Unit, "record", "message")),
        "neighbours": chance.choice(tuple(Neighbours)),
        **kept,
    }
    if kind is MatrixFactorisationRun:
        sound["steps"] = chance.randint(1, 2000)
    values = {field.name: sound[field.name] for field in fields(kind)}
    if chance.random() < often:
        for name in chance.sample(sorted(values), chance.randint(1, 2)):
            values[name] = odd(chance, values[name])
    return kind(**values)  # type: ignore[no-any-return]


def odd_numbers(chance: random.Random, base: Base, folder: Path) -> str:
    """Attack `epsilon`: it must be refused, or be sound against laws that need no second implementation."""
    common: dict[str, Any] = {"unit": "record", "neighbours": chance.choice(tuple(Neighbours))}
    kept = common if chance.random() < 0.9 else {}
    events = [odd_event(chance, 0.2, **kept) for _ in range(chance.randint(1, 3))]
    delta: Any = odd(chance, 10 ** chance.uniform(-12, -1), 0.3)
    accountant: Any = chance.choice(("rdp", "rdp", "rdp", "rdp", "pld", odd(chance, "rdp")))
    spent = epsilon(events, delta=delta, accountant=accountant, records=odd(chance, None, 0.2))
    require(isinstance(spent, float) and spent >= 0, f"epsilon is {spent!r}")
    enforced = epsilon(events, delta=delta, accountant="rdp")
    require(spent <= enforced, f"the figure beside, {spent}, is above the enforced {enforced}")
    require(
        epsilon(events[:1], delta=delta, accountant="rdp") <= enforced * (1 + SLACK), "one event costs more than all"
    )
    require(epsilon(events[::-1], delta=delta, accountant="rdp") == enforced, "the order of events shows")
    require(epsilon(events, delta=delta / 10, accountant="rdp") >= enforced, "a smaller delta costs less")
    groups = group(events)
    require(bool((curve_of(groups) >= 0).all()), "a divergence is negative or NaN")
    if {mechanism.name for mechanism in groups} == {"gaussian"}:
        precision = sum(uses / mechanism.noise / mechanism.noise for mechanism, uses in groups.items())
        if 0 < precision < 1e5:
            exact = gaussian_epsilon(1 / math.sqrt(precision), delta)
            require(spent >= exact * (1 - SLACK), f"epsilon {spent} is below the exact {exact}")
    return "a sound epsilon"


def odd_inverse(chance: random.Random, base: Base, folder: Path) -> str:
    """Attack `noise_multiplier`: the noise must hold the budget."""
    budget, delta = odd(chance, 10 ** chance.uniform(-3, 2), 0.3), odd(chance, 1e-5, 0.3)
    rate, steps = odd(chance, chance.choice((1.0, 0.01)), 0.2), odd(chance, chance.randint(1, 10**6), 0.2)
    prior = chance.choice(((), (), GaussianRelease(noise_multiplier=40), odd(chance, ())))
    noise = noise_multiplier(epsilon=budget, delta=delta, sampling_rate=rate, steps=steps, prior=prior)
    before = [prior] if isinstance(prior, Event) else list(prior)
    run = DpSgdRun(noise_multiplier=noise, sampling_rate=rate, steps=steps)
    require(
        epsilon([*before, run], delta=delta, accountant="rdp") <= budget, f"noise {noise} does not hold {shown(budget)}"
    )
    return "noise that holds"


def odd_budget(chance: random.Random, base: Base, folder: Path) -> str:
    """Attack `Budget`: what is accepted must be finite, positive and come back from its written form."""
    sound: dict[str, Any] = {"epsilon": 8.0, "delta": 1e-5, "period_epsilon": 2.0, "period_days": 7, "unit": "record"}
    sound |= {"total_epsilon": 20, "caller_epsilon": None, "neighbours": "zero_out"}
    for name in chance.sample(sorted(sound), chance.randint(1, 3)):
        sound[name] = odd(chance, sound[name])
    written: Any = {"format": "budget/1", **sound}
    if chance.random() < 0.3:
        written = hostile(chance, written)
    budget = Budget(**sound) if chance.random() < 0.5 else Budget.from_dict(written)
    limits = (budget.epsilon, budget.total_epsilon, budget.period_epsilon, budget.caller_epsilon)
    require(all(limit is None or 0 < limit < math.inf for limit in limits), f"{budget} has no sound limit")
    require(0 < budget.delta <= 1e-5, f"{budget} has no sound delta")
    require(Budget.from_dict(json.loads(canonical(budget.to_dict()))) == budget, f"{budget} changes when written")
    return "a sound budget"


def hostile_event(chance: random.Random, base: Base, folder: Path) -> str:
    """Attack `event_from_dict`: what is read must come back, and be charged or refused."""
    written: Any = odd_event(chance).to_dict()
    for _ in range(chance.randint(0, 3)):
        written = hostile(chance, written)
    event = event_from_dict(written)
    again = event_from_dict(json.loads(canonical(event.to_dict())))
    require(again == event, f"{event} changes when written")
    spent = epsilon(event, delta=1e-5, accountant="rdp")
    require(spent >= 0, f"epsilon of {event} is {spent}")
    return "an event that comes back"


# Doors of exported text


def hostile(chance: random.Random, value: Any) -> Any:
    """Change something at a random place inside JSON-like values."""
    value = copy.deepcopy(value)
    places = list(_places(value))
    if not places or chance.random() < 0.02:
        return chance.choice(NUMBERS)
    holder, name = chance.choice(places)
    act = chance.randrange(6)
    if act == 0:
        del holder[name]
    elif act == 1:
        other, there = chance.choice(places)
        holder[name] = copy.deepcopy(other[there])
    elif act == 2 and isinstance(holder, dict):
        holder[chance.choice(("extra", "", "x" * 1000, "event", "\ud800"))] = holder[name]
    elif act == 3 and isinstance(holder[name], int | float) and not isinstance(holder[name], bool):
        with suppress(OverflowError):  # A float times a huge whole number.
            holder[name] = holder[name] * chance.choice((0, -1, 0.5, 0.999, 2, 10**6, 10**400))
    else:
        holder[name] = odd(chance, chance.choice(NAMES))
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    names: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for name in names:
        yield value, name
        yield from _places(value[name])


def hostile_text(chance: random.Random, base: Base, folder: Path) -> str:
    """Garble exported text: with and without the key it must be refused, or prove no less than was spent."""
    text = base.export
    for _ in range(chance.randint(1, 3)):
        at, length = chance.randrange(len(text)), chance.choice((0, 1, 1, 5, 100, 10_000))
        pieces = (
            "",
            "0",
            "-",
            "9" * 5000,
            "1e999",
            "NaN",
            '"',
            "\\",
            "{",
            "[" * 3000,
            "\ud800",
            "\x00",
            "null",
            ",",
            "e",
        )
        middle = chance.choice((*pieces, text[chance.randrange(len(text)) :][:50]))
        text = text[:at] + middle + text[at + length :]
    given: Any = text if chance.random() < 0.98 else odd(chance, None)
    verdict = verify_export(given, key=chance.choice((None, KEY)), beside=False)
    for scope, blocks in base.spent.items():
        truth = max(blocks.values())
        require(verdict.spent.get(scope, 0.0) >= truth * (1 - SLACK), f"a garbled export proves less than {truth}")
    return "a garbled export that proves no less"


def hostile_export(chance: random.Random, base: Base, folder: Path) -> str:
    """Change values of an export without fitting its hashes again, or make all its claims smaller together."""
    written: Any = json.loads(base.export)
    if chance.random() < 0.3:
        written["claims"] = scaled(written["claims"], chance.choice((0.0, 0.5, 0.99, 0.9999)))
    for _ in range(chance.randint(0, 2)):
        written = hostile(chance, written)
    try:
        text = json.dumps(written, default=str)
    except (TypeError, ValueError):
        return "not JSON: not sent"
    verdict = verify_export(text, key=chance.choice((None, KEY)), beside=False)
    for scope, blocks in base.spent.items():
        truth = max(blocks.values())
        require(verdict.spent.get(scope, 0.0) >= truth * (1 - SLACK), f"a changed export proves less than {truth}")
    return "a changed export that proves no less"


def scaled(claims: Any, factor: float) -> Any:
    """Multiply every epsilon that is claimed."""
    if isinstance(claims, dict):
        kept = ("delta", "order")
        return {name: claim if name in kept else scaled(claim, factor) for name, claim in claims.items()}
    return claims * factor if isinstance(claims, float) else claims


def forged_export(chance: random.Random, base: Base, folder: Path) -> str:
    """Change entries and fit hashes and claims again, as anybody without the key can.

    With the key it must be refused. Without, what is accepted must cost what the ledger's own accounting says it costs.
    """
    written: Any = json.loads(base.export)
    entries = written["entries"]
    for entry in entries:
        entry["body"] = json.loads(entry["body"])
    for _ in range(chance.randint(1, 2)):
        entry = chance.choice(entries)
        entry["body"] = hostile(chance, entry["body"])
    if chance.random() < 0.3:
        entries = chance.choice((entries[:-1], entries[:1] + entries[2:], [*entries, copy.deepcopy(entries[-1])]))
    try:
        text = json.dumps({**written, "entries": chained(entries), "head": tail(entries)})
    except (TypeError, ValueError):
        return "not JSON: not sent"
    if chance.random() < 0.3:
        verify_export(text, key=KEY, beside=False)
        raise Violation("a forged export carries this device's seal")
    verdict = verify_export(text, beside=chance.random() < 0.05)
    require_costs(entries, verdict.spent)
    return "a forged export at its true cost"


def chained(entries: list[Any]) -> list[Any]:
    """Link entries by their hashes; bodies are written as they are, sound or not.

    Raises:
        ValueError: A whole number is too long to be written at all.
    """
    previous = "0" * 64
    for seq, entry in enumerate(entries, start=1):
        entry |= {"seq": seq, "body": json.dumps(entry["body"], default=str), "previous": previous}
        named = ("seq", "at", "kind", "scope", "caller", "receipt", "body", "previous")
        linked = json.dumps([entry[name] for name in named], separators=(",", ":"))
        previous = entry["hash"] = hashlib.sha256(linked.encode()).hexdigest()
    return entries


def tail(entries: list[Any]) -> dict[str, Any]:
    """Return the head that fits."""
    return {"seq": len(entries), "hash": entries[-1]["hash"]}


def require_costs(entries: list[dict[str, Any]], spent: Any) -> None:
    """Refuse a verdict on what the ledger itself could not read, or below what it says that the events cost."""
    budgets: dict[str, Budget] = {}
    blocks: dict[str, dict[str, list[Event]]] = {}
    for entry in entries:
        facts = json.loads(entry["body"])
        try:
            if entry["kind"] == "budget":
                budgets[entry["scope"]] = Budget.from_dict(facts["budget"])
            event = event_from_dict(facts["run"]) if entry["kind"] == "reserve" else None
        except PrivacyError as error:
            raise Violation(f"an export verifies with an entry that the ledger refuses: {error}") from error
        for block in facts["blocks"] if event else ():
            blocks.setdefault(entry["scope"], {}).setdefault(block, []).append(event)  # type: ignore[arg-type]
    for scope, charged in blocks.items():
        own = max(epsilon(events, delta=budgets[scope].delta, accountant="rdp") for events in charged.values())
        require(spent[scope] >= own * (1 - 1e-5) - 1e-9, f"{scope} is verified at {spent[scope]}, but costs {own}")


# Doors of the ledger's file

COLUMNS = ("seq", "at", "kind", "scope", "caller", "receipt", "body", "previous", "hash", "mac")


def edit_rows(chance: random.Random, path: Path) -> None:
    """Edit rows in a SQLite shell, with the triggers out of the way, as often as not put back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as shell:
        triggers = shell.execute("select name, sql from sqlite_master where type = 'trigger'").fetchall()
        for name, _ in triggers:
            shell.execute(f"drop trigger {name}")
        last = shell.execute("select max(seq) from entries").fetchone()[0]
        for _ in range(chance.randint(1, 3)):
            try:
                statement, values = edit(chance, last)
                shell.execute(statement, values)
            except (sqlite3.Error, OverflowError, UnicodeEncodeError):
                continue  # SQLite itself would not have it.
        for _, sql in triggers:
            if chance.random() < 0.9:
                with suppress(sqlite3.Error):  # Its table may be gone.
                    shell.execute(sql)


def edit(chance: random.Random, last: int) -> tuple[str, list[Any]]:
    """Return one hostile statement."""
    row, other, column = chance.randint(1, last), chance.randint(1, last), chance.choice(COLUMNS)
    literals: tuple[Any, ...] = (
        None,
        0,
        -1,
        2**63 - 1,
        1.5,
        math.inf,
        "",
        "x",
        b"\xff\x00",
        "[" * 10_000,
        "{}",
        "\x00",
        "null",
    )
    value = chance.choice((*literals, '{"steps":-5}', '{"clock_behind_seconds":NaN}', "9" * 6000))
    return chance.choice(
        (
            (f"update entries set {column} = ? where seq = ?", [value, row]),
            (f"update entries set {column} = (select {column} from entries where seq = ?) where seq = ?", [other, row]),
            ("update entries set body = replace(body, '9', '8') where seq = ?", [row]),
            ("update entries set body = json_set(body, '$.blocks', json('[]')) where seq = ?", [row]),
            ("update entries set body = json_set(body, '$.run.noise_multiplier', 1e9) where seq = ?", [row]),
            ("update entries set body = cast(body as blob) where seq = ?", [row]),
            ("update entries set body = cast(x'c328' as text) where seq = ?", [row]),
            ("update entries set seq = seq + ? where seq = ?", [chance.choice((-1000, 1000, 2**62)), row]),
            ("delete from entries where seq = ?", [row]),
            ("delete from entries where seq > ?", [row]),
            ("delete from head", []),
            (f"update head set {chance.choice(('seq', 'hash', 'mac'))} = ?", [value]),
            ("update head set seq = ?, hash = (select hash from entries where seq = ?)", [row, row]),
            ("insert into head values (2, 1, 'x', 'y')", []),
            ("drop view runs", []),
            ("drop table head", []),
            ("drop table entries", []),
            ("alter table entries add column refund text", []),
            ("create trigger quiet after insert on entries begin delete from head; end", []),
            ("create view head2 as select * from head", []),
            ("pragma user_version = ?".replace("?", str(chance.choice((-1, 0, 1, 3, 2**31 - 1)))), []),
            ("pragma writable_schema = on", []),
            ("vacuum", []),
        )
    )


def hostile_rows(chance: random.Random, base: Base, folder: Path) -> str:
    """Edit the closed ledger's rows by hand, then open it."""
    copy_base(base, folder)
    edit_rows(chance, folder / "ledger.db")
    with reopen(folder, anchored=chance.random() < 0.5) as ledger:
        return use_on(ledger, base, chance)


def hostile_rows_while_open(chance: random.Random, base: Base, folder: Path) -> str:
    """Edit rows by hand while the ledger is open, then go on with it, then open it again."""
    copy_base(base, folder)
    with reopen(folder) as ledger:
        edit_rows(chance, folder / "ledger.db")
        try:
            use_on(ledger, base, chance)
        except PrivacyError as refused:
            require_one_line(refused)
    with reopen(folder) as ledger:
        require_nothing_fell(ledger, base)
        return use_on(ledger, base, chance)


def hostile_bytes(chance: random.Random, base: Base, folder: Path) -> str:
    """Shorten, flip, overwrite, exchange and swap parts of the file, or put a strange log beside it."""
    copy_base(base, folder)
    path = folder / "ledger.db"
    whole = bytearray(path.read_bytes())
    page = 4096
    for _ in range(chance.randint(1, 3)):
        act = chance.randrange(8)
        at = chance.randrange(max(len(whole), 1))
        if act == 0:
            del whole[chance.choice((0, 1, 16, 100, at, at // page * page)) :]
        elif act == 1:
            for _ in range(chance.choice((1, 1, 8, 500))):
                if whole:
                    whole[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        elif act == 2:
            whole[at : at + chance.choice((1, 8, page))] = chance.randbytes(chance.choice((1, 8, page)))
        elif act == 3 and len(whole) >= 3 * page:
            one, two = (chance.randrange(len(whole) // page) * page for _ in range(2))
            whole[one : one + page], whole[two : two + page] = whole[two : two + page], whole[one : one + page]
        elif act == 4:
            whole = bytearray((base.folder / "older.db").read_bytes())
        elif act == 5:
            header = chance.randrange(100)
            if len(whole) > header:
                whole[header] = chance.randrange(256)
        elif act == 6:
            whole += chance.randbytes(chance.choice((1, page)))
        else:
            for suffix in chance.choice((("-wal",), ("-shm",), ("-wal", "-shm"), ("-journal",))):
                (folder / f"ledger.db{suffix}").write_bytes(chance.randbytes(chance.choice((0, 32, 5000))))
    path.write_bytes(whole)
    with reopen(folder) as ledger:
        return use_on(ledger, base, chance)


def older_copy(chance: random.Random, base: Base, folder: Path) -> str:
    """Put an older copy back where an anchor remembers the newer one, or garble the anchor: always refused."""
    copy_base(base, folder)
    anchor = folder / "anchor.json"
    if chance.random() < 0.5:
        shutil.copy(base.folder / "older.db", folder / "ledger.db")
    else:
        text = bytearray(anchor.read_bytes())
        for _ in range(chance.randint(1, 5)):
            text[chance.randrange(len(text))] = chance.randrange(256)
        if bytes(text) == anchor.read_bytes():
            return "the anchor stayed the same"
        extremes = (b"", b"null", b"[" * 4000, b'{"format": 1}', b"\xff" * 100, b"9" * 4096)
        anchor.write_bytes(chance.choice((bytes(text), bytes(text), *extremes)))
    with reopen(folder):
        raise Violation("a rolled-back ledger, or a garbled anchor, was accepted")


def strange_place(chance: random.Random, base: Base, folder: Path) -> str:
    """Open what is no ledger: a folder, a text, another database, an export, with any key."""
    path = folder / "ledger.db"
    act = chance.randrange(6)
    if act == 0:
        path.mkdir()
    elif act == 1:
        path.write_text(base.export, encoding="utf-8")
    elif act == 2:
        with closing(sqlite3.connect(path)) as other:
            other.execute("create table entries (a)")
    elif act == 3:
        path.write_bytes(chance.randbytes(chance.choice((1, 100, 5000))))
    elif act == 4:
        copy_base(base, folder)
    else:
        path = folder / ("x" * 300)
    key: Any = chance.choice((KEY, KEY, KEY[:15], b"", b"x" * 32, "k" * 32, None, 7))
    budget: Any = chance.choice((None, Budget(epsilon=1.0), 7))
    with Ledger.open(path, key=key, budget=budget, scope=odd_name(chance, "experience")) as ledger:
        if act == 4:
            require(key == KEY, "another device's key was accepted")
            return use_on(ledger, base, chance)
        require(act == 3 and len(ledger.entries()) <= 2, f"attack {act} was accepted")
        return "one byte is no file: a new ledger"


def copy_base(base: Base, folder: Path) -> None:
    """Copy the sound ledger and its anchor."""
    for name in ("ledger.db", "anchor.json"):
        shutil.copy(base.folder / name, folder / name)


# The door of a live ledger


def live_calls(chance: random.Random, base: Base, folder: Path) -> str:
    """Call a live ledger with odd arguments: spend never falls, and what it exports verifies."""
    refused = 0
    with Ledger.open(folder / "ledger.db", key=KEY, budget=Budget(epsilon=chance.choice((1.0, 50.0)))) as ledger:
        receipts: list[Any] = [None, 7, Receipt(run=NIGHT, blocks=("a",), scope="experience", id=chance.choice(NAMES))]
        common: dict[str, Any] = {"unit": "record", "neighbours": "zero_out"}
        calls: tuple[Callable[[], Any], ...] = (
            lambda: receipts.append(
                ledger.reserve(
                    chance.choice((odd_event(chance), odd(chance, None))),
                    blocks=odd_names(chance),
                    scope=odd_name(chance, "experience"),
                    caller=odd_name(chance, "learner"),
                    plan_digest=odd_name(chance, ""),
                    records=odd(chance, None),
                )
            ),
            lambda: receipts.append(ledger.reserve(odd_event(chance, 0.1, **common), blocks=["a"])),
            lambda: ledger.draw(chance.choice(receipts), odd(chance, 1)),
            lambda: ledger.close(chance.choice(receipts), odd_name(chance, "admitted")),
            lambda: ledger.set_budget(
                chance.choice((Budget(epsilon=10 ** chance.uniform(-2, 2)), odd(chance, None))),
                scope=odd_name(chance, "experience"),
                allow_raise=chance.random() < 0.5,
            ),
            lambda: ledger.left(odd_name(chance, "experience"), chance.choice((None, odd_names(chance)))),
            lambda: ledger.affordable(odd_event(chance), blocks=odd_names(chance), caller=odd_name(chance, "learner")),
            lambda: ledger.spent(odd_name(chance, "experience"), chance.choice(("rdp", odd_name(chance, "rdp")))),
            lambda: ledger.spent_by_block(odd_name(chance, "experience")),
            lambda: ledger.spent_by_caller(odd_name(chance, "experience")),
            lambda: ledger.spent_in_total(odd_name(chance, "experience")),
            lambda: ledger.budget(odd_name(chance, "experience")),
        )
        before: dict[tuple[str, str], float] = {}
        for _ in range(chance.randint(3, 15)):
            try:
                chance.choice(calls)()
            except PrivacyError as error:
                require_one_line(error)
                refused += 1
            ledger.verify()
            after = {(s, b): spent for s in ledger.scopes() for b, spent in ledger.spent_by_block(s).items()}
            for name, spent in before.items():
                require(
                    after.get(name, 0.0) >= spent * (1 - SLACK),
                    f"epsilon of {name} fell from {spent} to {after.get(name)}",
                )
            before = after
        text = ledger.export(beside=False)
        ledger.export_csv()
        verdict = verify_export(text, key=KEY, beside=False)
        require(verdict.spent == {scope: ledger.spent(scope) for scope in ledger.scopes()}, "export and ledger differ")
    return "calls refused or right, export verified" if refused else "calls all right, export verified"


def odd_name(chance: random.Random, sound: str) -> Any:
    """Return a sound name, or anything."""
    return sound if chance.random() < 0.7 else chance.choice(NAMES)


def odd_names(chance: random.Random) -> Any:
    """Return sound names, or anything."""
    if chance.random() < 0.5:
        return chance.sample(("a", "b", "c"), chance.randint(1, 3))
    return chance.choice((*NAMES, [odd_name(chance, "a") for _ in range(chance.randint(0, 3))]))


# The bench

DOORS: dict[str, tuple[Door, int]] = {
    "epsilon of odd numbers": (odd_numbers, 6),
    "noise for an odd budget": (odd_inverse, 3),
    "Budget": (odd_budget, 6),
    "event_from_dict": (hostile_event, 6),
    "calls of a live ledger": (live_calls, 3),
    "hand-edited rows": (hostile_rows, 6),
    "rows edited while open": (hostile_rows_while_open, 3),
    "damaged and swapped files": (hostile_bytes, 6),
    "older copies, garbled anchors": (older_copy, 2),
    "no ledger at all": (strange_place, 2),
    "garbled export": (hostile_text, 6),
    "changed export": (hostile_export, 4),
    "forged export": (forged_export, 6),
}
"""Each door, and how often it is knocked at."""


def require_one_line(error: PrivacyError) -> None:
    """Refuse an error that a person cannot read in a line."""
    text = str(error)
    require(bool(text) and text.isprintable(), f"the message of {type(error).__name__} is no line: {text[:200]!r}")
    require(
        len(text) <= MAX_MESSAGE_CHARS,
        f"the message of {type(error).__name__} has {len(text)} characters: {text[:200]}",
    )


def knock(seed: int, case: int, base: Base) -> tuple[str, str]:
    """Run one case; return its door and what came of it.

    Raises:
        Violation: It ended in another way than a refusal in one line or a correct answer.
    """
    chance = random.Random(f"{seed}/{case}")
    name = chance.choices(list(DOORS), [weight for _, weight in DOORS.values()])[0]
    with tempfile.TemporaryDirectory() as folder, limited(MAX_CASE_SECONDS):
        try:
            return name, DOORS[name][0](chance, base, Path(folder))
        except PrivacyError as error:
            require_one_line(error)
            return name, f"refused: {type(error).__name__}"
        except Violation:
            raise
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            line = f"{type(error).__name__}: {str(error)[:200]} (at {Path(where.filename).name}:{where.lineno})"
            raise Violation(f"{name}: {line}") from error


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Stop what takes longer (CPU) where the system can; elsewhere only the whole bench's time is limited."""

    def stop(_: int, __: FrameType | None) -> None:
        raise Violation(f"takes more than {seconds:g} CPU s")

    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@click.command()
@click.option("--seconds", type=click.FloatRange(0.1), default=60.0, show_default=True, help="How long (wall clock).")
@click.option("--seed", type=int, help="Seed of all cases. [drawn, and printed]")
@click.option("--case", type=click.IntRange(0), help="Run this case of the seed only, with its traceback.")
@click.option("--keep-going", is_flag=True, help="Count violations instead of stopping at the first.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def main(seconds: float, seed: int | None, case: int | None, keep_going: bool, as_json: bool) -> None:
    """Attack the privacy package with hostile input; exit with 1 when it did anything but refuse or answer right."""
    warnings.simplefilter("error")  # A warning is noise on somebody's terminal: as in the tests.
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    counts: Counter[tuple[str, str]] = Counter()
    violations: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        base = write_base(Path(folder))
        if case is not None:
            door, outcome = knock(seed, case, base)
            click.echo(f"{door}: {outcome}")
            return
        give_up, tried = time.monotonic() + seconds, 0
        while time.monotonic() < give_up and (keep_going or not violations):
            try:
                counts[knock(seed, tried, base)] += 1
            except Violation as found:
                violations.append({"case": tried, "what": str(found)})
            tried += 1
    facts = {
        "seed": seed,
        "cases": tried,
        "violations": violations,
        "outcomes": [{"door": door, "outcome": outcome, "count": count} for (door, outcome), count in counts.items()],
    }
    rows = [(door, outcome, str(count)) for (door, outcome), count in sorted(counts.items())]
    lines = [f"{tried} cases, {len(violations)} violations, seed {seed}", table(("door", "outcome", "cases"), rows)]
    again = "python -m tests.bench.fuzz --seed"
    lines += [f"VIOLATION {one['what']}\n  again: {again} {seed} --case {one['case']}" for one in violations]
    show(facts, "\n".join(lines), as_json=as_json)
    raise SystemExit(1 if violations else 0)


if __name__ == "__main__":
    main()
