"""P1, PERSONAL-DP: what a person's own later text gains from a private night, and what it could gain without privacy.

Run with `python -m tests.bench.personal --stream commits --bundle FOLDER --rows FILE [--minutes M]`; FOLDER is a base
bundle with a pack of that name, learned by `limbeck build basis` on the public people that `--public FILE` writes.
Rows are appended as they are made, and a person who has rows is not measured again, so a run can be stopped, resumed
and added to. `--summary` prints the table of all rows. People are taken in an order that a hash fixes.

Gain: relative reduction of nats per token on the person's latest fifth, against the public domain adapter.
"""

import argparse
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from personalize import rehearsal, retention
from personalize.adapter import Adapter, attached
from personalize.forward import Encoded, Prefix, collate, completion_losses, encode, prefixes, token_scores
from personalize.learner import Base
from personalize.pack import DomainPack
from personalize.plan import NightPlan, clip_norm_of
from personalize.probes import Probes
from personalize.train import train
from personalize.trainable import KINDS, trainable
from sdk.bundle import Bundle
from sdk.device.night import base_of, plan_of
from tests.bench import people as data

MAX_TRAIN, MAX_TEST, MAX_TOKENS = 300, 80, 40
EPSILONS = (1.0, 2.0, 8.0, None)
SPANS = ((1, 99), (100, 299), (300, 100_000))
RATE_OF_ALL, EPOCHS_OF_ALL = 1e-4, 3
BATCH, RATE, EPOCHS = 32, 1e-3, 3  # Of the arm without privacy: Adam on A and B, small batches.
CACHE_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
STREAMS: Mapping[str, Callable[[], data.Split | None]] = {"commits": data.commits, "chats": data.chats}


class Bench:
    """A base with a pack, and the public texts that every arm rehearses."""

    def __init__(self, bundle: Bundle, name: str, *, probes_per_leg: int) -> None:
        """Load everything once."""
        pack = DomainPack.load(bundle.packs()[name], base_digest=bundle.base_digest)
        plain = base_of(bundle, probes_per_leg=probes_per_leg)
        self.base: Base = replace(plain, start=pack.start, basis=pack.basis)
        self.start, self.count = pack.start, len(pack.basis)
        texts = rehearsal.anchors(self.base.rehearsal, self.base.tokenizer, count=72)
        self.anchors = list(prefixes(self.base.model, texts, cut=self.cut))
        self.probes = self.base.gate()

    @property
    def cut(self) -> int:
        """Frozen layers."""
        return self.base.spec.cut

    def read(self, rows: Sequence[tuple[str, str]]) -> list[Prefix]:
        """Records after the frozen layers, in their order."""
        records = [encode(self.base.tokenizer, prompt, answer, max_tokens=MAX_TOKENS) for prompt, answer in rows]
        order = sorted(range(len(records)), key=lambda index: len(records[index].ids))
        made = list(prefixes(self.base.model, [records[index] for index in order], cut=self.cut))
        return [row for _, row in sorted(zip(order, made, strict=True), key=lambda pair: pair[0])]

    @torch.no_grad()
    def nats(self, adapter: Adapter, rows: Sequence[Prefix]) -> float:
        """Mean loss of a completion token."""
        total = tokens = 0.0
        with attached(self.base.model, adapter):
            for first in range(0, len(rows), BATCH):
                batch = collate(rows[first : first + BATCH])
                total += float(completion_losses(self.base.model, batch, cut=self.cut).sum())
                tokens += float(batch.weights.sum())
        return total / tokens

    def private(self, rows: Sequence[Prefix], epsilon: float | None, *, kind: str = "basis") -> Adapter:
        """A night by the product's own engine; None is without privacy."""
        plan = NightPlan(kind=kind, epsilon=epsilon or 1.0, max_tokens=MAX_TOKENS)
        if kind == "basis":
            plan = replace(plan, clip_norm=clip_norm_of(self.count))
        else:
            plan = replace(plan_of(kind=kind, epsilon=epsilon or 1.0), max_tokens=MAX_TOKENS)
        parts = trainable(kind, self.start, model=self.base.model, basis=self.base.basis)
        run = plan.run() if epsilon else None
        return train(self.base.model, parts, rows, self.anchors, plan, run=run)

    def free(self, rows: Sequence[Prefix]) -> Adapter:
        """Full LoRA without privacy, clipping or rehearsal: what one could gain."""
        parts = trainable("lora", self.start, model=self.base.model)
        parts.summed = True
        optimizer = torch.optim.Adam(parts.parameters, lr=RATE)
        ordered = sorted(rows, key=lambda row: len(row.record.ids))
        starts = list(range(0, len(ordered), BATCH))
        order = random.Random(0)
        with parts.attached(self.base.model):
            for _ in range(EPOCHS):
                order.shuffle(starts)
                for first in starts:
                    batch = collate(ordered[first : first + BATCH])
                    losses = completion_losses(self.base.model, batch, cut=self.cut, head_rows=NightPlan().head_rows)
                    (losses.sum() / batch.weights.sum()).backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    parts.refresh()
        return parts.adapter()

    def everything(self, rows: data.Rows, later: data.Rows, began: float) -> dict[str, Any]:
        """The control that must collapse: every weight trained on the person's records, from the bare base."""
        model, records = self.base.model, [encode(self.base.tokenizer, *row, max_tokens=MAX_TOKENS) for row in rows]
        held = [encode(self.base.tokenizer, *row, max_tokens=MAX_TOKENS) for row in later]
        kept = {name: value.clone() for name, value in model.state_dict().items()}
        before = self.probes.score_bare(model, self.base.bare())
        optimizer = torch.optim.Adam([value.requires_grad_() for value in model.parameters()], lr=RATE_OF_ALL)
        try:
            order, ordered = random.Random(0), sorted(records, key=lambda record: len(record.ids))
            starts = list(range(0, len(ordered), BATCH))
            for _ in range(EPOCHS_OF_ALL):
                order.shuffle(starts)
                for first in starts:
                    batch = collate(list(prefixes(model, ordered[first : first + BATCH], cut=0)))
                    (completion_losses(model, batch, cut=0).sum() / batch.weights.sum()).backward()
                    optimizer.step()
                    optimizer.zero_grad()
            for value in model.parameters():
                value.requires_grad_(False)
            fresh = Probes(self.base.probes, self.base.tokenizer, per_leg=self.base.probes_per_leg)  # No kept prefixes.
            after = fresh.score(model, self.base.bare())
            return {"gain": 1 - self._whole_nats(held) / began, "legs": self._compared(before, after)}
        finally:
            model.load_state_dict(kept)
            for value in model.parameters():
                value.requires_grad_(False)

    @torch.no_grad()
    def _whole_nats(self, records: Sequence[Encoded]) -> float:
        total = tokens = 0.0
        for first in range(0, len(records), BATCH):
            batch = collate(list(prefixes(self.base.model, records[first : first + BATCH], cut=0)))
            total += float(completion_losses(self.base.model, batch, cut=0).sum())
            tokens += float(batch.weights.sum())
        return total / tokens

    @torch.no_grad()
    def cache_nats(self, mine: Sequence[Prefix], later: Sequence[Prefix]) -> dict[str, float]:
        """The start mixed with the share of each token in the person's own records, for each share of the mix."""
        counts: dict[int, int] = defaultdict(int)
        for row in mine:
            for token in row.record.ids[row.record.completion :]:
                counts[token] += 1
        total, found, losses = sum(counts.values()), [], []
        with attached(self.base.model, self.start):
            for first in range(0, len(later), BATCH):
                batch = collate(later[first : first + BATCH])
                scores, _ = token_scores(self.base.model, batch, cut=self.cut)
                counted = batch.weights > 0
                losses += scores[counted].tolist()
                found += [counts[token] / total for token in batch.targets[counted].tolist()]
        chance, own = torch.tensor(losses).neg().exp(), torch.tensor(found)
        return {f"{share:g}": float(-((1 - share) * chance + share * own).log().mean()) for share in CACHE_SHARES}

    def legs(self, adapter: Adapter) -> dict[str, Any]:
        """Drop on each public leg against the bare base, and whether the gate would admit it."""
        bare = self.base.bare()
        before, after = self.probes.score_bare(self.base.model, bare), self.probes.score(self.base.model, adapter)
        return self._compared(before, after)

    def _compared(self, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Any]:
        """As the gate compares them, at a first look."""
        units, strata = self.probes.units(), self.probes.strata()
        legs = retention.compare(before, after, units, retention.MARGINS, level=0.05, strata=strata)
        return {
            leg.leg: {"drop": leg.drop, "detectable": leg.detectable_drop, "unit": leg.unit, "passed": leg.passed}
            for leg in legs
        }


def measured(bench: Bench, stream: str, name: str, mine: data.Rows, other: data.Rows, *, more: bool) -> list[Any]:
    """All arms of one person; `more` adds DP-Adam on many numbers, and what each adapter forgets."""
    split = len(mine) - max(1, len(mine) // 5)
    own, later = bench.read(mine[:split][-MAX_TRAIN:]), bench.read(mine[split:][:MAX_TEST])
    theirs = bench.read(other[len(other) - max(1, len(other) // 5) :][:MAX_TEST])
    began, began_there = bench.nats(bench.start, later), bench.nats(bench.start, theirs)
    rows: list[dict[str, Any]] = []

    def row(arm: str, epsilon: float | None, make: Callable[[], Adapter]) -> None:
        cpu = time.process_time()
        adapter = make()
        cpu = time.process_time() - cpu
        rows.append(
            {
                **{"stream": stream, "person": name, "records": len(own), "arm": arm, "epsilon": epsilon},
                "gain": 1 - bench.nats(adapter, later) / began,
                "elsewhere": 1 - bench.nats(adapter, theirs) / began_there,
                "cpu_seconds": cpu,
                "legs": bench.legs(adapter) if more and epsilon in (2.0, None) else None,
            }
        )

    for epsilon in EPSILONS:
        row("basis", epsilon, partial(bench.private, own, epsilon))
    row("lora", None, lambda: bench.free(own))
    if more:
        row("frozen-a", 2.0, partial(bench.private, own, 2.0, kind="frozen-a"))
        row("xs", 2.0, partial(bench.private, own, 2.0, kind="xs"))
    if more:
        made = bench.everything(mine[:split][-MAX_TRAIN:], mine[split:][:MAX_TEST], began)
        rows.append(
            {"stream": stream, "person": name, "records": len(own), "arm": "all weights", "epsilon": None} | made
        )
    cached = {share: 1 - nats / began for share, nats in bench.cache_nats(own, later).items()}
    base = bench.nats(bench.base.bare(), later)
    rows.append(
        {"stream": stream, "person": name, "records": len(own), "arm": "facts", "base": base, "start": began}
        | {"cache": cached}
    )
    return rows


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table a stream: mean gain with a 95 % interval over people, share who gain, own minus elsewhere."""
    lines = []
    for stream in sorted({row["stream"] for row in rows}):
        facts = [row for row in rows if row["stream"] == stream and row["arm"] == "facts"]
        shares = {share: mean(row["cache"][share] for row in facts) for share in facts[0]["cache"]}
        lines += [
            f"{stream}: {len(facts)} people; nats per token {mean(row['base'] for row in facts):.3f} at the base, "
            f"{mean(row['start'] for row in facts):.3f} at the domain adapter; best token cache "
            f"{100 * max(shares.values()):.2f} %",
            "",
            "| arm | epsilon | records | people | gain, % | gain | own − elsewhere, pp | CPU s |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        groups: dict[tuple[str, float], list[Mapping[str, Any]]] = defaultdict(list)
        for row in rows:
            if row["stream"] == stream and row["arm"] != "facts":
                groups[row["arm"], row["epsilon"] or float("inf")].append(row)
        for (arm, epsilon), group in sorted(groups.items()):
            for low, high in ((0, 10_000), (0, 99), (100, 299), (300, 10_000)):
                part = [row for row in group if "elsewhere" in row and low <= row["records"] <= high]
                if len(part) > 1:
                    label = "all" if high == 10_000 and low == 0 else f"{low or 36}–{high}" if high < 10_000 else "300"
                    lines.append(_line(arm, epsilon, label, part))
        lines += ["", *_forgetting(stream, rows), ""]
    return "\n".join(lines)


def _forgetting(stream: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Mean drop on each public leg, by arm, with the smallest drop that one person's verdict could have shown."""
    legs: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["stream"] == stream and row.get("legs"):
            arm = row["arm"] + ("" if row["epsilon"] is None else f", epsilon {row['epsilon']:g}")
            for leg, found in row["legs"].items():
                legs[leg, arm].append(found)
    lines = [
        "| leg | arm | people | mean drop | detectable | unit | passed |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (leg, arm), found in sorted(legs.items()):
        lines.append(
            f"| {leg} | {arm} | {len(found)} | {mean(one['drop'] for one in found):.3f} "
            f"| {mean(one['detectable'] for one in found):.3f} | {found[0]['unit']} "
            f"| {sum(one['passed'] for one in found)}/{len(found)} |"
        )
    return lines


def write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write mean gains by kind, epsilon and number of records, as personalize.choice reads them."""
    groups: dict[tuple[str, float, tuple[int, int]], list[float]] = defaultdict(list)
    for row in rows:
        if row.get("epsilon") and row["arm"] in KINDS:
            span = next(span for span in SPANS if span[0] <= row["records"] <= span[1])
            groups[row["arm"], row["epsilon"], span].append(row["gain"])
    found = [
        {"kind": kind, "epsilon": epsilon, "records": list(span), "people": len(gains), "gain": round(mean(gains), 5)}
        for (kind, epsilon, span), gains in sorted(groups.items())
    ]
    path.write_text(json.dumps({"format": "kinds/1", "rows": found}, indent=1) + "\n")


def _line(arm: str, epsilon: float, label: str, part: Sequence[Mapping[str, Any]]) -> str:
    gains, apart = [row["gain"] for row in part], [row["gain"] - row["elsewhere"] for row in part]
    low, high = interval(gains)
    least, most = interval(apart)
    return (
        f"| {arm} | {epsilon:g} | {label} | {len(part)} "
        f"| {100 * mean(gains):.2f} ({100 * low:.2f} to {100 * high:.2f}) "
        f"| {sum(gain > 0 for gain in gains)}/{len(part)} "
        f"| {100 * mean(apart):.2f} ({100 * least:.2f} to {100 * most:.2f}) "
        f"| {mean(row['cpu_seconds'] for row in part):.0f} |"
    )


def interval(values: Sequence[float], draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over people."""
    dice = random.Random(0)
    means = sorted(mean(dice.choices(values, k=len(values))) for _ in range(draws))
    return means[draws // 40], means[-draws // 40]


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stream", choices=sorted(STREAMS), default="commits")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--pack", help="pack of the bundle; another kind than the stream's shows what carries over")
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--public", type=Path, help="write the stream's public people for `limbeck build basis`")
    parser.add_argument("--minutes", type=float, default=240.0)
    parser.add_argument("--probes-per-leg", type=int, default=24)
    parser.add_argument("--more", type=int, default=5, help="people with the slow arms and the forgetting legs")
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--table", type=Path, help="write the table that chooses the adapter kind from all rows")
    given = parser.parse_args()
    if given.summary and given.rows:
        print(summary([json.loads(line) for line in given.rows.read_text().splitlines()]))
        return
    if given.table and given.rows:
        write_table([json.loads(line) for line in given.rows.read_text().splitlines()], given.table)
        return
    split = STREAMS[given.stream]()
    if split is None:
        print(f"skipped: no benchmark data beside the repository; {data.DATA} names its folder", file=sys.stderr)
        return
    if given.public:
        data.write(split.public, given.public)
    if given.bundle and given.rows:
        run(split, given)
    elif not given.public:
        print("skipped: needs --bundle with a pack of the stream, and --rows", file=sys.stderr)


def run(split: data.Split, given: argparse.Namespace) -> None:
    """Measure person after person until the time is up."""
    ends = time.monotonic() + 60 * given.minutes
    done = set()
    if given.rows.exists():
        done = {json.loads(line)["person"] for line in given.rows.read_text().splitlines()}
    bench = Bench(Bundle.open(given.bundle), given.pack or given.stream, probes_per_leg=given.probes_per_leg)
    names = data.shuffled(split.test)
    for number, name in enumerate(names):
        if name in done or time.monotonic() > ends:
            continue
        other = split.test[names[(number + 1) % len(names)]]
        rows = measured(bench, given.stream, name, split.test[name], other, more=number < given.more)
        with given.rows.open("a") as out:
            out.write("".join(json.dumps(row) + "\n" for row in rows))
        told = ", ".join(f"{row['arm']} {row['epsilon']}: {100 * row['gain']:.2f}" for row in rows if "gain" in row)
        print(f"{number + 1} of {len(names)}, {rows[0]['records']} records: {told}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
