"""A model folder in; what it costs to have and to ask it out: size, load, first token, tokens per second, memory.

Timing and memory are taken in a child process that does nothing else, so neither the measuring program nor another leg
counts. Times are CPU seconds of one thread: a busy machine makes the clock on the wall longer, hardly the CPU's. The
engine is torch in float32, the reference; a device's compiled form is another engine and gets its own card there.

The question is the same for every model: 64 tokens in, 32 tokens out.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sdk.build.evaluate.card import Leg
from sdk.errors import EvaluationError

__all__ = ["ANSWER_TOKENS", "PROMPT_TOKENS", "cost_leg", "measure"]

PROMPT_TOKENS, ANSWER_TOKENS = 64, 32
CHILD_SECONDS = 900.0  # A larger model than this measures in that time is not for a device.
T = TypeVar("T")

LOADS = 3

SAMPLES = ("first_token_ms", "prefill_tokens_per_second", "decode_tokens_per_second", "answer_ms")


def cost_leg(folder: Path, *, repeats: int) -> Leg:
    """Measure in a child process.

    Args:
        folder: Model folder or bundle.
        repeats: Questions asked after one that is not counted, ≥ 1.

    Raises:
        EvaluationError: The child failed; what it said is in the message.
    """
    command = [sys.executable, "-c", f"from {__name__} import child; child()", str(folder), str(repeats)]
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": root}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=CHILD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as cause:
        raise EvaluationError(f"the model did not answer {repeats} questions in {CHILD_SECONDS:.0f} seconds") from cause
    if done.returncode:
        said = (done.stderr.strip() or "no word").splitlines()[-1]
        raise EvaluationError(f"measuring speed and memory failed ({said:.200})")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return Leg(samples={name: tuple(found.pop(name)) for name in (*SAMPLES, "load_seconds")}, facts=found)


def measure(folder: Path, repeats: int) -> dict[str, Any]:
    """Load, ask and time, in this process: CPU seconds, and memory in megabytes of 10⁶ bytes."""
    import torch

    from sdk.build.evaluate.opened import load

    torch.set_num_threads(1)
    imported = _peak_megabytes()
    load_seconds: list[float] = []
    model: Any = None
    for _ in range(LOADS):
        model = None  # The one before is let go, or the peak would be that of two.
        seconds, (model, _tokenizer) = _timed(lambda: load(folder))
        load_seconds.append(seconds)
    ids = torch.arange(PROMPT_TOKENS)[None] % int(model.config.vocab_size)  # (1, prompt): what it says costs nothing
    asked: list[tuple[float, float]] = []
    for _ in range(1 + repeats):
        asked.append(_ask(model, ids))
    first, rest = zip(*asked[1:], strict=True)
    return {
        "load_seconds": load_seconds,
        "first_token_ms": [seconds * 1000 for seconds in first],
        "prefill_tokens_per_second": [PROMPT_TOKENS / seconds for seconds in first],
        "decode_tokens_per_second": [(ANSWER_TOKENS - 1) / seconds for seconds in rest],
        "answer_ms": [(one + other) * 1000 for one, other in asked[1:]],
        "peak_megabytes": _peak_megabytes(),
        "libraries_megabytes": imported,
        "engine": f"torch {torch.__version__}, float32, one thread, CPU seconds",
        "prompt_tokens": PROMPT_TOKENS,
        "answer_tokens": ANSWER_TOKENS,
    }


def _ask(model: Any, ids: Any) -> tuple[float, float]:
    """CPU seconds until the first token, and from there to the last."""
    import torch

    with torch.no_grad():
        first, made = _timed(lambda: model(input_ids=ids, use_cache=True, logits_to_keep=1))

        def continue_() -> None:
            cache, token = made.past_key_values, made.logits[:, -1:].argmax(-1)  # (1, 1)
            for _ in range(ANSWER_TOKENS - 1):
                step = model(input_ids=token, past_key_values=cache, use_cache=True)
                cache, token = step.past_key_values, step.logits[:, -1:].argmax(-1)

        rest, _ = _timed(continue_)
    return first, rest


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    start = time.process_time()
    result = work()
    return max(time.process_time() - start, 1e-9), result


def _peak_megabytes() -> float:
    """Most memory that this program has held, in megabytes.

    Linux counts it from the start of the program in /proc; its ru_maxrss would begin with the parent's memory.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # macOS: bytes.


def child() -> None:
    """What the child process runs: measure the folder that is named, print the figures or the reason."""
    from sdk.errors import SdkError

    try:
        print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))
    except SdkError as refused:
        sys.exit(str(refused))
