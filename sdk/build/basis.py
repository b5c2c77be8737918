"""Other people's public text in; out a domain adapter, and directions for how people differ.

Both cost no privacy, because no record of the user is in them. Steps:
    1. The domain adapter: some passes of Adam over all public people, public rehearsal texts mixed in, then the gate.
    2. Each person's mean gradient at that adapter, from two disjoint halves of their records.
    3. Directions: the span of people's mean gradients, whitened by the second moment of single records, turned to the
       axes along which the two halves of one person agree. One half alone would mistake the sampling noise of its
       records for a person. What all people share stays in the span: the domain adapter has not learned all of it.
    4. How far people lie apart along each, measured on every person with directions that the others made.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from scipy import optimize
from torch import Tensor

from personalize import rehearsal, retention
from personalize.adapter import Adapter
from personalize.errors import AdapterError
from personalize.forward import Prefix, collate, completion_losses, encode, prefixes
from personalize.learner import Base
from personalize.plan import NightPlan
from personalize.trainable import Basis, trainable
from privacy.per_example import take_grad_sample
from sdk.errors import BasisError

__all__ = ["DomainPack", "learn_domain"]

FORMAT = "basis/1"
RECIPE = 4  # Part of the cache key: another recipe makes another pack.
MICROBATCH = 16
HEAD_ROWS = NightPlan().head_rows  # The night looks at the same part of the vocabulary.
RATE = 3e-3  # Adam's first rate, falling to zero over the pass.
MAX_ANCHORS = 64  # Different anchors, taken in turn: each costs a pass through all the frozen layers.
REHEARSED_PER_STEP = 4  # Public anchors in each batch of the domain adapter, so that it forgets less.
MIN_PEOPLE, MIN_RECORDS_EACH = 4, 8

People = Mapping[str, Sequence[tuple[str, str]]]
"""Name to (prompt, answer) pairs."""

Progress = Callable[[str, int, int], None]
"""Called with (what is done now, done, total)."""


@dataclass(frozen=True, kw_only=True)
class DomainPack:
    """What public people taught about one kind of text."""

    start: Adapter
    """Domain adapter, gated on public probes."""
    basis: Basis
    """Directions at that adapter."""

    def save(self, folder: Path) -> None:
        """Write the pack, whole or not at all."""
        staged = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        self.start.save(staged / "start")
        tensors = {site: value.half().contiguous() for site, value in self.basis.directions.items()}
        save_file({**tensors, "variance": self.basis.variance.contiguous()}, staged / "basis.safetensors")
        (staged / "basis.json").write_text(json.dumps({"format": FORMAT, "directions": len(self.basis)}) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        staged.rename(folder)

    @classmethod
    def load(cls, folder: Path, *, base_digest: str) -> "DomainPack":
        """Read a pack.

        Raises:
            BasisError: It is missing, damaged, of another format or for another base.
        """
        try:
            card = json.loads((folder / "basis.json").read_text())
            if card["format"] != FORMAT:
                raise BasisError(f"basis in {folder.name} has format {card['format']!r}, this version reads {FORMAT}")
            tensors = load_file(folder / "basis.safetensors")
            variance = tensors.pop("variance")
            directions = {site: value.float() for site, value in tensors.items()}
            start = Adapter.load(folder / "start", base_digest=base_digest)
            return cls(start=start, basis=Basis(directions=directions, variance=variance))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError, AdapterError) as cause:
            raise BasisError(
                f"basis in {folder.name} cannot be read ({cause}); delete it, it will be learned again"
            ) from cause


def pack_key(base: Base, people: People) -> str:
    """Name of the pack that these people make on this base: it changes with any of what it is made from."""
    facts = [RECIPE, base.digest, base.spec.layers, base.spec.rank, base.spec.targets, sorted(people.items())]
    return hashlib.sha256(json.dumps(facts, ensure_ascii=True).encode()).hexdigest()[:16]


def learn_domain(
    base: Base,
    people: People,
    *,
    max_tokens: int,
    passes: int = 1,
    progress: Progress = lambda what, done, total: None,
) -> DomainPack:
    """Learn a domain adapter and directions from public people.

    Args:
        base: The base model; its `start` is not used.
        people: Public people, without the user and whoever is held out.
        max_tokens: Completion tokens of a record.
        passes: Times that the domain adapter sees each record, ≥ 1.
        progress: Told how far each step is.

    Raises:
        BasisError: Too few people or records.
    """
    usable = {name: rows for name, rows in people.items() if len(rows) >= MIN_RECORDS_EACH}
    if len(usable) < MIN_PEOPLE:
        raise BasisError(
            f"{len(usable)} public people have {MIN_RECORDS_EACH} records or more, a basis needs {MIN_PEOPLE}; "
            "add public text"
        )
    read = _read(base, usable, max_tokens, progress)
    start = _gated(base, _domain_adapter(base, read, passes, progress))
    return DomainPack(start=start, basis=_directions(base, start, read, progress))


def _read(base: Base, people: People, max_tokens: int, progress: Progress) -> dict[str, list[Prefix]]:
    total, done, read = sum(len(rows) for rows in people.values()), 0, {}
    for name, rows in people.items():
        records = [encode(base.tokenizer, prompt, answer, max_tokens=max_tokens) for prompt, answer in rows]
        read[name] = list(prefixes(base.model, records, cut=base.spec.cut))
        done += len(rows)
        progress("read public text", done, total)
    return read


def _domain_adapter(base: Base, read: Mapping[str, Sequence[Prefix]], passes: int, progress: Progress) -> Adapter:
    parts = trainable("frozen-a", base.bare(), model=base.model)
    parts.summed = True
    whole = [list(rows[at : at + MICROBATCH]) for rows in read.values() for at in range(0, len(rows), MICROBATCH)]
    order, batches = Random(0), []
    for _ in range(passes):
        order.shuffle(whole)
        batches += whole
    texts = rehearsal.anchors(base.rehearsal, base.tokenizer, count=MAX_ANCHORS)
    public = list(prefixes(base.model, texts, cut=base.spec.cut))
    optimizer = torch.optim.Adam(parts.parameters, lr=RATE)
    with parts.attached(base.model):
        for step, rows in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = RATE * (1 - step / len(batches))
            anchors = [public[(step * REHEARSED_PER_STEP + index) % len(public)] for index in range(REHEARSED_PER_STEP)]
            batch = collate([*rows, *anchors])
            losses = completion_losses(base.model, batch, cut=base.spec.cut, head_rows=HEAD_ROWS)
            (losses.sum() / batch.weights.sum()).backward()
            optimizer.step()
            optimizer.zero_grad()
            parts.refresh()
            progress("learn the domain", step + 1, len(batches))
    return parts.adapter()


def _gated(base: Base, domain: Adapter) -> Adapter:
    bare = base.bare()
    _, admitted = retention.admit(base.model, current=bare, candidate=domain, base=bare, probes=base.gate())
    return admitted.adapter if admitted else bare


def _directions(base: Base, start: Adapter, read: Mapping[str, Sequence[Prefix]], progress: Progress) -> Basis:
    halves: tuple[list[Tensor], list[Tensor]] = ([], [])
    rows: list[Tensor] = []
    for done, person in enumerate(read.values()):
        gradients = _record_gradients(base, start, person)  # (records, numbers)
        halves[0].append(gradients[0::2].mean(0))
        halves[1].append(gradients[1::2].mean(0))
        rows.append(gradients.half())  # Only their second moment in a small subspace is needed: half is enough.
        progress("compare people", done + 1, len(read))
    first, second = torch.stack(halves[0]), torch.stack(halves[1])  # (people, numbers)
    return _split_half_basis(first, second, rows, {site: value.shape for site, value in start.b.items()})


def _record_gradients(base: Base, start: Adapter, person: Sequence[Prefix]) -> Tensor:
    parts, made = trainable("frozen-a", start, model=base.model), []
    with parts.attached(base.model):
        for first in range(0, len(person), MICROBATCH):
            batch = collate(person[first : first + MICROBATCH])
            losses = completion_losses(base.model, batch, cut=base.spec.cut, head_rows=HEAD_ROWS)
            losses.sum().backward()
            taken = [take_grad_sample(parameter) for parameter in parts.parameters]
            made.append(torch.cat([gradient.flatten(1) for gradient in taken if gradient is not None], dim=1))
    return torch.cat(made)


def _split_half_basis(first: Tensor, second: Tensor, rows: Sequence[Tensor], shapes: Mapping[str, torch.Size]) -> Basis:
    """Directions from two halves of each person's mean gradient, each (people, numbers), and single records."""
    mean = (first + second) / 2  # Every direction is a combination of these, so inner products with them suffice.
    products = _Products(
        means=mean @ mean.t(),
        first=first @ mean.t(),
        second=second @ mean.t(),
        records=[part.float() @ mean.t() for part in rows],
    )
    kept, variance = products.turn(), products.variance()
    count = min(len(kept), int((variance > 0).sum()))  # Where the halves disagree there is noise, not a person.
    if count == 0:
        raise BasisError("the two halves of no public person agree; there is nothing to learn from, add public text")
    split = (kept[:count] @ mean).split([shape.numel() for shape in shapes.values()], dim=1)
    directions = {site: part.reshape(-1, *shape) for (site, shape), part in zip(shapes.items(), split, strict=True)}
    return Basis(directions=directions, variance=variance[:count])


@dataclass(frozen=True, kw_only=True)
class _Products:
    """Inner products with each person's mean gradient: all that directions are made from."""

    means: Tensor  # (people, people)
    first: Tensor  # (people, people): first halves
    second: Tensor  # (people, people): second halves
    records: list[Tensor]  # of each person, (records, people)

    def without(self, person: int) -> "_Products":
        """The same as if a person did not exist."""
        keep = [index for index in range(len(self.means)) if index != person]
        return _Products(
            means=self.means[keep][:, keep],
            first=self.first[keep][:, keep],
            second=self.second[keep][:, keep],
            records=[self.records[index][:, keep] for index in keep],
        )

    def turn(self) -> Tensor:
        """Combinations of people's means, strongest first, whitened by single records: shape (count, people)."""
        size, axes = torch.linalg.eigh(self.means.double())
        held = size > size.max() * 1e-9
        axes = axes[:, held] / size[held].sqrt()  # (people, rank): coordinates in an orthonormal frame of the span
        singles = torch.cat(self.records).double() @ axes
        scale, around = torch.linalg.eigh(singles.t() @ singles / len(singles))
        axes = axes @ (around / scale.clamp_min(scale.max() * 1e-6).sqrt()) @ around.t()
        one, two = self.first.double() @ axes, self.second.double() @ axes
        _, toward = torch.linalg.eigh(one.t() @ two + two.t() @ one)
        combinations: Tensor = (axes @ toward.flip(1)).t().float()
        return combinations

    def variance(self) -> Tensor:
        """How far people lie apart along the first, second, … direction, never rising: shape (people - 1,).

        Each person is measured along directions that the others made. Their own would flatter: a direction fitted to
        a person's sample agrees with its noise.
        """
        apart = torch.zeros(len(self.means), len(self.means) - 1)
        for person in range(len(self.means)):
            keep = [index for index in range(len(self.means)) if index != person]
            turn = self.without(person).turn()  # (count, people - 1)
            agreed = (turn @ self.first[person, keep]) * (turn @ self.second[person, keep])
            apart[person, : len(agreed)] = agreed
        falling = optimize.isotonic_regression(apart.mean(0).double().numpy(), increasing=False).x
        return torch.from_numpy(falling.copy()).float()  # A copy: torch takes no negative strides.
