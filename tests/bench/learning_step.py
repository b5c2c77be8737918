"""A student in, how far the Core ML step's clipped sums are from the privacy engine's, for every adapter kind, out.

Run with `python -m tests.bench.learning_step --student FOLDER [--kinds lora,…] [--records N] [--positions N]`.

The records are probes, prompt and answer, through the student's own lower layers; adapters, directions and the
rest of what is trained are made up. Each kind's program is converted, run by the interpreter in both precisions, and
compared with `privacy.dp_sgd.ClippedSum` over `personalize`'s losses, where every record is clipped and where none is.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from personalize.adapter import AdapterSpec, fresh
from personalize.forward import Batch, completion_losses
from personalize.pack import quantised
from personalize.trainable import KINDS, Basis, trainable
from privacy.dp_sgd import ClippedSum
from sdk.build.coreml.encoding import encodings_of
from sdk.build.coreml.execute import PRECISIONS, Session
from sdk.build.coreml.families import parts_of
from sdk.build.coreml.layout import TARGETS
from sdk.build.coreml.learning_package import LEARN, Learning
from sdk.build.coreml.library import quiet
from sdk.build.coreml.placed import on_grid, saved
from sdk.build.coreml.program import Package
from sdk.build.coreml.student import Student
from sdk.build.coreml.worn import LearningShape
from tests.bench.coreml import PROMPTS

LAYERS, RANK, SCALE = 4, 8, 8.0
SIZE = 0.02  # Of made-up numbers that are trained.


def records_of(student: Student, shape: LearningShape) -> tuple[Tensor, Tensor, Tensor]:
    """States, next tokens and weights of real text: (records, positions, width), and twice (records, positions)."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(student.folder)
    lines = [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    texts = [" ".join(str(value) for value in line.values() if isinstance(value, str)) for line in lines]
    ids = [tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    chosen = sorted(ids, key=len, reverse=True)[: shape.records]
    tokens = torch.zeros(shape.records, shape.positions + 1, dtype=torch.long)
    weights = torch.zeros(shape.records, shape.positions)
    for row, record in enumerate(chosen):
        length = min(len(record), shape.positions + 1)
        tokens[row, :length] = torch.tensor(record[:length])
        weights[row, length // 4 : length - 1] = 1
    with torch.no_grad():
        states = student.model.model(tokens[:, :-1], output_hidden_states=True).hidden_states[shape.layers[0]]
    return states.half().float(), tokens[:, 1:], weights


def row_of(student: Student, kind: str, shape: LearningShape) -> dict[str, Any]:
    """Figures of one kind."""
    model, cut = student.model, shape.layers[0]
    generator = torch.Generator().manual_seed(3)
    start = fresh(model, AdapterSpec(layers=shape.layers, rank=shape.rank), fits_base=student.base_digest)
    for site, b in start.b.items():
        start.a[site].copy_(start.a[site].half())
        b.copy_((SIZE * torch.randn(b.shape, generator=generator)).half())
    directions = {site: torch.randn(16, *b.shape, generator=generator) for site, b in start.b.items()}
    basis = quantised(Basis(directions=directions, variance=torch.ones(16))) if kind == "basis" else None
    named = {f"{site.split('.')[2]}.{site.rsplit('.', 1)[-1]}": site for site in start.b}
    learning = Learning.of(
        parts_of(model), shape, {short: basis.directions[site] for short, site in named.items()} if basis else None
    )
    trained = trainable(kind, start, model=model, basis=basis)
    for parameter in trained.parameters:
        parameter.data += SIZE * torch.randn(parameter.shape, generator=generator)
    states, targets, weights = records_of(student, shape)
    stacked = _stacked(kind, trained.parameters, list(start.b), shape)
    given = {
        **{
            f"{target}_{part}": _stack(factors, target, shape)
            for part, factors in (("a", start.a), ("b", start.b))
            for target in TARGETS
        },
        **stacked,
        "states": states.transpose(1, 2),
        "targets": model.lm_head.weight.detach()[targets],
        "weights": weights,
        "scale": torch.tensor([SCALE]),
    }
    row: dict[str, Any] = {"kind": kind, "trained": sum(value.numel() for value in stacked.values())}
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        with quiet():
            saved(
                learning.program(LEARN, on_grid(parts_of(model), encodings_of(student.folder))),
                Path(folder) / "x.mlpackage",
            )
        row["convert_cpu_seconds"] = round(time.process_time() - began, 1)
        package = Package.open(Path(folder) / "x.mlpackage")
        row["operations"] = sum(op.kind != "const" for op in package.function().operations)
        for name, clip in (("all_clipped", None), ("none_clipped", 1e4)):
            with trained.attached(model):
                batch = Batch(hidden=states, targets=targets, weights=weights)
                norms = ClippedSum(trained.parameters, 1e4).add(completion_losses(model, batch, cut=cut))
                engine = ClippedSum(trained.parameters, clip or 0.5 * float(norms.min()))
                engine.add(completion_losses(model, batch, cut=cut))
            wanted = _stacked(kind, engine.sums, list(start.b), shape)
            for precision in PRECISIONS:
                outputs = Session(package, precision=precision).run(given | {"clip": torch.tensor([engine.clip_norm])})
                mine = torch.cat([outputs[f"sum_{key}"].flatten() / SCALE for key in wanted])
                theirs = torch.cat([value.flatten() for value in wanted.values()])
                row[f"{name}_{precision}"] = float((mine - theirs).norm() / theirs.norm())
                if precision == "fp32":  # In float16 the gradient is another, and so is its norm.
                    row[f"{name}_norms_over"] = float((outputs["norms"] / SCALE / norms - 1).min())
    return row


def _stack(factors: Any, target: str, shape: LearningShape) -> Tensor:
    """Factors of one target, (layers, 1, …)."""
    found = {int(site.split(".")[2]): value for site, value in factors.items() if site.endswith(f".{target}")}
    return torch.stack([found[layer] for layer in shape.layers])[:, None]


def _stacked(kind: str, values: Sequence[Tensor], sites: Sequence[str], shape: LearningShape) -> dict[str, Tensor]:
    """One tensor a parameter, as the step names and stacks them."""
    if kind == "basis":
        return {"theta": values[0].detach()}
    parts = {"lora": "ab", "frozen-a": "b", "xs": ["core"]}[kind]
    split = {part: dict(zip(sites, values[at * len(sites) :], strict=False)) for at, part in enumerate(parts)}
    return {f"{target}_{part}": _stack(split[part], target, shape).detach() for target in TARGETS for part in parts}


def main() -> None:
    """Print one JSON object a kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", type=Path)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--records", type=int, default=4)
    parser.add_argument("--positions", type=int, default=64)
    given = parser.parse_args()
    if given.student is None:
        print("skipped: needs --student FOLDER", file=sys.stderr)
        return
    torch.set_num_threads(1)
    student = Student.open(given.student)
    count = len(student.model.model.layers)
    for kind in given.kinds.split(","):
        shape = LearningShape(
            layers=tuple(range(count - LAYERS, count)),
            records=given.records,
            positions=given.positions,
            rank=RANK,
            kind=kind,
        )
        print(json.dumps(row_of(student, kind, shape)), flush=True)


if __name__ == "__main__":
    main()
