"""What a student's training may ask of a teacher, at three depths.

TEXT             text(prompts)                          an endpoint that answers: a licensed model behind an API
PROBABILITIES    + log_probabilities(ids, top_k)        an endpoint that scores, or a file of recorded outputs
WEIGHTS          + look(ids): logits, hidden states, attention    a folder or a GGUF file on this disk

Every teacher has the first two methods. One that is not deep enough for a question refuses it with TeacherError, so
that a loss is never computed from something that the teacher did not say.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol, TypeAlias, runtime_checkable

from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sdk.build.losses.outcomes import TopK
from sdk.build.teachers.price import Estimate
from sdk.errors import TeacherError

__all__ = ["Answer", "Depth", "OpenTeacher", "Prompt", "Sampling", "Teacher", "TeacherFacts", "View", "opened"]

Prompt: TypeAlias = str | Sequence[Mapping[str, str]]
"""What a user says, or a whole conversation of messages with `role` and `content`."""


class Depth(IntEnum):
    """How deep a student can look into its teacher; each depth includes those before it."""

    TEXT = 1
    PROBABILITIES = 2
    WEIGHTS = 3


@dataclass(frozen=True, kw_only=True)
class TeacherFacts:
    """Who teaches; the student's manifest records it."""

    name: str
    """As its maker or its endpoint calls it."""
    depth: Depth
    """What can be asked of it."""
    licence: str
    """SPDX identifier or the maker's own name of the terms, or `unknown`."""
    origin: str
    """Name of the file or folder, or address of the endpoint; never a whole path, never a key."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How answers are drawn."""

    max_new_tokens: int = 256
    """Longest answer, in the teacher's own tokens, at least 1."""
    temperature: float = 0.0
    """0 takes the likeliest token each time; at most 2."""
    seed: int = 0
    """Decides what is drawn above temperature 0, where the teacher honours it."""

    def __post_init__(self) -> None:
        """Refuse what no teacher can do.

        Raises:
            ValueError: A number outside its range.
        """
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature must lie in 0 to 2, got {self.temperature}")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a teacher wrote to one prompt."""

    text: str
    """The whole turn, without control tokens."""
    finish: str
    """`stop`: it ended by itself. `length`: cut at the longest answer. `refused`: there is a reason instead of a text.
    Or what an endpoint calls it."""
    reason: str = ""
    """Why this prompt has no answer."""


@dataclass(frozen=True, kw_only=True)
class View:
    """One forward pass of a teacher, without gradients. Layers have their numbers in the teacher, from 0."""

    logits: Tensor
    """(batch, seq, vocabulary), float32; position i is about token i + 1."""
    hidden_states: Mapping[int, Tensor] = field(default_factory=dict)
    """Layer to its *input*, (batch, seq, width); the number of layers itself names what enters the last norm."""
    attention: Mapping[int, Tensor] = field(default_factory=dict)
    """Layer to its attention probabilities, (batch, heads, seq, seq); each row sums to 1."""


@runtime_checkable
class Teacher(Protocol):
    """Any teacher."""

    @property
    def facts(self) -> TeacherFacts:
        """Who teaches."""
        ...

    @property
    def spent(self) -> float | None:
        """What its answers have cost until now; None: unknown."""
        ...

    def estimate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Estimate:
        """What answering these prompts will take, without asking for anything."""
        ...

    def text(self, prompts: Sequence[Prompt], sampling: Sampling = ...) -> list[Answer]:
        """Answer each prompt; one that it cannot answer has a reason instead.

        Raises:
            TeacherError: It can answer none.
        """
        ...

    def log_probabilities(self, ids: Tensor, top_k: int) -> TopK:
        """The `top_k` likeliest next tokens after each of `ids`, (batch, seq), and the mass of all others.

        Raises:
            TeacherError: It cannot say so many, or says nothing about these tokens.
        """
        ...


@runtime_checkable
class OpenTeacher(Teacher, Protocol):
    """A teacher whose weights are here."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """How it cuts text; token_map and alignment compare it with the student's."""
        ...

    @property
    def layers(self) -> int:
        """Number of layers."""
        ...

    def logits(self, ids: Tensor) -> Tensor:
        """(batch, seq, vocabulary), float32; position i is about token i + 1."""
        ...

    def hidden_states(self, ids: Tensor, layers: Collection[int]) -> Mapping[int, Tensor]:
        """The inputs of these layers, as View has them."""
        ...

    def attention(self, ids: Tensor, layers: Collection[int]) -> Mapping[int, Tensor]:
        """The attention probabilities of these layers, as View has them."""
        ...

    def look(self, ids: Tensor, *, hidden_states: Collection[int] = (), attention: Collection[int] = ()) -> View:
        """One forward pass over `ids`, (batch, seq), with what is asked of it.

        Raises:
            TeacherError: A layer or a token that it has not.
        """
        ...


def opened(teacher: Teacher) -> OpenTeacher:
    """The teacher as one whose weights are here.

    Raises:
        TeacherError: It is not; text and log-probabilities are all that it can be asked for.
    """
    if not isinstance(teacher, OpenTeacher):
        facts = teacher.facts
        raise TeacherError(
            f"{facts.name} gives {facts.depth.name.lower()} only, and this needs its weights; "
            "choose a folder or a GGUF file, or leave features and attention out"
        )
    return teacher
