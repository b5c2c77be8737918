"""Clients that ask at once in, answers a second and time to the first piece out: the server against the model alone.

Every client is a thread with its own connection. Half of the prompts are new each time, half are repeated, so that the
model reads them again or not, as it would in use. The same prompts are given to the model without a server, by as many
threads as the server answers at once: what is left is the cost of HTTP, JSON and the queue.
"""

import http.client
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click

from sdk.bundle import Bundle
from sdk.device.server.answering import Ask
from sdk.device.server.limits import Limits
from sdk.device.server.listen import running
from sdk.device.server.local import Local
from tests.figures import show, table
from tests.tiny import tiny_bundle

CLIENTS = (1, 8, 32)
LIMITS = Limits(per_minute=10_000_000, waiting=64)

Asked = Callable[[str, int], float]
"""A prompt and its answer's most tokens in; seconds to the first piece out, when the answer is whole."""


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path, exists=True, file_okay=False), help="[a tiny random model]")
@click.option("--tokens", type=click.IntRange(1), default=16, show_default=True, help="Of each answer.")
@click.option("--requests", type=click.IntRange(32), default=192, show_default=True, help="Of each row.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(bundle: Path | None, tokens: int, requests: int, as_json: bool) -> None:
    """Measure one model."""
    with tempfile.TemporaryDirectory() as folder:
        local = Local.open(Path(folder), bundle=Bundle.open(bundle) if bundle else tiny_bundle(Path(folder)))
        rows: list[dict[str, Any]] = [
            {"way": "model alone", "clients": LIMITS.at_once}
            | measured(directly(local), LIMITS.at_once, requests, tokens)
        ]
        with running(local, limits=LIMITS) as url:
            rows += [
                {"way": "server", "clients": clients} | measured(over_http(url), clients, requests, tokens)
                for clients in CLIENTS
            ]
    names = ("per_second", "first_ms", "first_p95_ms", "cpu_ms")
    shown = [[str(row["way"]), str(row["clients"]), *(f"{row[name]:.1f}" for name in names)] for row in rows]
    columns = ["asked", "clients", "answers/s", "first piece, ms", "95 % within, ms", "CPU, ms an answer"]
    show({"rows": rows, "tokens": tokens, "requests": requests}, table(columns, shown), as_json=as_json)


def measured(asked: Asked, clients: int, requests: int, tokens: int) -> dict[str, Any]:
    """Ask `requests` prompts from so many threads."""
    with ThreadPoolExecutor(clients) as threads:
        list(threads.map(lambda number: asked(f"warm {number}", tokens), range(clients)))
        began, used = time.perf_counter(), time.process_time()
        prompts = [f"the cat {number if number % 2 else 0}" for number in range(requests)]
        firsts = sorted(threads.map(lambda prompt: asked(prompt, tokens), prompts))
        seconds = time.perf_counter() - began
    return {
        "per_second": requests / seconds,
        "cpu_ms": 1000 * (time.process_time() - used) / requests,
        "first_ms": 1000 * statistics.median(firsts),
        "first_p95_ms": 1000 * firsts[int(0.95 * requests)],
    }


def directly(local: Local) -> Asked:
    """The model without a server."""

    def ask(prompt: str, tokens: int) -> float:
        turn = {"role": "user", "content": prompt}
        wanted = Ask(
            model="limbeck", messages=[turn], most_tokens=tokens, temperature=0.0, seed=None, stop=[], schema=None,
            tools=[], tool_choice="auto", top=None,
        )  # fmt: skip
        began = time.perf_counter()
        pieces = local.pieces(wanted, lambda: False)
        next(pieces)
        first = time.perf_counter() - began
        for _ in pieces:
            pass
        return first

    return ask


def over_http(url: str) -> Asked:
    """The same in a stream of events, one connection a thread."""
    mine, host = threading.local(), url.split("/")[2]

    def ask(prompt: str, tokens: int) -> float:
        if not hasattr(mine, "connection"):
            mine.connection = http.client.HTTPConnection(host, timeout=600)
        body = {"model": "limbeck", "stream": True, "max_tokens": tokens}
        body["messages"] = [{"role": "user", "content": prompt}]
        began = time.perf_counter()
        headers = {"Content-Type": "application/json"}
        mine.connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = mine.connection.getresponse()
        if response.status != 200:
            raise SystemExit(f"the server answered {response.status}: {response.read()!r:.300}")
        response.readline()
        first = time.perf_counter() - began
        if b"[DONE]" not in response.read():
            raise SystemExit("an answer was cut")
        return first

    return ask


if __name__ == "__main__":
    main()
