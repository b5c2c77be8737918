"""An engine's name in, then questions on stdin; how long and how much on stdout: one process of the decode bench.

Run by tests/bench/decode.py, one a engine and number of threads, with whatever Python has the engine. Only the standard
library and the engine itself are imported, so that a peer's Python needs nothing of this project.

First line out: what loading took. Then for each line {"prompt": [ids], "new": number}: time and CPU of the first token
and of each later one, and the tokens.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Told = dict[str, Any]
Ask = Callable[[list[int], int], Told]

PART = 64  # As sdk.device.answers.decoding gives a prompt to an engine.


def memory() -> dict[str, int]:
    """Bytes now and at most so far, of this process."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"now": 1024 * int(fields["VmRSS"].split()[0]), "peak": 1024 * int(fields["VmHWM"].split()[0])}


class Watch:
    """Wall and CPU seconds since it was made or last read."""

    def __init__(self) -> None:
        self.read()

    def read(self) -> tuple[float, float]:
        """Seconds since the last look."""
        now = time.perf_counter(), time.process_time()
        before, self._before = getattr(self, "_before", now), now
        return now[0] - before[0], now[1] - before[1]


def stepwise(step: Callable[[list[int]], int], new: int, prompt: list[int]) -> Told:
    """Ask an engine that takes tokens and gives the likeliest next one."""
    watch = Watch()
    for start in range(0, len(prompt), PART):
        token = step(prompt[start : start + PART])
    first, later, tokens = watch.read(), [], [token]
    for _ in range(new - 1):
        tokens.append(step([tokens[-1]]))
        later.append(watch.read())
    return {
        "first_s": first[0], "first_cpu_s": first[1], "tokens": tokens,
        "token_s": statistics.median(wall for wall, _ in later),
        "token_cpu_s": statistics.mean(used for _, used in later),
    }  # fmt: skip


def whole(answer: Callable[[list[int], int], Told], new: int, prompt: list[int]) -> Told:
    """Ask an engine that times itself; CPU of a later token is what a long answer takes beyond one of one token."""
    watch = Watch()
    answer([prompt[0] - 1, *prompt[1:]], 1)  # Another prompt of this length, or the second would be remembered.
    first_cpu = watch.read()[1]
    told = answer(prompt, new)
    return told | {"first_cpu_s": first_cpu, "token_cpu_s": (watch.read()[1] - first_cpu) / (new - 1)}


def limbeck(kind: str) -> Callable[[str, int], Ask]:
    """The project's own engines, by their protocol."""

    def load(folder: str, threads: int) -> Ask:
        import numpy as np
        import torch

        from sdk.bundle import Bundle

        torch.set_num_threads(threads)
        bundle = Bundle.open(Path(folder))
        if kind == "torch":
            from sdk.device.engines.torch_engine import TorchEngine
            from sdk.device.runtime import Runtime

            engine: Any = TorchEngine(Runtime.open(bundle))
        else:
            from sdk.device.engines.portable.engine import PortableEngine

            engine = PortableEngine(bundle, threads=threads, exact=kind == "portable, exact", ahead=False)

        def ask(prompt: list[int], new: int) -> Told:
            track = engine.begin()
            told = stepwise(lambda tokens: int(np.argmax(track.extend(tokens)[-1])), new, prompt)
            track.close()
            return told

        return ask

    return load


def transformers(folder: str, threads: int) -> Ask:
    """Eager transformers with its own cache."""
    import torch
    from transformers import DynamicCache

    from sdk.checkpoint import load_model

    torch.set_num_threads(threads)
    model = load_model(Path(folder) / "checkpoint")

    def ask(prompt: list[int], new: int) -> Told:
        cache = DynamicCache(config=model.config)

        def step(tokens: list[int]) -> int:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([tokens]), past_key_values=cache, logits_to_keep=1).logits
            return int(logits[0, -1].argmax())

        return stepwise(step, new, prompt)

    return ask


def llama_cpp(file: str, threads: int) -> Ask:
    """llama.cpp, by the times that it tells itself: no HTTP, no Python."""
    import xllamacpp  # type: ignore[import-not-found]  # Of the peer's own Python.

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.n_gpu_layers = file, 1024, 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.verbosity = -1
    server = xllamacpp.Server(params)

    def answer(prompt: list[int], new: int) -> Told:
        asked = {"prompt": prompt, "n_predict": new, "temperature": 0, "cache_prompt": False, "ignore_eos": True}
        made = server.handle_completions({**asked, "return_tokens": True})
        made = json.loads(made) if isinstance(made, str) else made
        times = made["timings"]
        return {
            "first_s": times["prompt_ms"] / 1000,
            "token_s": times["predicted_per_token_ms"] / 1000,
            "tokens": made.get("tokens", []),
        }

    return lambda prompt, new: whole(answer, new, prompt)


def openvino(file: str, threads: int) -> Ask:
    """OpenVINO GenAI on the same GGUF file, by the times that it tells itself."""
    import numpy as np
    import openvino as ov  # type: ignore[import-not-found]  # Of the peer's own Python.
    import openvino_genai as genai  # type: ignore[import-not-found]

    pipe = genai.LLMPipeline(file, "CPU", INFERENCE_NUM_THREADS=threads)

    def answer(prompt: list[int], new: int) -> Told:
        config = genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = new, True, False
        made = pipe.generate(ov.Tensor(np.array([prompt], np.int64)), config)
        times = made.perf_metrics
        later = times.get_tpot().mean / 1000 if new > 1 else 0.0
        return {"first_s": times.get_ttft().mean / 1000, "token_s": later, "tokens": list(made.tokens[0])}

    return lambda prompt, new: whole(answer, new, prompt)


ENGINES: dict[str, Callable[[str, int], Ask]] = {
    "torch": limbeck("torch"),
    "portable": limbeck("portable"),
    "portable, exact": limbeck("portable, exact"),
    "transformers": transformers,
    "llama.cpp": llama_cpp,
    "openvino": openvino,
}

IMPORTS = {
    "torch": ("torch", "transformers", "sdk.device.engines.torch_engine"),
    "transformers": ("torch", "transformers", "sdk.checkpoint"),
    "llama.cpp": ("xllamacpp",),
    "openvino": ("openvino", "openvino_genai"),
}  # What is imported before memory and time of loading are counted.


def main(name: str, model: str, threads: int) -> None:
    """Load, then answer until stdin ends."""
    for module in IMPORTS.get(name, ("torch", "transformers", "sdk.device.engines.portable.engine")):
        __import__(module)
    before, watch = memory()["now"], Watch()
    ask = ENGINES[name](model, threads)
    wall, used = watch.read()
    said = {"load_s": wall, "load_cpu_s": used, "before_bytes": before, "loaded_bytes": memory()["now"]}
    print(json.dumps(said), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(ask(asked["prompt"], asked["new"]) | {"peak_bytes": memory()["peak"]}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
