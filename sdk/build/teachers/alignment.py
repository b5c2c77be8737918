"""One text and two tokenizers in, the places where both have a boundary out: what a foreign teacher can teach at.

Between two such places lies a chunk: the same bytes, in some tokens of the student and some of the teacher. Both give
it a likelihood, the product over its tokens, and these two numbers can be compared. At such a place both also say what
comes next, which token_map.Folding turns into one distribution over the student's tokens.

Positions are compared by bytes and proved for each text: tokens that do not spell it exactly are refused.

Source: approximate likelihood matching, "Universal Cross-Tokenizer Distillation via Approximate Likelihood Matching",
arXiv:2503.20083, section 3, with chunks of equal text.
"""

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sdk.build.teachers.protocol import OpenTeacher
from sdk.build.teachers.token_bytes import bytes_of, spelled
from sdk.errors import VocabularyError

__all__ = ["Aligner", "Alignment", "chunk_log_likelihoods", "likelihood_matching", "teacher_scores"]

CERTAIN = -1e-6
"""Nearest to 0 that a chunk's log-likelihood is taken: beyond it the logarithm of the rest is rounding."""


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """One text, cut twice."""

    student_ids: Tensor
    """(student tokens,), int64."""
    teacher_ids: Tensor
    """(teacher tokens,), int64, without the token that begins a text."""
    student_ends: Tensor
    """Tokens of the student up to the end of each chunk, (chunks,), int64, rising; the last is all of them."""
    teacher_ends: Tensor
    """The same for the teacher."""


class Aligner:
    """Two tokenizers, ready for many texts."""

    def __init__(self, student: PreTrainedTokenizerFast, teacher: PreTrainedTokenizerFast) -> None:
        """Learn what the tokens of both stand for.

        Raises:
            VocabularyError: A tokenizer whose tokens are not understood.
        """
        self._student, self._teacher = student, teacher
        self._student_bytes, self._teacher_bytes = bytes_of(student), bytes_of(teacher)

    def __call__(self, text: str) -> Alignment:
        """Cut a text twice and find the places that both cuts share.

        Raises:
            VocabularyError: An empty text, one with control tokens, or one that a tokenizer changes.
        """
        if not text:
            raise VocabularyError("an empty text has no places")
        student = spelled(self._student, text, self._student_bytes)
        teacher = spelled(self._teacher, text, self._teacher_bytes)
        student_places = _places(student, self._student_bytes)
        teacher_places = _places(teacher, self._teacher_bytes)
        shared = sorted(student_places.keys() & teacher_places.keys())
        return Alignment(
            student_ids=torch.tensor(student),
            teacher_ids=torch.tensor(teacher),
            student_ends=torch.tensor([student_places[place] for place in shared]),
            teacher_ends=torch.tensor([teacher_places[place] for place in shared]),
        )


def _places(ids: list[int], meanings: dict[int, bytes]) -> dict[int, int]:
    """Byte offset of each boundary to the number of tokens before it."""
    ends = accumulate(len(meanings[row]) for row in ids)
    return {place: count for count, place in enumerate(ends, start=1)}


def chunk_log_likelihoods(logits: Tensor, ids: Tensor, ends: Tensor) -> Tensor:
    """Log-likelihood in nats of each chunk but the first, (chunks − 1,); gradients flow to the logits.

    The first chunk is left out: nothing stands before its first token that could foretell it.

    Args:
        logits: (tokens, vocabulary); position i is about token i + 1.
        ids: (tokens,).
        ends: (chunks,), as Alignment has them.
    """
    told = logits[:-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]  # (tokens − 1,): of tokens 1, 2, …
    sums = torch.cat([told.new_zeros(1), told.cumsum(0)])[ends - 1]
    return sums.diff()


def teacher_scores(teacher: OpenTeacher, aligned: Alignment) -> Tensor:
    """What a teacher thinks of each chunk but the first, (chunks − 1,), nats; begun as its tokenizer begins a text."""
    begin = teacher.tokenizer("").input_ids
    ids = torch.cat([torch.tensor(begin, dtype=torch.long), aligned.teacher_ids])
    logits = teacher.logits(ids[None])[0, len(begin) :]  # (teacher tokens, vocabulary)
    return chunk_log_likelihoods(logits, aligned.teacher_ids, aligned.teacher_ends)


def likelihood_matching(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """How far two likelihoods of the same chunks are apart, (chunks,), nats, at least 0; 0 where they agree.

    KL between "this chunk" and "another" under both, with p = likelihood^(1 / temperature):
    p_T log(p_T / p_S) + (1 − p_T) log((1 − p_T) / (1 − p_S)).

    Args:
        student: Log-likelihoods, (chunks,); gradients flow to it.
        teacher: The same of the teacher; none flow to it.
        temperature: Above 1 it compares rare chunks more finely; above 0.
    """
    p_student = (student / temperature).clamp(max=CERTAIN)
    p_teacher = (teacher.detach() / temperature).clamp(max=CERTAIN)
    here = p_teacher.exp() * (p_teacher - p_student)
    other = -torch.expm1(p_teacher) * (_log_other(p_teacher) - _log_other(p_student))
    return here + other


def _log_other(log_likelihood: Tensor) -> Tensor:
    """log(1 − exp(x)) for x below 0."""
    return torch.log(-torch.expm1(log_likelihood))
