"""The estimate is the published price of what a small model moves and computes, counted by hand."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sdk.build.evaluate.energy import Work, energy_leg, estimate, milliwatts, work_of
from sdk.build.evaluate.opened import open_model
from tests.tiny import tiny_bundle, tiny_model

LAYERS, WIDTH, HEADS, KV_HEADS, HEAD, VOCABULARY = 4, 32, 4, 2, 8, 320


def test_a_joule_is_what_the_table_says() -> None:
    # Jouppi et al., table 2: 1,300 pJ for 64 bits of DRAM; float16 multiply 0.34 pJ and add 0.16 pJ.
    assert estimate(Work(bytes=8 * 10**12, multiply_adds=0)) == pytest.approx(1300)
    assert estimate(Work(bytes=0, multiply_adds=10**12)) == pytest.approx(0.5)


def test_the_multiply_adds_are_those_that_torch_counts() -> None:
    model, prompt, answer = tiny_model(), 7, 3
    model.set_attn_implementation("eager")  # Torch counts no fused attention on a CPU.
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        cache = model(input_ids=torch.ones(1, prompt, dtype=torch.long), logits_to_keep=1).past_key_values
        for _ in range(answer - 1):
            cache = model(input_ids=torch.ones(1, 1, dtype=torch.long), past_key_values=cache).past_key_values
    made = work_of(model, 0, prompt_tokens=prompt, answer_tokens=answer)
    # Torch multiplies the prompt's whole square of scores; ours counts the half that the causal mask leaves.
    upper_half = 2 * LAYERS * HEADS * HEAD * (prompt * (prompt - 1) // 2)
    assert counted.get_total_flops() / 2 == pytest.approx(made.multiply_adds + upper_half)


def test_the_bytes_are_all_weights_once_a_step_and_the_cache_as_it_grows() -> None:
    made = work_of(tiny_model(), 1000, prompt_tokens=7, answer_tokens=3)
    number_per_token = 2 * LAYERS * KV_HEADS * HEAD
    written, read = 7 + 2, 7 + 8
    assert made.bytes == 1000 * 3 + 2 * number_per_token * (written + read)


def test_a_leg_says_that_it_is_an_estimate_and_where_its_prices_are_from(tmp_path: Path) -> None:
    opened = open_model(tiny_bundle(tmp_path).folder)
    facts = energy_leg(opened).facts
    assert facts["how"].startswith("estimate")
    assert "doi:10.1109/ISCA52012.2021.00010" in facts["source"]
    assert facts["joules"] == pytest.approx(estimate(work_of(opened.model, opened.weights_bytes)))
    assert facts["joules_float16"] < facts["joules"]  # The tiny bundle is stored in float32.


def test_power_is_read_from_what_powermetrics_prints() -> None:
    sample = "CPU Power: 823 mW\nGPU Power: 26 mW\nANE Power: 323 mW\nCombined Power (CPU + GPU + ANE): {} mW\n\n"
    assert milliwatts(sample.format(1172) + sample.format(1000)) == 1086
    assert milliwatts("no power here") is None
