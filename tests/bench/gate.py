"""Planted adapters in, the gate's false accepts and false rejects out.

Run with `python -m tests.bench.gate [--rows FILE] [--seeds N] [--json]` (about 10 CPU minutes a seed). The truth about
each adapter is what the same legs say on items that the gate has never seen: another draw of the same templates (the
leg "own_words" has only one). An adapter is harmful where its true mean drop is at the margin or beyond. A false accept
is a harmful adapter let in, whole or at a share; a false reject is a candidate that is harmless whole and was turned
away whole. Rows are appended to FILE as they are made, and what is there already is not done again.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import click
import torch
from torch import Tensor

from personalize.adapter import Adapter
from personalize.learner import Base
from personalize.probes import Probes
from personalize.retention import MARGINS, admit
from sdk.build.package import make_base
from sdk.build.probes import probes, rehearsal
from sdk.device.night import base_of
from tests.figures import show, table
from tests.planted import Texts, flipped, over_trained, poisoned, scrambled, useful

PER_LEG = 40  # What the demo takes on a fast machine: the gate at its weakest.
TEXTS = 24
FRESH_DRAW = 1  # Seed of the items that tell the truth.
STRENGTHS = {
    "identity": (1.0,),
    "useful": (0.3, 1.0),
    "scrambled": (1.0, 3.0),
    "flipped": (1.0, 3.0),
    "poisoned": (1.0, 3.0),
    "over-trained": (1.0,),
}
"""Kind of adapter to how strong it is made, 1 being what tests/planted.py takes for usual."""

Row = dict[str, Any]


class Bench:
    """The base, the texts of one seed and the two draws of probes."""

    def __init__(self, base: Base, texts: Texts) -> None:
        self.base, self.texts = base, texts
        self.fresh = Probes(probes(seed=FRESH_DRAW), base.tokenizer, per_leg=base.probes_per_leg)
        self._useful: dict[int, Adapter] = {}

    def of_seed(self, seed: int) -> Texts:
        """The texts that the adapters of one seed learn from."""
        return Random(seed).sample(list(self.texts), min(TEXTS, len(self.texts)))

    def planted(self, kind: str, strength: float, seed: int) -> Adapter:
        """Make one adapter."""
        texts = self.of_seed(seed)
        if kind in ("scrambled", "flipped") and seed not in self._useful:
            self._useful[seed] = useful(self.base, texts)
        makers: dict[str, Callable[[], Adapter]] = {
            "identity": self.base.bare,
            "useful": lambda: useful(self.base, texts, strength=strength),
            "scrambled": lambda: scrambled(self._useful[seed], strength=strength, seed=seed),
            "flipped": lambda: flipped(self._useful[seed], strength=strength),
            "poisoned": lambda: poisoned(self.base, texts, strength=strength),
            "over-trained": lambda: over_trained(self.base, texts, strength=strength),
        }
        return makers[kind]()

    def row(self, kind: str, strength: float, seed: int, look: int) -> Row:
        """Judge one adapter, and find out the truth about it and about what was let in."""
        begun = time.process_time()
        candidate = self.planted(kind, strength, seed)
        taught = time.process_time()
        model, gate, bare = self.base.model, self.base.gate(), self.base.bare()
        verdict, admitted = admit(model, current=bare, candidate=candidate, base=bare, probes=gate, look=look)
        judged = time.process_time()
        whole = self.drops(candidate)
        let_in = None if admitted is None else whole if verdict.alpha == 1 else self.drops(admitted.adapter)
        return {
            "kind": kind,
            "strength": strength,
            "seed": seed,
            "look": look,
            "per_leg": self.base.probes_per_leg,
            "alpha": verdict.alpha,
            "legs": {
                leg.leg: [round(x, 5) for x in (leg.drop, leg.upper, leg.detectable_drop)] for leg in verdict.legs
            },
            "true_drops": whole,
            "true_drops_let_in": let_in,
            "harmful": self.harmful(whole),
            "let_in_harmful": let_in is not None and self.harmful(let_in),
            "seconds": {"teaching": round(taught - begun, 1), "gate": round(judged - taught, 1)},
        }

    def drops(self, adapter: Adapter) -> dict[str, float]:
        """Mean drop on each leg, on items that the gate has not seen."""
        before = self.fresh.score_bare(self.base.model, self.base.bare())
        after: dict[str, Tensor] = self.fresh.score(self.base.model, adapter)
        return {leg: round(float((after[leg] - before[leg]).mean()), 5) for leg in before}

    def harmful(self, drops: dict[str, float]) -> bool:
        """Whether a true drop is at its margin or beyond."""
        return any(drop >= MARGINS[self.fresh.units()[leg]] for leg, drop in drops.items())


def summary(rows: list[Row]) -> list[Row]:
    """Rates of each kind and strength."""
    groups: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["strength"]), []).append(row)
    return [
        {
            "kind": kind,
            "strength": strength,
            "adapters": len(found),
            "harmful": sum(row["harmful"] for row in found),
            "admitted": sum(row["alpha"] > 0 for row in found),
            "false_accepts": sum(row["let_in_harmful"] for row in found),
            "false_rejects": sum(row["alpha"] < 1 and not row["harmful"] for row in found),
            "alphas": [row["alpha"] for row in found],
        }
        for (kind, strength), found in groups.items()
    ]


def wanted(seeds: int) -> Iterator[tuple[str, float, int]]:
    """What is to be judged; the identity once."""
    for seed in range(seeds):
        for kind, strengths in STRENGTHS.items():
            for strength in strengths if kind != "identity" or seed == 0 else ():
                yield kind, strength, seed


def texts_of(file: Path | None) -> Texts:
    """Lines of a file, each an answer without a prompt; else public texts that no probe repeats."""
    if file is None:
        return [(row["prompt"], row["answer"]) for row in rehearsal() if row["id"].startswith("rehearsal-english")]
    return [("Write a commit message.", line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


@click.command()
@click.option("--rows", type=click.Path(path_type=Path), help="JSON lines to keep rows in; resumed where they end.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Draws of the texts.")
@click.option("--look", type=click.IntRange(1), default=1, show_default=True, help="Which night the gate thinks it is.")
@click.option(
    "--per-leg", type=click.IntRange(4), default=PER_LEG, show_default=True, help="Probe items used of each leg."
)
@click.option("--text", type=click.Path(exists=True, path_type=Path), help="Lines that the adapters learn from.")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
def main(rows: Path | None, seeds: int, look: int, per_leg: int, text: Path | None, as_json: bool) -> None:
    """Count false accepts and false rejects of the gate on planted adapters."""
    torch.set_num_threads(1)
    cache = Path(os.environ.get("LIMBECK_TEST_CACHE", Path(__file__).parents[2] / ".cache"))
    bench = Bench(replace(base_of(make_base(cache)), probes_per_leg=per_leg), texts_of(text))
    done = [json.loads(line) for line in rows.read_text().splitlines()] if rows and rows.exists() else []
    known = {(row["kind"], row["strength"], row["seed"], row["look"], row["per_leg"]) for row in done}
    for kind, strength, seed in wanted(seeds):
        if (kind, strength, seed, look, per_leg) in known:
            continue
        click.echo(f"{kind}, strength {strength:g}, seed {seed}", err=True)
        row = bench.row(kind, strength, seed, look)
        done.append(row)
        if rows:
            with rows.open("a") as file:
                file.write(json.dumps(row) + "\n")
    found = summary([row for row in done if row["look"] == look and row["per_leg"] == per_leg])
    columns = ("adapter", "strength", "adapters", "harmful", "admitted", "false accepts", "false rejects")
    keys = ("kind", "strength", "adapters", "harmful", "admitted", "false_accepts", "false_rejects")
    lines = [[str(line[key]) for key in keys] for line in found]
    show({"look": look, "per_leg": per_leg, "adapters": found}, table(columns, lines), as_json=as_json)


if __name__ == "__main__":
    main()
