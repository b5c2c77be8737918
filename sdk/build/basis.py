"""Other people's public text in; out a domain adapter, and directions for how people differ.

Both cost no privacy, because no record of the user is in them. Steps, each kept on disk when it is done, the first one
every minute, so that the same call goes on where an interrupted one was:
    1. The domain adapter: some passes of Adam over all public people, held to the bare base's distribution on public
       rehearsal texts (else it drifts 0.4 nats a token on the base's own answers), then the gate.
    2. Each person's gradients at that adapter (sdk.build.directions).
    3. Directions from all of them.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random

import torch
from torch import Tensor, nn

from personalize import rehearsal, retention
from personalize.adapter import Adapter
from personalize.forward import Prefix, bare_states, collate, completion_losses, encode, kl_losses, prefixes
from personalize.learner import Base
from personalize.pack import DomainPack, quantised
from personalize.trainable import FrozenA
from sdk.build.directions import HEAD_ROWS, MICROBATCH, Seen, directed, directions_of, seen_of
from sdk.build.worked import Worked
from sdk.errors import BasisError, NoDirectionsError

__all__ = ["MAX_DIRECTIONS", "learn_domain", "pack_key"]

RECIPE = 7  # Part of the cache key: another recipe makes another pack.
RATE = 3e-3  # Adam's first rate, falling to zero over the passes.
MAX_DIRECTIONS = 240  # With the domain adapter 11.9 MB, at four bits a number.
MAX_ANCHORS = 128  # Different anchors, taken in turn: each costs a pass through all the frozen layers.
REHEARSED_PER_STEP = 4  # Public texts beside each batch on which the domain adapter is held to the bare base.
KEPT_EVERY_SECONDS = 60.0
MIN_PEOPLE, MIN_RECORDS_EACH = 4, 8

People = Mapping[str, Sequence[tuple[str, str]]]
"""Name to (prompt, answer) pairs."""

Progress = Callable[[str, int, int], None]
"""Called with (what is done now, done, total)."""


def pack_key(base: Base, people: People, *, passes: int = 1, max_tokens: int = 40) -> str:
    """Name of the pack that these people make on this base: it changes with any of what it is made from."""
    shape = [base.digest, base.spec.layers, base.spec.rank, base.spec.targets]
    facts = [RECIPE, passes, max_tokens, *shape, sorted(people.items())]
    return hashlib.sha256(json.dumps(facts, ensure_ascii=True).encode()).hexdigest()[:16]


def learn_domain(
    base: Base,
    people: People,
    *,
    max_tokens: int,
    passes: int = 1,
    directions: int = MAX_DIRECTIONS,
    worked: Worked | None = None,
    progress: Progress = lambda what, done, total: None,
) -> DomainPack:
    """Learn a domain adapter and directions from public people.

    Args:
        base: The base model; its `start` is not used.
        people: Public people, without the user and whoever is held out.
        max_tokens: Completion tokens of a record.
        passes: Times that the domain adapter sees each record, ≥ 1.
        directions: Largest number of directions, ≥ 1.
        worked: Where half-done work is kept; None keeps none.
        progress: Told how far each step is.

    Raises:
        BasisError: Too few people or records, no room for half-done work, or nothing in which people differ
            (NoDirectionsError, with the domain adapter as its `start`).
    """
    usable = {name: rows for name, rows in people.items() if len(rows) >= MIN_RECORDS_EACH}
    if len(usable) < MIN_PEOPLE:
        raise BasisError(
            f"{len(usable)} public people have {MIN_RECORDS_EACH} records or more, a basis needs {MIN_PEOPLE}; "
            "add public text"
        )
    worked = worked or Worked(None)
    read = _Reader(base, usable, max_tokens, progress)
    start = _domain_adapter(base, read, passes, worked, progress)
    seen = [_seen(base, start, read, name, worked) for name in _told(read.names, "compare people", progress)]
    try:
        basis = quantised(directions_of(seen, directed(start).shapes(), count=directions))
    except NoDirectionsError as none:
        none.start = start
        raise
    facts = {"people": len(usable), "records": sum(len(rows) for rows in usable.values()), "recipe": RECIPE}
    return DomainPack(start=start, basis=basis, facts=facts)


class _Reader:
    """People's records after the frozen layers, each person read when first asked for."""

    def __init__(self, base: Base, people: People, max_tokens: int, progress: Progress) -> None:
        self._base, self._people, self._max_tokens, self._progress = base, people, max_tokens, progress
        self._read: dict[str, list[Prefix]] = {}
        self.names = list(people)

    def __getitem__(self, name: str) -> list[Prefix]:
        if name not in self._read:
            rows, tokenizer = self._people[name], self._base.tokenizer
            records = [encode(tokenizer, prompt, answer, max_tokens=self._max_tokens) for prompt, answer in rows]
            self._read[name] = list(prefixes(self._base.model, records, cut=self._base.spec.cut))
            self._progress("read public text", len(self._read), len(self.names))
        return self._read[name]


def _told(names: Sequence[str], what: str, progress: Progress) -> Iterator[str]:
    for done, name in enumerate(names):
        yield name
        progress(what, done + 1, len(names))


def _domain_adapter(base: Base, read: _Reader, passes: int, worked: Worked, progress: Progress) -> Adapter:
    parts = FrozenA(base.bare())
    if done := worked.read("start"):
        _put_into(parts, done)
        return parts.adapter()
    parts.summed = True
    batches = _batches(read, passes)
    anchors = _Anchors(base)
    optimizer = torch.optim.Adam(parts.parameters, lr=RATE)
    first = _resumed(parts, optimizer, worked.read("domain"))
    kept = time.monotonic()
    with parts.attached(base.model):
        for step in range(first, len(batches)):
            for group in optimizer.param_groups:
                group["lr"] = RATE * (1 - step / len(batches))
            batch = collate(batches[step])
            losses = completion_losses(base.model, batch, cut=base.spec.cut, head_rows=HEAD_ROWS)
            ((losses.sum() + anchors.drift(step).sum()) / batch.weights.sum()).backward()
            optimizer.step()
            optimizer.zero_grad()
            parts.refresh()
            progress("learn the domain", step + 1, len(batches))
            if time.monotonic() - kept > KEPT_EVERY_SECONDS:
                worked.keep("domain", _state(parts, optimizer, step + 1))
                kept = time.monotonic()
    start = _gated(base, parts.adapter())
    worked.keep("start", {str(index): start.b[site] for index, site in enumerate(start.b)})
    return start


class _Anchors:
    """Public texts, as answers and without a prompt, on which the domain adapter is to say what the bare base says."""

    def __init__(self, base: Base) -> None:
        """Read the texts, and what the bare base makes of them."""
        self._base = base
        turns = rehearsal.anchors(base.rehearsal, base.tokenizer, count=MAX_ANCHORS // 2)
        plain = rehearsal.anchors(
            [{**row, "prompt": ""} for row in base.rehearsal], base.tokenizer, count=MAX_ANCHORS // 2, seed=1
        )
        texts = [text for pair in zip(turns, plain, strict=False) for text in pair]
        self._read = list(prefixes(base.model, texts, cut=base.spec.cut))
        self._bare = [bare_states(base.model, collate([one]), cut=base.spec.cut)[0] for one in self._read]

    def drift(self, step: int) -> Tensor:
        """Distance from the bare base on the next few texts, in nats, shape (texts,)."""
        chosen = [(step * REHEARSED_PER_STEP + index) % len(self._read) for index in range(REHEARSED_PER_STEP)]
        batch = collate([self._read[index] for index in chosen])
        bare = nn.utils.rnn.pad_sequence([self._bare[index] for index in chosen], batch_first=True)
        return kl_losses(self._base.model, batch, bare, cut=self._base.spec.cut, head_rows=HEAD_ROWS)


def _batches(read: _Reader, passes: int) -> list[list[Prefix]]:
    rows = [read[name] for name in read.names]
    whole = [row[at : at + MICROBATCH] for row in rows for at in range(0, len(row), MICROBATCH)]
    order, batches = Random(0), []
    for _ in range(passes):
        order.shuffle(whole)
        batches += whole
    return batches


def _gated(base: Base, domain: Adapter) -> Adapter:
    bare = base.bare()
    _, admitted = retention.admit(base.model, current=bare, candidate=domain, base=bare, probes=base.gate())
    return admitted.adapter if admitted else bare


@torch.no_grad()
def _put_into(parts: FrozenA, values: Mapping[str, Tensor]) -> None:
    for index, parameter in enumerate(parts.parameters):
        parameter.copy_(values[str(index)])


def _state(parts: FrozenA, optimizer: torch.optim.Adam, done: int) -> dict[str, Tensor]:
    """Parameters and Adam's moments, by the number of the parameter."""
    kept = {"done": torch.tensor([done])}
    for index, parameter in enumerate(parts.parameters):
        moments = optimizer.state[parameter]
        kept |= {str(index): parameter.detach(), f"{index}.step": moments["step"].reshape(1)}
        kept |= {f"{index}.first": moments["exp_avg"], f"{index}.second": moments["exp_avg_sq"]}
    return kept


def _resumed(parts: FrozenA, optimizer: torch.optim.Adam, kept: Mapping[str, Tensor] | None) -> int:
    """Put what was kept back; returns the number of batches done."""
    if kept is None:
        return 0
    _put_into(parts, kept)
    for index, parameter in enumerate(parts.parameters):
        optimizer.state[parameter] = {
            "step": kept[f"{index}.step"][0],
            "exp_avg": kept[f"{index}.first"],
            "exp_avg_sq": kept[f"{index}.second"],
        }
    return int(kept["done"])


def _seen(base: Base, start: Adapter, read: _Reader, name: str, worked: Worked) -> Seen:
    key = "person-" + hashlib.sha256(name.encode()).hexdigest()[:16]
    if kept := worked.read(key):
        return Seen(first=kept["first"], second=kept["second"], singles=kept["singles"])
    seen = seen_of(base, start, read[name])
    worked.keep(key, {"first": seen.first, "second": seen.second, "singles": seen.singles})
    return seen
