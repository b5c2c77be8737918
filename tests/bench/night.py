"""One privatised step on the real base, against the step without privacy, peft alone and Opacus: time, FLOPs, memory.

Run with `python -m tests.bench.night [--json]`. Everything is a ratio within one run: the engines' steps take turns in
one process on one thread, so that a busy machine slows them all alike. Memory is measured first, each engine in a
process of its own. Shapes: all 30 layers, the maps q, k, v and o, rank 8, 128 tokens.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from personalize.adapter import AdapterSpec, fresh
from personalize.forward import Encoded, collate, completion_losses, prefixes
from personalize.train import Adam
from personalize.trainable import trainable
from privacy import DpSgd, DpSgdRun
from sdk.build.package import make_base
from sdk.device.runtime import Runtime

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
RANK, TOKENS, BATCH, MEMORY_BATCH, FLOP_BATCH = 8, 128, 8, 16, 2
CLIP_NORM, NOISE, RATE = 1.0, 1.0, 1e-3
MEGABYTE = 1_000_000

Step = Callable[[], object]
Prepare = Callable[[Tensor], Step]
"""Takes token ids, shape (batch, TOKENS), and gives the step that learns from them."""


def base(cache: Path) -> Any:
    """A model of its own: peft and Opacus change what they wrap."""
    return Runtime.open(make_base(cache)).model


def tokens_of(model: Any, batch: int) -> Tensor:
    """The same random text for every engine, shape (batch, TOKENS)."""
    return torch.randint(3, model.config.vocab_size, (batch, TOKENS), generator=torch.Generator().manual_seed(0))


def ours(model: Any, *, private: bool, kind: str = "lora", layers: int | None = None) -> Prepare:
    """Our step; `layers` adapts only the upper ones and starts from the frozen layers' outputs, as a night does."""
    count = len(model.model.layers)
    spec = AdapterSpec(layers=tuple(range(count - (layers or count), count)), rank=RANK, targets=TARGETS)
    parts = trainable(kind, fresh(model, spec, fits_base="sha256:0"), model=model)
    update = Adam(parts.parameters, rate=RATE)
    run = DpSgdRun(noise_multiplier=NOISE, sampling_rate=1.0, steps=1_000_000, clip_norm=CLIP_NORM)

    def prepare(ids: Tensor) -> Step:
        records = [Encoded(ids=tuple(row), completion=1, characters=TOKENS) for row in ids.tolist()]
        held, batch = collate(list(prefixes(model, records, cut=spec.cut))), len(records)
        engine = DpSgd(run, records=batch, parameters=parts.parameters)

        def losses_of(indices: Sequence[int]) -> Tensor:
            return completion_losses(model, held, cut=spec.cut) / (TOKENS - 1)

        def step() -> None:
            with parts.attached(model):
                if private:
                    gradients = engine.step(losses_of, microbatch=batch)
                else:
                    parts.summed = True
                    losses_of(range(batch)).sum().backward()
                    gradients = [part.grad / batch for part in parts.parameters if part.grad is not None]
                with torch.no_grad():
                    update(parts.parameters, gradients)
                parts.refresh()

        return step

    return prepare


def with_peft(model: Any) -> Any:
    """The same adapter by peft, in training mode (Opacus' hooks look at nothing else); there is no dropout."""
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS), lora_dropout=0.0, task_type="CAUSAL_LM")
    return get_peft_model(model, config).train()


def trained_by(model: Any) -> list[Tensor]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def mean_losses(model: Any, ids: Tensor) -> Tensor:
    """Loss of each record over all logits, shape (batch,): what Opacus needs, and Hugging Face does not give."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]  # (batch, seq, vocab)
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").mean(1)


def peft_alone(model: Any) -> Prepare:
    """The step that everybody takes: peft, Hugging Face's own loss, Adam."""
    wrapped = with_peft(model)
    optimizer = torch.optim.Adam(trained_by(wrapped), lr=RATE)

    def step(ids: Tensor) -> None:
        optimizer.zero_grad()
        wrapped(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()

    return lambda ids: partial(step, ids)


def opacus_hooks(model: Any) -> Prepare:
    """Opacus with per-example gradients kept by hooks."""
    wrapped = GradSampleModule(with_peft(model), loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.Adam(trained_by(wrapped), lr=RATE),
        noise_multiplier=NOISE,
        max_grad_norm=CLIP_NORM,
        expected_batch_size=BATCH,  # Not looked at where losses are summed.
        loss_reduction="sum",
    )

    def step(ids: Tensor) -> None:
        optimizer.zero_grad()
        mean_losses(wrapped, ids).sum().backward()
        optimizer.step()

    return lambda ids: partial(step, ids)


def opacus_ghost(model: Any) -> Prepare:
    """Opacus with ghost clipping: norms from Gram products, then a second backward."""
    wrapped = GradSampleModuleFastGradientClipping(
        with_peft(model), max_grad_norm=CLIP_NORM, use_ghost_clipping=True, loss_reduction="sum"
    )
    optimizer = DPOptimizerFastGradientClipping(
        torch.optim.Adam(trained_by(wrapped), lr=RATE),
        noise_multiplier=NOISE,
        max_grad_norm=CLIP_NORM,
        expected_batch_size=BATCH,  # Not looked at where losses are summed.
        loss_reduction="sum",
    )

    def step(ids: Tensor) -> None:
        wrapped.enable_hooks()
        DPTensorFastGradientClipping(wrapped, optimizer, mean_losses(wrapped, ids), loss_reduction="sum").backward()
        optimizer.step()
        optimizer.zero_grad()

    return lambda ids: partial(step, ids)


ENGINES: dict[str, Callable[[Any], Prepare]] = {
    "limbeck, private": partial(ours, private=True),
    "limbeck, without privacy": partial(ours, private=False),
    "peft alone": peft_alone,
    "opacus, hooks": opacus_hooks,
    "opacus, ghost clipping": opacus_ghost,
    "limbeck, as a night does": partial(ours, private=True, kind="xs", layers=4),
}
"""Name to an engine around a model. Last, for the reader: few numbers, upper layers, the frozen ones run before."""


def peak_bytes() -> int:
    """Most memory that this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def memory_of(name: str, batch: int, cache: Path) -> float:
    """Megabytes over the loaded model that one step of an engine needs; run in a process of its own."""
    model = base(cache)
    with torch.no_grad():
        model(tokens_of(model, 1)[:, :2])  # The weights are mapped: touch every page before the model counts as loaded.
    loaded = peak_bytes()  # The file is mapped, so loading itself has no higher peak.
    ENGINES[name](model)(tokens_of(model, batch))()
    return (peak_bytes() - loaded) / MEGABYTE


def measure_memory(batch: int, cache: Path) -> dict[str, float]:
    """Peak memory of each engine, each in a process of its own.

    A child's peak begins at what its parent holds when it starts it, so this must run before any model is loaded here.
    """
    peaks = {}
    for name in ENGINES:
        tell(f"memory: {name}")
        command = [sys.executable, "-m", "tests.bench.night", "--memory", name, "--batch", str(batch)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"the memory of {name} could not be measured:\n{done.stderr}")
        peaks[name] = float(done.stdout)
    return peaks


def measure_flops(steps: dict[str, Step]) -> dict[str, float]:
    """GFLOP of one step: free of noise, so it tells what a small difference in time means."""
    counted = {}
    for name, step in steps.items():
        tell(f"FLOPs: {name}")
        step()
        with FlopCounterMode(display=False) as counter:
            step()
        counted[name] = counter.get_total_flops() / 1e9
    return counted


def measure_time(steps: dict[str, Step], repetitions: int) -> dict[str, list[float]]:
    """CPU seconds of each step, all engines in turn; the first turn warms up and is not kept."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repetitions + 1):
        order = list(steps) if turn % 2 else list(steps)[::-1]  # Nobody always comes after the same neighbour.
        for name in order:
            tell(f"time: turn {turn} of {repetitions}, {name}")
            begun = time.process_time()
            steps[name]()
            if turn:
                seconds[name].append(time.process_time() - begun)
    return seconds


def ratio(seconds: dict[str, list[float]], one: str, other: str) -> float:
    """Median over the turns of one engine's time over another's in the same turn."""
    return statistics.median(mine / theirs for mine, theirs in zip(seconds[one], seconds[other], strict=True))


def measured(batch: int, repetitions: int, cache: Path) -> dict[str, Any]:
    """All figures of one run."""
    peaks = measure_memory(MEMORY_BATCH, cache)
    models = {name: base(cache) for name in ENGINES if not name.startswith("limbeck")}
    shared = base(cache)
    models |= {name: shared for name in ENGINES if name.startswith("limbeck")}
    few, many = tokens_of(shared, FLOP_BATCH), tokens_of(shared, batch)
    engines = {name: make(models[name]) for name, make in ENGINES.items()}
    gflop = measure_flops({name: prepare(few) for name, prepare in engines.items()})
    seconds = measure_time({name: prepare(many) for name, prepare in engines.items()}, repetitions)
    us, plain = "limbeck, private", "limbeck, without privacy"
    targets = [
        target("CPU time over the same step without privacy", ratio(seconds, us, plain), at_most=1.02),
        target("FLOPs over the same step without privacy", gflop[us] / gflop[plain], at_most=1.02),
        target("CPU time of ghost clipping over ours", ratio(seconds, "opacus, ghost clipping", us), at_least=1.5),
        target("peak memory over Opacus' hooks", peaks[us] / peaks["opacus, hooks"], at_most=0.75),
        target("peak memory over the same step without privacy", peaks[us] / peaks[plain], at_most=1.0),
    ]
    return {
        "format": "bench/1",
        "what": "one step, SmolLM2-135M-Instruct, LoRA on q, k, v, o of all layers",
        "settings": {
            "rank": RANK,
            "tokens": TOKENS,
            "batch": batch,
            "memory_batch": MEMORY_BATCH,
            "flop_batch": FLOP_BATCH,
            "repetitions": repetitions,
            "threads": 1,
            "torch": torch.__version__,
        },
        "engines": {
            name: {
                "cpu_seconds": [round(value, 3) for value in seconds[name]],
                "cpu_seconds_median": round(statistics.median(seconds[name]), 3),
                "time_ratio_to_peft": round(ratio(seconds, name, "peft alone"), 3),
                "gflop": round(gflop[name], 2),
                "peak_megabytes": round(peaks[name]),
            }
            for name in ENGINES
        },
        "targets": targets,
    }


def target(what: str, found: float, *, at_most: float | None = None, at_least: float | None = None) -> dict[str, Any]:
    """One line of the verdict."""
    met = (at_most is None or found <= at_most) and (at_least is None or found >= at_least)
    wanted = f"≤ {at_most:g}" if at_most is not None else f"≥ {at_least:g}"
    return {"what": what, "measured": round(found, 4), "wanted": wanted, "met": met}


def table(result: dict[str, Any]) -> str:
    """The figures for a person, as Markdown."""
    lines = ["| engine | CPU s a step | to peft | GFLOP | peak MB |", "| --- | --- | --- | --- | --- |"]
    for name, figures in result["engines"].items():
        lines.append(
            f"| {name} | {figures['cpu_seconds_median']:.2f} | {figures['time_ratio_to_peft']:.2f} "
            f"| {figures['gflop']:.1f} | {figures['peak_megabytes']} |"
        )
    lines += ["", "| target | wanted | measured | met |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {t['what']} | {t['wanted']} | {t['measured']:.3f} | {'yes' if t['met'] else 'no'} |"
        for t in result["targets"]
    ]
    settings = ", ".join(f"{name} {value}" for name, value in result["settings"].items())
    return "\n".join([f"{result['what']}: {settings}", "", *lines])


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one object instead of tables")
    parser.add_argument("--batch", type=int, default=BATCH, help="records in a timed step")
    parser.add_argument("--repetitions", type=int, default=5, help="timed turns of each engine")
    parser.add_argument("--memory", choices=list(ENGINES), help=argparse.SUPPRESS)  # What measure_memory calls.
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Full backward hook is firing")  # Opacus hooks layers over frozen inputs.
    warnings.filterwarnings("ignore", message=".is_gradient_checkpointing. is deprecated")  # peft asks by the old name.
    cache = Path(os.environ.get("LIMBECK_TEST_CACHE", Path(__file__).parents[2] / ".cache"))
    if asked.memory:
        print(memory_of(asked.memory, asked.batch, cache))
        return
    result = measured(asked.batch, asked.repetitions, cache)
    print(json.dumps(result, indent=2, ensure_ascii=False) if asked.json else table(result))


if __name__ == "__main__":
    main()
