"""An adapter learned on real text and a base that was updated in, how much of its effect and of its gain survives out.

Run with `python -m tests.bench.migration [--steps N] [--json]`. The update is made up: every weight of the base moves
by a share of its own spread, or the neurons of the adapted layers change places (the same function, but the old factors
sit on the wrong neurons). The adapter learns an author's commit subjects without privacy, because what is asked is what
a migration loses. A device reads no private text and so cannot measure the gain that survives; this bench can.
"""

import copy
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from personalize.adapter import Adapter, attached
from personalize.forward import Encoded, collate, completion_losses, encode, prefixes
from personalize.migrate import MigrationPlan, Side, migrate
from personalize.plan import NightPlan
from personalize.train import train
from personalize.trainable import trainable
from sdk.build.package import make_base
from sdk.bundle import cache_folder
from sdk.device.night import base_of
from tests.bench.people import DATA, commits
from tests.figures import show, table

DIGEST = "sha256:" + "0" * 64
HELD = 40  # Latest records of the author, never learned.


def nats(model: Any, records: Sequence[Encoded], adapter: Adapter) -> float:
    """Mean loss per completion token."""
    rows, total, count = list(prefixes(model, records, cut=adapter.spec.cut)), 0.0, 0
    with torch.no_grad(), attached(model, adapter):
        for start in range(0, len(rows), 16):
            total += float(completion_losses(model, collate(rows[start : start + 16]), cut=adapter.spec.cut).sum())
            count += sum(len(row.record.ids) - row.record.completion for row in rows[start : start + 16])
    return total / count


def updated(model: Any, change: float | None, layers: Sequence[int]) -> Any:
    """The base after an update: noise of a share of each weight's spread, or (None) neurons in another order."""
    new, generator = copy.deepcopy(model), torch.Generator().manual_seed(5)
    with torch.no_grad():
        if change is not None:
            for value in new.model.layers.parameters():
                value += change * value.std() * torch.randn(value.shape, generator=generator)
            return new
        for layer in layers:
            maps = new.model.layers[layer].mlp
            order = torch.randperm(maps.gate_proj.out_features, generator=generator)
            for value in (maps.gate_proj.weight, maps.up_proj.weight):
                value.copy_(value[order].clone())
            maps.down_proj.weight.copy_(maps.down_proj.weight[:, order].clone())
    return new


@click.command()
@click.option("--texts", default=96, show_default=True, help="Texts of the migration.")
@click.option("--steps", default=40, show_default=True, help="Steps of the migration.")
@click.option("--records", default=96, show_default=True, help="Records that the adapter learns.")
@click.option("--learning-steps", default=24, show_default=True, help="Steps in which it learns them.")
@click.option("--cache", type=click.Path(path_type=Path, file_okay=False), help="Folder of the base.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def main(texts: int, steps: int, records: int, learning_steps: int, cache: Path | None, as_json: bool) -> None:
    """Measure what a migration keeps."""
    torch.set_num_threads(1)
    if (split := commits()) is None:
        print(f"skipped: the commit streams are not there; set {DATA} to the folder that has them", file=sys.stderr)
        return
    base = base_of(make_base(cache or cache_folder()))
    author = max(split.test, key=lambda name: len(split.test[name]))
    own = [encode(base.tokenizer, *row) for row in split.test[author]]
    mine, later = own[-records - HELD : -HELD], own[-HELD:]
    plan = NightPlan(kind="frozen-a", steps=learning_steps, step_size=3e-3, rehearsal_per_step=0, rehearsal_weight=0.0)
    rows = list(prefixes(base.model, mine, cut=base.spec.cut))
    learned = train(
        base.model, trainable("frozen-a", base.bare(), model=base.model), rows, [], plan, run=None,
        progress=lambda done, total: print(f"learning {done} of {total}", file=sys.stderr),
    )  # fmt: skip
    before = nats(base.model, later, base.bare()) - nats(base.model, later, learned)
    old = Side(model=base.model, tokenizer=base.tokenizer, digest=base.digest, spec=base.spec)
    found = []
    for name, change in (("weights moved by 1 %", 0.01), ("weights moved by 5 %", 0.05), ("neurons reordered", None)):
        began, model = time.process_time(), updated(base.model, change, base.spec.layers)
        new = Side(model=model, tokenizer=base.tokenizer, digest=DIGEST, spec=base.spec)
        made = migrate(old, new, learned, base.rehearsal, plan=MigrationPlan(texts=texts, steps=steps))
        seconds = time.process_time() - began
        bare = nats(model, later, made.adapter.scaled(0.0))
        gains = [bare - nats(model, later, one) for one in (replace(learned, fits_base=DIGEST), made.adapter)]
        found.append(
            {
                "update": name,
                "kept_untrained": made.kept_untrained,
                "kept": made.kept,
                "gain_before": before,
                "gain_untrained": gains[0],
                "gain": gains[1],
                "shift_nats": made.shift_nats,
                "cpu_seconds": seconds,
            }
        )
        print(found[-1], file=sys.stderr)
    lines = [
        (
            str(row["update"]),
            *(f"{row[key]:.2f}" for key in ("kept_untrained", "kept")),
            *(f"{row[key]:.3f}" for key in ("gain_before", "gain_untrained", "gain")),
            f"{row['cpu_seconds']:.0f}",
        )
        for row in found
    ]
    columns = ("update", "kept, as it is", "kept", "gain before", "gain, as it is", "gain", "CPU s")
    note = "(kept: share of the shift on public and written text; gain: nats per token on the author's later text)"
    show({"rows": found, "texts": texts, "steps": steps}, f"{table(columns, lines)}\n{note}", as_json=as_json)


if __name__ == "__main__":
    main()
