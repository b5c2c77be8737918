"""A JSON file in, one frozen build plan out: everything that decides what the student becomes.

The bundle records it. A build that goes on with another plan than it began with is refused, and so is a plan with a
field that nobody reads: a misspelt weight would otherwise count nothing.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from sdk.build.losses.head import LossWeights
from sdk.build.rounds import Round
from sdk.errors import PlanError

__all__ = ["BuildPlan"]

FORMAT = "build-plan/1"
PRECISIONS = ("float32", "bfloat16")
LATER = ("rounds", "start", "precision")  # Left out of the file where they say nothing: the plan stays what it was.


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """How a student is made from a teacher."""

    teacher: str = "smollm2-135m-instruct"
    """The installed teacher of that name, or a GGUF file or Hugging Face folder."""
    layers: tuple[int, ...] = (*range(12), 16, *range(18, 25), *range(26, 30))
    """Layers of the teacher that the student keeps, ascending."""
    vocabulary: int = 16_384
    """Tokens that the student keeps."""
    frozen_layers: int = 12
    """Lower layers that are put on their grid at once and trained no further: what they make of a text is computed
    once. The teacher's own first layers, where none of them was left out."""
    text: tuple[str, ...] = ()
    """JSONL files with a `text` each, relative to the plan's folder."""
    tasks: tuple[str, ...] = ()
    """JSONL files with `prompt` and `answer`, relative to the plan's folder."""
    text_tokens: int = 400_000
    """Tokens of text that are read, at most."""
    task_items: int = 8_000
    """Task items that are read, at most."""
    corrected_items: int = 4_000
    """Of those, how many the teacher is first corrected on, and then teaches."""
    sequence: int = 256
    """Tokens of a stretch of text, and the longest task item."""
    top_k: int = 64
    """Tokens of the teacher's distribution that are kept for each position."""
    passes: int = 2
    """Times that the student sees what the teacher told; items without a teacher it sees once."""
    batch_tokens: int = 2_048
    """Tokens of a step."""
    rate: float = 5e-4
    """AdamW's highest rate; it rises over 20 steps and falls to a tenth as a cosine."""
    correction_rate: float = 2e-4
    """The same for the teacher's correction."""
    quantised_share: float = 0.4
    """Share of the steps, at the end, in which training sees weights on the 4-bit grid, in [0, 1]."""
    weights: LossWeights = field(default_factory=LossWeights)
    """What counts how much."""
    seed: int = 0
    """Decides the order of everything."""
    rounds: tuple[Round, ...] = ()
    """Trainings one after another; empty: one over everything, by the fields above."""
    start: str = ""
    """Folder of a student, or bundle of one, whose training goes on, relative to the plan's folder; empty: none."""
    precision: str = "float32"
    """What the layers multiply in, one of PRECISIONS. Weights, losses, updates and the head are float32 either way."""

    def __post_init__(self) -> None:
        """Refuse what no build can do.

        Raises:
            PlanError: A number outside its range.
        """
        if list(self.layers) != sorted(set(self.layers)) or not self.layers:
            raise PlanError(f"layers must rise, got {list(self.layers)}")
        if not 0 <= self.frozen_layers <= len(self.layers):
            raise PlanError(f"frozen_layers must lie in 0 to {len(self.layers)}, got {self.frozen_layers}")
        if not 0 <= self.quantised_share <= 1:
            raise PlanError(f"quantised_share must lie in 0 to 1, got {self.quantised_share}")
        for name in ("vocabulary", "sequence", "top_k", "passes", "batch_tokens"):
            if getattr(self, name) < 1:
                raise PlanError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("text_tokens", "task_items", "corrected_items"):
            if getattr(self, name) < 0:
                raise PlanError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 < self.rate < 1 or not 0 < self.correction_rate < 1:
            raise PlanError("rates must lie between 0 and 1")
        if self.precision not in PRECISIONS:
            raise PlanError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        names = [one.name for one in self.rounds]
        if twice := [name for name in names if names.count(name) > 1]:
            raise PlanError(f"two rounds are called {twice[0]!r}; each keeps its state under its name")
        untaught = [one.name for one in self.rounds if not one.taught]
        if untaught and not (self.weights.cross_entropy or self.weights.self_distillation):
            raise PlanError(f"round {untaught[0]!r} has no teacher, and cross_entropy has no weight; give it one")

    @property
    def trainings(self) -> tuple[Round, ...]:
        """The rounds, or the one that the plan's own fields describe."""
        return self.rounds or (Round(name="train", **_of_plan(self.__dict__)),)

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read a plan file.

        Raises:
            PlanError: Not there, not JSON, of another format, an unknown field or a value of another type.
        """
        try:
            stated = json.loads(file.read_bytes())
        except (OSError, ValueError) as cause:
            raise PlanError(f"{file} is no plan ({cause}); `limbeck build plan` prints one") from cause
        if not isinstance(stated, dict) or stated.pop("format", None) != FORMAT:
            raise PlanError(f"{file} is not of format {FORMAT!r}; `limbeck build plan` prints one")
        plain = {name: value for name, value in stated.items() if name != "rounds"}
        plan = cls(**_typed(cls, plain, "plan"))
        return replace(plan, rounds=_rounds(stated.get("rounds", []), plan))

    def to_json(self) -> str:
        """The plan as a file, one final newline."""
        stated = asdict(self)
        defaults = {one.name: one.default for one in fields(self)}
        for name in LATER:
            if getattr(self, name) == defaults[name]:
                del stated[name]
        return json.dumps({"format": FORMAT, **stated}, indent=2) + "\n"

    @property
    def digest(self) -> str:
        """SHA-256 of the plan, 64 hex digits: another plan, another build."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def _of_plan(stated: Mapping[str, Any]) -> dict[str, Any]:
    return {name: stated[name] for name in ("rate", "passes", "batch_tokens", "quantised_share", "seed")}


def _rounds(stated: Any, plan: BuildPlan) -> tuple[Round, ...]:
    """Rounds of a plan file; what one leaves out is the plan's.

    Raises:
        PlanError: Not a list of rounds, an unknown field, or a value that none takes.
    """
    if not isinstance(stated, list) or not all(isinstance(one, dict) for one in stated):
        raise PlanError(f"plan field 'rounds' has a value of another type: {stated!r:.40}")
    made = []
    for place, one in enumerate(stated):
        if "name" not in one:
            raise PlanError(f"round {place} of the plan has no name; give it one")
        made.append(Round(**{**_of_plan(asdict(plan)), **_typed(Round, one, f"round {one['name']!r}")}))
    return tuple(made)


def _typed(kind: type, stated: dict[str, Any], where: str) -> dict[str, Any]:
    known = {one.name: one for one in fields(kind)}
    for name in stated:
        if name not in known:
            raise PlanError(f"{where} has an unknown field {name!r}; it knows {', '.join(sorted(known))}")
    return {name: _value(name, known[name].type, value) for name, value in stated.items()}


def _value(name: str, wanted: Any, value: Any) -> Any:
    if wanted is LossWeights and isinstance(value, dict):
        try:
            return LossWeights(**_typed(LossWeights, value, "weights"))
        except ValueError as cause:
            raise PlanError(f"plan field {name!r}: {cause}") from cause
    if wanted is float and type(value) in (int, float):
        return float(value)
    if wanted in (int, str, bool) and type(value) is wanted:
        return value
    if wanted == Mapping[str, int] and isinstance(value, dict) and all(type(one) is int for one in value.values()):
        return value
    inner = {tuple[int, ...]: int, tuple[str, ...]: str}.get(wanted)
    if inner and isinstance(value, list) and all(type(one) is inner for one in value):
        return tuple(value)
    raise PlanError(f"plan field {name!r} has a value of another type: {value!r:.40}")
