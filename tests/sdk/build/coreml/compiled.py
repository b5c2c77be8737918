"""Nothing in, tiny students and their packages out; each package is converted once a run, about 6 CPU seconds."""

import functools
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    MixtralConfig,
    MixtralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from personalize.adapter import AdapterSpec, fresh
from personalize.pack import DomainPack
from personalize.trainable import Basis
from sdk.build.checkpoint import save_checkpoint
from sdk.build.coreml.convert import Plan, Report, convert
from sdk.build.coreml.layout import Cache
from sdk.build.coreml.student import Student
from sdk.build.grid import Grid, packed8
from tests.tiny import tiny_model, tiny_tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}
PLAN = Plan(context=64, prefill_positions=8, adapter_layers=1, adapter_rank=4)


def family(name: str) -> Any:
    """A random model of a family other than Llama."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        phi3_config: Any = Phi3Config
        phi3 = phi3_config(**SIZES, sliding_window=9, bos_token_id=1, eos_token_id=2)
        models: dict[str, Callable[[], Any]] = {
            "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
            "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8)),
            "phi3": lambda: Phi3ForCausalLM(phi3),
            "gemma3": lambda: Gemma3ForCausalLM(
                Gemma3TextConfig(
                    **SIZES,
                    head_dim=8,
                    sliding_window=9,
                    query_pre_attn_scalar=16,
                    layer_types=["sliding_attention", "full_attention"],
                )
            ),
            "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=2)),
        }
        model = models[name]()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, mean=0.0 if parameter.dim() > 1 else 1.0, std=0.15)
    return model.eval().requires_grad_(False)


def plain(folder: Path, *, layers: int = 2) -> Path:
    """A tiny Llama's checkpoint, its weights float16 numbers: what a package can hold."""
    model = tiny_model(layers=layers)
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    save_checkpoint(model, tiny_tokenizer(), folder)
    return folder


def packed(folder: Path, *, layers: int = 2) -> Path:
    """The same in the form that ships: 4-bit maps, 8-bit embedding."""
    plain(folder, layers=layers)
    tensors = {}
    for name, value in tiny_model(layers=layers).state_dict().items():
        if name == "lm_head.weight":
            continue
        if value.dim() < 2:
            tensors[name] = value.half()
            continue
        parts = packed8(value)[0] if "embed" in name else Grid.fitted(value).packed(value)
        tensors |= {f"{name}.{part}": content for part, content in parts.items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


@functools.cache
def workshop() -> Path:
    """One folder a run for what is expensive to make."""
    folder = Path(tempfile.mkdtemp(prefix="limbeck-coreml-"))
    import atexit

    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def student(form: str) -> Path:
    """A student's folder: `plain` or `packed`."""
    return {"plain": plain, "packed": packed}[form](workshop() / form)


@functools.cache
def pack_of(folder: Path) -> Path:
    """Made-up directions for a student, in the form in which `build basis` puts them into a bundle."""
    opened = Student.open(folder)
    start = fresh(opened.model, AdapterSpec(layers=(1,), rank=PLAN.adapter_rank), fits_base=opened.base_digest)
    generator = torch.Generator().manual_seed(6)
    b = {site: 0.1 * torch.randn(value.shape, generator=generator) for site, value in start.b.items()}
    directions = {site: torch.randn(6, *value.shape, generator=generator) for site, value in start.b.items()}
    pack = workshop() / f"pack-{folder.name}"
    DomainPack(start=replace(start, b=b), basis=Basis(directions=directions, variance=torch.ones(6))).save(pack)
    return pack


@functools.cache
def compiled(form: str, cache: Cache) -> Report:
    """Its package, with room for an adapter in the last layer; a packed student's also learns one of kind basis."""
    plan, basis = replace(PLAN, cache=cache), None
    if form == "packed":
        plan, basis = replace(plan, learns="basis", records=2, record_positions=10), pack_of(student(form))
    return convert(student(form), workshop() / f"{form}-{cache.value}.mlpackage", plan, basis=basis)
