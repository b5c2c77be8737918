"""A folder and a way to kill in; on stdout, how many kills a ledger survived without losing a charge.

Run as a program, with one thread and nothing of pytest's in it, because it forks:
    python -m tests.privacy.sweep_ledger FOLDER syscalls|statements
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from privacy import Ledger, epsilon
from privacy.anchor import FileAnchor
from privacy.errors import BudgetExhaustedError
from tests.privacy.kill_sweep import Tell, killed_at, teller, traceable
from tests.privacy.ledgers import NIGHT, opened


def with_anchor(folder: Path) -> Ledger:
    """Open the ledger of `folder`: room for one night and no second."""
    return opened(folder, epsilon=2.5, anchor=FileAnchor(folder / "anchor"))


def begin(folder: Path, tell: Tell) -> None:
    """Open a ledger where there is none."""
    with_anchor(folder)
    tell("begun")


def night(ledger: Ledger, tell: Tell) -> None:
    """Reserve, draw and close; tell what has returned."""
    receipt = ledger.reserve(NIGHT, blocks=["b"])
    tell("reserved")
    ledger.draw(receipt, 4)
    tell("drew")
    ledger.draw(receipt, 6)
    tell("drew")
    ledger.close(receipt)
    tell("closed")


def require_nothing_lost(folder: Path, told: list[str]) -> None:
    """Open the ledger as the next start would, and compare it with what the killed process was told."""
    once = epsilon(NIGHT, delta=1e-5, accountant="rdp")
    with with_anchor(folder) as ledger:
        ledger.verify()
        spent = ledger.spent()
        assert spent in (0.0, once), spent
        if "reserved" in told:
            assert spent == once, "a charge was lost"
        kinds = [entry.kind for entry in ledger.entries()]
        assert kinds.count("draw") >= told.count("drew"), "a draw was lost"
        assert ("closed" not in told) or not ledger.open_receipts()
        for receipt in ledger.open_receipts():
            ledger.close(receipt, "crashed")
        assert ledger.spent() == spent, "a crash was refunded"
        try:
            ledger.reserve(NIGHT, blocks=["b"])
            assert spent == 0.0, "the last budget was spent twice"
        except BudgetExhaustedError:
            assert spent == once
        assert ledger.spent() <= 2.5


def at_every_system_call(folder: Path) -> int:
    """Kill the first start at every fifth system call, and a night on a ledger that exists at every one."""
    survived = 0
    for first_start in (True, False):
        stop, ended = 0, False
        while not ended:
            home = folder / f"{first_start}-{stop}"
            if first_start:
                ended, told = killed_at(lambda home=home: home, begin, stop)  # type: ignore[misc]
            else:
                with_anchor(home).disconnect()
                ended, told = killed_at(lambda home=home: with_anchor(home), night, stop)  # type: ignore[misc]
            require_nothing_lost(home, told)
            shutil.rmtree(home)
            stop += 9 if first_start else 1  # Two stops a call: an odd step meets both sides.
            survived += 1
    return survived


def at_every_statement(folder: Path) -> int:
    """Kill a night at every SQL statement, without tracing: works on any POSIX system."""
    survived, ended = 0, False
    while not ended:
        home = folder / f"statement-{survived}"
        with_anchor(home).disconnect()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            ledger = with_anchor(home)
            ledger._file._db.conn.set_trace_callback(_killer(survived))
            night(ledger, teller(writer))
            os._exit(0)
        os.close(writer)
        _, status = os.waitpid(child, 0)
        ended = os.WIFEXITED(status)
        with os.fdopen(reader, "rb") as pipe:
            require_nothing_lost(home, pipe.read().decode().split())
        shutil.rmtree(home)
        survived += 1
    return survived


def _killer(statements: int) -> Callable[[str], None]:
    left = [statements]

    def count(_: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return count


if __name__ == "__main__":
    folder, way = Path(sys.argv[1]), sys.argv[2]
    if way == "statements":
        print(at_every_statement(folder))
    else:
        print(at_every_system_call(folder) if traceable() else "cannot trace")
