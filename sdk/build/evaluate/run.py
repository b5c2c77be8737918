"""A model folder and what to measure it with in, a scorecard out, leg by leg; a stopped run goes on where it was.

With `out` the card is written after each leg. Called again for the same model, data and settings, it takes the legs
that stand there and measures the others. A leg that cannot run here says why and does not stop the rest; a damaged
model or data file stops at once.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

from sdk.build.evaluate.agreement import teacher_leg, token_map
from sdk.build.evaluate.card import Leg, Scorecard
from sdk.build.evaluate.card_file import read_card, write_card
from sdk.build.evaluate.cost import cost_leg
from sdk.build.evaluate.device_tasks import STRUCTURED_SCORES, read_tasks, tasks_leg
from sdk.build.evaluate.energy import energy_leg
from sdk.build.evaluate.figures import LEGS
from sdk.build.evaluate.instructions import ifeval_leg, read_ifeval
from sdk.build.evaluate.intents import read_snips
from sdk.build.evaluate.language import read_texts, text_leg
from sdk.build.evaluate.likelihood import Told
from sdk.build.evaluate.opened import Opened, open_model
from sdk.build.evaluate.pairs import pair_leg, read_blimp, read_piqa
from sdk.errors import EvaluationError, NotRunError

__all__ = ["Inputs", "scorecard"]

SNIPS_FILES, BLIMP_FILE, PIQA_FILE, IFEVAL_FILE = "snips", "blimp/BLiMP.zip", "piqa", "ifeval/input_data.jsonl"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of everything is measured."""

    passages: int | None
    passage_bytes: int
    tasks: int | None
    snips_each: int | None
    blimp_each: int
    piqa: int | None
    ifeval: int | None
    ifeval_tokens: int
    repeats: int


FULL = Sizes(
    passages=400,
    passage_bytes=1024,
    tasks=None,
    snips_each=None,
    blimp_each=100,
    piqa=None,
    ifeval=None,
    ifeval_tokens=256,
    repeats=10,
)
QUICK = Sizes(
    passages=12,
    passage_bytes=512,
    tasks=20,
    snips_each=4,
    blimp_each=2,
    piqa=40,
    ifeval=12,
    ifeval_tokens=96,
    repeats=3,
)
"""About two CPU minutes for a model of 94 M parameters with a teacher of 135 M."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a model is measured with; a leg whose input is None does not run."""

    text: Path | None = None
    """Held-out text: plain, or JSONL with a field `text`."""
    tasks: Path | None = None
    """Held-out device tasks: JSONL with `task`, `prompt` and `answer`."""
    data: Path | None = None
    """Folder with snips, blimp, piqa and ifeval."""
    teacher: Path | None = None
    """Model folder or bundle to compare distributions with."""
    quick: bool = False
    """A small, seeded part of everything."""
    skip: frozenset[str] = field(default_factory=frozenset)
    """Legs left out, by their names in figures.LEGS."""

    @property
    def sizes(self) -> Sizes:
        """How much is measured."""
        return QUICK if self.quick else FULL


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One model under measurement."""

    opened: Opened
    inputs: Inputs

    @cached_property
    def teacher(self) -> Opened:
        """The teacher, opened once."""
        if self.inputs.teacher is None:
            raise NotRunError("no teacher; name one with --teacher")
        return open_model(self.inputs.teacher)

    @cached_property
    def passages(self) -> list[str]:
        """Held-out text."""
        path, sizes = _given(self.inputs.text, "held-out text", "--text"), self.inputs.sizes
        return read_texts(path, most_passages=sizes.passages, most_bytes=sizes.passage_bytes)

    def data(self, name: str) -> Path:
        """One data set, or the reason why it is not there."""
        path = _given(self.inputs.data, "benchmark data", "--data") / name
        if not path.exists():
            raise NotRunError(f"{path} is not there")
        return path


def scorecard(
    folder: Path,
    inputs: Inputs,
    *,
    out: Path | None = None,
    told: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Scorecard:
    """Measure a model.

    Args:
        folder: Plain Hugging Face folder or bundle.
        inputs: What to measure it with.
        out: Card file to write after each leg, and to go on from.
        told: Told (leg, items done, items in all).

    Raises:
        EvaluationError: The model or an input is damaged, the teacher's vocabulary does not hold the student's, or
            `out` holds the card of another model; legs that were done stand in `out`.
    """
    unknown = inputs.skip - LEGS.keys()
    if unknown:
        raise EvaluationError(f"there is no leg {sorted(unknown)[0]!r} to skip; the legs are {', '.join(LEGS)}")
    opened = open_model(folder)
    run = _Run(opened=opened, inputs=inputs)
    if inputs.teacher is not None and "teacher" not in inputs.skip:
        token_map(opened.tokenizer, run.teacher.tokenizer)  # A teacher that does not fit is no news for the last hour.
    before = _begun(out, opened, quick=inputs.quick)
    legs: dict[str, Leg] = {}
    for name in LEGS:
        legs[name] = _leg(run, name, before, partial(told, name))
        card = Scorecard(model=_described(opened), quick=inputs.quick, legs=legs)
        if out is not None:
            write_card(card, out)
    return card


def _leg(run: _Run, name: str, before: Scorecard | None, told: Told) -> Leg:
    try:
        if name in run.inputs.skip:
            raise NotRunError("skipped with --skip")
        key, work = _work(run, name, told)
    except NotRunError as reason:
        return Leg(reason=str(reason))
    if before is not None and name in before.legs and before.legs[name].key == key:
        return before.legs[name]
    start = time.process_time()
    try:
        made = work()
    except NotRunError as reason:
        return Leg(reason=str(reason))
    return replace(made, key=key, seconds=time.process_time() - start)


def _work(run: _Run, name: str, told: Told) -> tuple[str, Callable[[], Leg]]:
    """The key of a leg, and what measures it."""
    sizes, opened = run.inputs.sizes, run.opened
    model, tokenizer = opened.model, opened.tokenizer
    match name:
        case "text":
            pieces = run.passages
            return _key(name, *pieces), lambda: text_leg(model, tokenizer, pieces, told)
        case "teacher":
            teacher, pieces = run.teacher, run.passages
            if teacher.digest == opened.digest:
                raise NotRunError("this model is the teacher")
            pair = (teacher.model, teacher.tokenizer)
            return _key(name, teacher.digest, *pieces), lambda: teacher_leg((model, tokenizer), pair, pieces, told)
        case "tasks":
            tasks = read_tasks(_given(run.inputs.tasks, "held-out device tasks", "--tasks"), most=sizes.tasks)
            return _key(name, *map(repr, tasks)), lambda: tasks_leg(model, tokenizer, tasks, told)
        case "snips":
            requests = read_snips(run.data(SNIPS_FILES), each=sizes.snips_each)
            return _key(name, *map(repr, requests)), lambda: tasks_leg(
                model, tokenizer, requests, told, scores=STRUCTURED_SCORES
            )
        case "blimp":
            blimp = read_blimp(run.data(BLIMP_FILE), each=sizes.blimp_each)
            return _key(name, *map(repr, blimp)), lambda: pair_leg(model, tokenizer, blimp, told)
        case "piqa":
            piqa = read_piqa(run.data(PIQA_FILE), most=sizes.piqa)
            return _key(name, *map(repr, piqa)), lambda: pair_leg(model, tokenizer, piqa, told)
        case "ifeval":
            prompts, left_out = read_ifeval(run.data(IFEVAL_FILE), most=sizes.ifeval)
            limit = sizes.ifeval_tokens

            def measured() -> Leg:
                made = ifeval_leg(model, tokenizer, prompts, max_new_tokens=limit, told=told)
                return replace(made, facts={**made.facts, "not_scored": left_out})

            return _key(name, str(limit), *map(repr, prompts)), measured
        case "cost":
            return _key(name, str(sizes.repeats)), lambda: _cost(opened, sizes.repeats)
        case _:
            return _key(name), lambda: energy_leg(opened)


def _cost(opened: Opened, repeats: int) -> Leg:
    made = cost_leg(opened.folder, repeats=repeats)
    sizes = {"size_megabytes": opened.size_bytes / 1e6, "parameters_millions": opened.parameters / 1e6}
    return replace(made, facts={**made.facts, **sizes})


def _described(opened: Opened) -> dict[str, object]:
    return {
        "name": opened.folder.resolve().name,
        "digest": opened.digest,
        "parameters": opened.parameters,
        "size_bytes": opened.size_bytes,
        "weights_bytes": opened.weights_bytes,
    }


def _begun(out: Path | None, opened: Opened, *, quick: bool) -> Scorecard | None:
    if out is None or not out.exists():
        return None
    before = read_card(out)
    if before.model.get("digest") != opened.digest or before.quick != quick:
        raise EvaluationError(
            f"{out} holds the scorecard of another model or size; move it away or choose another --out"
        )
    return before


def _given(path: Path | None, what: str, option: str) -> Path:
    if path is None:
        raise NotRunError(f"no {what}; name it with {option}")
    return path


def _key(*parts: str) -> str:
    return "sha256:" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()
