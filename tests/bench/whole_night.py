"""One whole night, ours against Opacus and peft at rank 8, at equal epsilon and from the same public domain adapter.

Run with `python -m tests.bench.whole_night --bundle FOLDER [--records N]`; FOLDER is a base bundle with a pack
`commits` (`limbeck build basis`). Each engine runs in a process of its own: CPU seconds from the records as text to the
finished adapter, peak memory of the process, and the gain on the person's later text against the domain adapter.
Opacus gets that adapter merged into the weights, and the same records, head and epsilon; it takes full-batch steps of
Adam on A and B of the maps q, k, v and o of all layers, as peft users do.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor

from personalize.adapter import Adapter, sites
from personalize.forward import Encoded, encode, prefixes
from privacy import noise_multiplier
from sdk.bundle import Bundle
from tests.bench import people as data
from tests.bench.night import MEGABYTE, peak_bytes, trained_by, with_peft
from tests.bench.personal import MAX_TEST, MAX_TOKENS, Bench

EPSILON, DELTA, CLIP_NORM, RATE, MICROBATCH = 2.0, 1e-5, 1.0, 1e-3, 16


def merged(bench: Bench, adapter: Adapter) -> Any:
    """The base with an adapter inside its weights."""
    with torch.no_grad():
        for site, linear in sites(bench.base.model, adapter.spec).items():
            linear.weight += adapter.b[site] @ adapter.a[site]
    return bench.base.model


def mean_losses(model: Any, group: list[Encoded]) -> Tensor:
    """Loss of each record's completion, shape (batch,)."""
    ids = torch.zeros(len(group), max(len(one.ids) for one in group), dtype=torch.long)  # (batch, seq)
    weights = torch.zeros(ids.shape)
    for row, one in enumerate(group):
        ids[row, : len(one.ids)] = torch.tensor(one.ids)
        weights[row, one.completion : len(one.ids)] = 1.0
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]  # (batch, seq - 1, vocab)
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return (losses * weights[:, 1:]).sum(1) / weights[:, 1:].sum(1)


def opacus_night(model: Any, records: list[Encoded], steps: int) -> Any:
    """Full-batch DP-Adam by Opacus' hooks, its gradients accumulated over microbatches."""
    wrapped = GradSampleModule(with_peft(model), loss_reduction="sum")
    noise = noise_multiplier(epsilon=EPSILON, delta=DELTA, sampling_rate=1.0, steps=steps)
    optimizer = DPOptimizer(
        torch.optim.Adam(trained_by(wrapped), lr=RATE),
        noise_multiplier=noise,
        max_grad_norm=CLIP_NORM,
        expected_batch_size=len(records),
        loss_reduction="mean",
    )
    ordered = sorted(records, key=lambda record: len(record.ids))
    starts = range(0, len(ordered), MICROBATCH)
    for _ in range(steps):
        for first in starts:
            optimizer.signal_skip_step(do_skip=first != starts[-1])
            mean_losses(wrapped, ordered[first : first + MICROBATCH]).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    return wrapped


@torch.no_grad()
def nats(model: Any, records: list[Encoded]) -> float:
    """Mean loss of a completion token over all logits."""
    total = tokens = 0.0
    for first in range(0, len(records), MICROBATCH):
        group = records[first : first + MICROBATCH]
        counts = torch.tensor([len(one.ids) - one.completion for one in group])
        total += float((mean_losses(model, group) * counts).sum())
        tokens += float(counts.sum())
    return total / tokens


def measure(engine: str, given: argparse.Namespace) -> dict[str, float]:
    """One engine in this process."""
    torch.set_num_threads(1)
    split = data.commits()
    if split is None:
        raise SystemExit(f"skipped: no benchmark data beside the repository; {data.DATA} names its folder")
    name = next(name for name in data.shuffled(split.test) if len(split.test[name]) >= 1.25 * given.records)
    rows = split.test[name]
    later = rows[-(len(rows) // 5) :][:MAX_TEST]
    mine = rows[: len(rows) - len(rows) // 5][-given.records :]
    bench = Bench(Bundle.open(given.bundle), "commits", probes_per_leg=4)
    held = bench.read(later)
    read = [encode(bench.base.tokenizer, prompt, answer, max_tokens=MAX_TOKENS) for prompt, answer in mine]
    began = bench.nats(bench.start, held)
    if engine == "opacus":
        model = merged(bench, bench.start)
        cpu = time.process_time()
        wrapped = opacus_night(model, read, given.steps)
        cpu = time.process_time() - cpu
        gain = 1 - nats(wrapped, [row.record for row in held]) / began
    else:
        cpu = time.process_time()
        adapter = bench.private(list(prefixes(bench.base.model, read, cut=bench.cut)), EPSILON)
        cpu = time.process_time() - cpu
        gain = 1 - bench.nats(adapter, held) / began
    return {"records": len(mine), "cpu_seconds": cpu, "megabytes": peak_bytes() / MEGABYTE, "gain": gain}


def main() -> None:
    """Run both and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--records", type=int, default=300)
    parser.add_argument("--steps", type=int, default=10, help="of Opacus")
    parser.add_argument("--engine", choices=["limbeck", "opacus"])
    given = parser.parse_args()
    if given.bundle is None or data.commits() is None:
        print("skipped: needs --bundle with a pack `commits`, and the benchmark data", file=sys.stderr)
        return
    if given.engine:
        print(json.dumps(measure(given.engine, given)))
        return
    found = {}
    for engine in ("limbeck", "opacus"):
        command = [sys.executable, "-m", "tests.bench.whole_night", "--engine", engine, "--bundle", str(given.bundle)]
        command += ["--records", str(given.records), "--steps", str(given.steps)]
        found[engine] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(engine, found[engine], flush=True)
    for figure in ("cpu_seconds", "megabytes"):
        print(f"opacus / limbeck, {figure}: {found['opacus'][figure] / found['limbeck'][figure]:.2f}")


if __name__ == "__main__":
    main()
