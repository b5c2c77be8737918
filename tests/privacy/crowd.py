"""A folder in; eight processes that spend from its ledger at once. On stdout, how many runs each was given.

Run as a program: python -m tests.privacy.crowd FOLDER RUNS same|own
"""

import os
import sys
from pathlib import Path

from privacy.anchor import FileAnchor
from privacy.errors import BudgetExhaustedError
from tests.privacy.ledgers import NIGHT, opened

WRITERS = 8


def spend(folder: Path, number: int, runs: int, own_blocks: bool) -> int:
    """Ask for `runs` nights; return how many were charged."""
    charged = 0
    with opened(folder, epsilon=4.0, anchor=FileAnchor(folder / "anchor")) as ledger:
        for index in range(runs):
            block = f"writer {number} night {index}" if own_blocks else "the last budget"
            try:
                ledger.draw(ledger.reserve(NIGHT, blocks=[block], caller=f"writer {number}"))
                charged += 1
            except BudgetExhaustedError:
                assert not own_blocks
            assert ledger.spent() <= 4.0
    return charged


def main(folder: Path, runs: int, own_blocks: bool) -> None:
    """Let all writers start at once, on a ledger that none of them has begun."""
    gate_reader, gate_writer = os.pipe()
    results = []
    for number in range(WRITERS):
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.close(gate_writer)
            os.read(gate_reader, 1)  # Returns when the parent closes the gate's other end.
            os.write(writer, str(spend(folder, number, runs, own_blocks)).encode())
            os._exit(0)
        os.close(writer)
        results.append(reader)
    os.close(gate_writer)
    print(*(os.read(reader, 100).decode() or "failed" for reader in results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "own")
