"""A model's shapes and bytes in, joules of one answer out: an estimate, or a measurement where the system offers one.

The estimate counts what must move and what must be computed, and prices both:

    joules = (bytes read and written · 162.5 pJ) + (multiply-adds · 0.50 pJ)

Bytes: all weights as they stand on the disk (`joules`) or at 16 bits each (`joules_float16`, for comparing models that
are stored in different ways), once to read the prompt and once for each further token, and the keys and
values of the cache in float16, written once and read once for each further token. Multiply-adds: each weight of a
matrix once a token (a dense model's: all experts would be counted), the head only where a token is chosen, attention's
two products. Of the price: DRAM access 1,300 pJ
for 64 bits (DDR3/4), float16 multiply 0.34 pJ and add 0.16 pJ at 7 nm.

What it leaves out: caches, control, idle power, losses of the supply, whatever an engine does beyond that. It is a
floor for comparing models, not a prediction of a battery.

Source of the coefficients: Jouppi et al., "Ten Lessons From Three Generations Shaped Google's TPUv4i", ISCA 2021,
doi:10.1109/ISCA52012.2021.00010, table 2 (extends Horowitz, ISSCC 2014, doi:10.1109/ISSCC.2014.6757323).

Measured: on macOS, where powermetrics may be run (it needs root), power is sampled while a child asks the same
question again and again. That path has not been run by the authors, who had no Mac.
"""

import os
import platform
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.build.evaluate.card import Leg
from sdk.build.evaluate.cost import ANSWER_TOKENS, PROMPT_TOKENS, cost_leg
from sdk.build.evaluate.opened import Opened

__all__ = ["BYTE_PICOJOULES", "MULTIPLY_ADD_PICOJOULES", "Work", "energy_leg", "estimate", "work_of"]

BYTE_PICOJOULES = 1300 / 8
MULTIPLY_ADD_PICOJOULES = 0.34 + 0.16
MEASURED_ANSWERS = 32  # Enough seconds for a mean of samples that are taken five times a second.
CACHE_BYTES = 2  # A key or value in float16.
POWER = re.compile(r"^Combined Power \(CPU \+ GPU \+ ANE\): (\d+) mW$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one answer moves and computes."""

    bytes: int
    """Bytes read from and written to memory."""
    multiply_adds: int
    """Multiplications with their additions."""


def estimate(work: Work) -> float:
    """Joules of some work, by the published coefficients."""
    return (work.bytes * BYTE_PICOJOULES + work.multiply_adds * MULTIPLY_ADD_PICOJOULES) * 1e-12


def work_of(
    model: Any, weights_bytes: int, *, prompt_tokens: int = PROMPT_TOKENS, answer_tokens: int = ANSWER_TOKENS
) -> Work:
    """What a question of `prompt_tokens` and its answer of `answer_tokens` move and compute.

    Args:
        model: A Hugging Face causal language model with full attention in each layer.
        weights_bytes: Size of the weights as a device holds them.
        prompt_tokens: ≥ 1.
        answer_tokens: ≥ 1; the first comes out of the prompt.
    """
    config, steps = model.config, answer_tokens - 1
    heads, layers = int(config.num_attention_heads), int(config.num_hidden_layers)
    width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    cached = 2 * layers * int(config.num_key_value_heads) * width  # Numbers a token leaves in the cache.
    embedding = model.get_input_embeddings().weight
    head = int(model.get_output_embeddings().weight.numel())
    body = sum(values.numel() for values in model.parameters() if values.dim() == 2 and values is not embedding) - (
        0 if config.tie_word_embeddings else head
    )
    read = prompt_tokens + steps  # Tokens that go through the layers.
    seen = prompt_tokens * (prompt_tokens + 1) // 2 + sum(prompt_tokens + step + 1 for step in range(steps))
    return Work(
        bytes=weights_bytes * (1 + steps)
        + CACHE_BYTES * cached * (read + sum(prompt_tokens + step for step in range(steps))),
        multiply_adds=body * read + head * answer_tokens + 2 * layers * heads * width * seen,
    )


def energy_leg(opened: Opened) -> Leg:
    """Joules of one answer, estimated, and measured where powermetrics may be run."""
    work = work_of(opened.model, opened.weights_bytes)
    return Leg(
        facts={
            "joules": estimate(work),
            "joules_float16": estimate(work_of(opened.model, 2 * opened.parameters)),
            "how": "estimate: bytes and multiply-adds times published coefficients",
            "bytes_moved": work.bytes,
            "multiply_adds": work.multiply_adds,
            "picojoules_per_byte": BYTE_PICOJOULES,
            "picojoules_per_multiply_add": MULTIPLY_ADD_PICOJOULES,
            "source": "Jouppi et al., ISCA 2021, table 2, doi:10.1109/ISCA52012.2021.00010",
            **_measured(opened.folder),
        }
    )


def _measured(folder: Path) -> dict[str, Any]:
    tool = shutil.which("powermetrics")
    if platform.system() != "Darwin" or tool is None or os.geteuid() != 0:
        return {"measured": "not run: powermetrics needs macOS and root"}
    with tempfile.TemporaryFile("w+") as printed:
        sampler = subprocess.Popen([tool, "--samplers", "cpu_power", "-i", "200"], stdout=printed)
        try:
            asked = cost_leg(folder, repeats=MEASURED_ANSWERS)
        finally:
            sampler.terminate()
            sampler.wait()
        printed.seek(0)
        power = milliwatts(printed.read())
    if power is None:
        return {"measured": "not run: powermetrics said nothing of power"}
    return {
        "measured_milliwatts": power,
        "measured_joules": power * asked.estimates()["answer_ms"].value * 1e-6,
    }


def milliwatts(printed: str) -> float | None:
    """Mean power of CPU, GPU and Neural Engine in what powermetrics printed; None where it says nothing of it."""
    samples = [int(found) for found in POWER.findall(printed)]
    return sum(samples) / len(samples) if samples else None
