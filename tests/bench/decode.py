"""A packed student in, how fast each engine reads and writes with it out, beside how fast this memory can be read.

Each engine runs in a process of its own, all at once and asked in turn, so that a busy machine slows all of them alike;
figures are medians over rounds, ratios are of one run. CPU seconds are of all threads of a process: where others
use the machine, they say more than the clock. llama.cpp and OpenVINO read a GGUF file of the very same
numbers (tests/packed_gguf.py); they are found by a Python that has them, given with --peers.

The bandwidth limit is the file's bytes over the rate at which numpy sums an array far larger than the caches, measured
between the rounds: no engine that reads every weight once a token can be faster.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import numpy as np

from sdk.bundle import Bundle, shipped_bundle
from tests.figures import show, table
from tests.packed_gguf import write_packed_gguf

OWN = ("portable", "portable, exact", "torch", "transformers")
PEERS = ("llama.cpp", "openvino")
WORKER = Path(__file__).parent / "decode_worker.py"
SUMMED_BYTES = 256 * 2**20
MB = 1e6

Row = dict[str, Any]


class Worker:
    """One engine's process."""

    def __init__(self, name: str, python: str, model: Path, threads: int) -> None:
        command = [python, str(WORKER), name, str(model), str(threads)] if name in PEERS else [
            python, "-m", "tests.bench.decode_worker", name, str(model), str(threads)
        ]  # fmt: skip
        self.name, self.threads = name, threads
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.loaded = self._read()

    def ask(self, prompt: list[int], new: int) -> Row:
        """One answer's times."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"prompt": prompt, "new": new}) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> Row:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("{"):
                told: Row = json.loads(line)
                return told
        raise click.ClickException(f"{self.name} ended with code {self.process.wait()}")

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def bandwidth(threads: int) -> float:
    """Bytes a second that so many threads read, the best of three passes."""
    parts = np.array_split(np.ones(SUMMED_BYTES // 4, np.float32), threads)
    rates = []
    for _ in range(3):
        readers = [threading.Thread(target=part.sum) for part in parts]
        began = time.perf_counter()
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        rates.append(SUMMED_BYTES / (time.perf_counter() - began))
    return max(rates)


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path, exists=True, file_okay=False), help="[the shipped student]")
@click.option("--peers", help="Python that has xllamacpp and openvino_genai. [none: own engines only]")
@click.option(
    "--engine", "wanted", multiple=True, type=click.Choice([*OWN, *PEERS]), help="Repeatable. [all there are]"
)
@click.option("--threads", type=click.IntRange(1), multiple=True, default=(1, 2), show_default=True)
@click.option("--prompt", "lengths", type=click.IntRange(1), multiple=True, default=(32, 128, 512), show_default=True)
@click.option("--new", type=click.IntRange(2), default=33, show_default=True, help="Tokens of each answer.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(
    bundle: Path | None, peers: str | None, wanted: tuple[str, ...], threads: tuple[int, ...],
    lengths: tuple[int, ...], new: int, rounds: int, as_json: bool,
) -> None:  # fmt: skip
    """Measure every engine that is there."""
    opened = Bundle.open(bundle) if bundle else shipped_bundle()
    if opened is None:
        raise click.ClickException("no student is shipped with this checkout; give one with --bundle")
    weights = opened.checkpoint / "model.safetensors"
    vocabulary = json.loads((opened.checkpoint / "config.json").read_bytes())["vocab_size"]
    prompt = np.random.default_rng(0).integers(3, vocabulary, max(lengths) + 7 * rounds * len(lengths)).tolist()
    names = [name for name in (*OWN, *(PEERS if peers else ())) if not wanted or name in wanted]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        gguf = Path(folder) / "student.gguf"
        write_packed_gguf(opened.checkpoint, gguf)
        for count in threads:
            rows += measured(names, opened.folder, gguf, peers, count, prompt, lengths, new, rounds)
    size = weights.stat().st_size
    for row in rows:
        row["of_limit"] = size / row["bytes_per_s"] / row["token_s"][str(lengths[0])]
        row["memory_of_file"] = (row["peak_bytes"] - row["before_bytes"]) / size
    show({"rows": rows, "file_bytes": size, "rounds": rounds, "new": new}, words(rows, lengths), as_json=as_json)


def measured(
    names: list[str], folder: Path, gguf: Path, peers: str | None, threads: int,
    prompt: list[int], lengths: tuple[int, ...], new: int, rounds: int,
) -> list[Row]:  # fmt: skip
    """Ask every engine every prompt, in turn."""
    rates: list[float] = []
    with ExitStack() as stack:
        workers = [
            stack.enter_context(
                Worker(name, peers or "", gguf, threads)
                if name in PEERS
                else Worker(name, sys.executable, folder, threads)
            )
            for name in names
        ]
        for worker in workers:
            worker.ask(prompt[: max(lengths)], 2)
        told: dict[tuple[str, int], list[Row]] = defaultdict(list)
        for turn in range(rounds):
            rates.append(bandwidth(threads))
            for place, length in enumerate(lengths):
                start = 7 * (turn * len(lengths) + place)  # No beginning comes twice: some engines would remember it.
                for worker in workers:
                    told[worker.name, length].append(worker.ask(prompt[start : start + length], new))
    return [_row(worker, [told[worker.name, length] for length in lengths], lengths, max(rates)) for worker in workers]


def _row(worker: Worker, told: list[list[Row]], lengths: tuple[int, ...], rate: float) -> Row:
    row: Row = {"engine": worker.name, "threads": worker.threads, "bytes_per_s": rate, **worker.loaded}
    for name in ("first_s", "first_cpu_s", "token_s", "token_cpu_s"):
        row[name] = {
            str(length): statistics.median(each[name] for each in asked)
            for length, asked in zip(lengths, told, strict=True)
        }
    return row | {
        "peak_bytes": max(each["peak_bytes"] for asked in told for each in asked),
        "tokens": told[0][0]["tokens"],
    }


def words(rows: list[Row], lengths: tuple[int, ...]) -> str:
    """Two tables a number of threads: the clock, and CPU."""
    parts = []
    for count in sorted({row["threads"] for row in rows}):
        mine = [row for row in rows if row["threads"] == count]
        rate = mine[0]["bytes_per_s"] / 1e9
        for what, suffix in (("by the clock", "_s"), ("CPU of all threads", "_cpu_s")):
            columns = [f"{count} thread{'s' * (count > 1)}, ms {what}"]
            columns += [f"first of {length}" for length in lengths] + [f"next at {length}" for length in lengths]
            shown = [
                [row["engine"], *(f"{1000 * row[f'first{suffix}'][str(length)]:.0f}" for length in lengths),
                 *(f"{1000 * row[f'token{suffix}'][str(length)]:.2f}" for length in lengths)]
                for row in mine
            ]  # fmt: skip
            parts.append(table(columns, shown))
        columns = [f"reads {rate:.1f} GB/s", "load, ms CPU", "of the limit", "memory, MB", "of the file"]
        shown = [
            [row["engine"], f"{1000 * row['load_cpu_s']:.0f}", f"{row['of_limit']:.0%}",
             f"{(row['peak_bytes'] - row['before_bytes']) / MB:.0f}", f"{row['memory_of_file']:.1f}"]
            for row in mine
        ]  # fmt: skip
        parts.append(table(columns, shown))
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
