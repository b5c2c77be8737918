"""A student, its teacher and text in; how far the student's next-token distributions are from the teacher's out.

The vocabularies are the same, or the student's is part of the teacher's: student token i is teacher token map[i].
Both read the student's cut of the text, and the teacher's distribution is renormalised over the tokens that the student
has, which is what softmax over those logits alone gives. Any other pair of tokenizers is refused.

    KL = mean over positions of Σ_v p_teacher(v) · (log p_teacher(v) − log p_student(v)), in nats
    agreement = share of positions where both put the same token first
"""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sdk.build.evaluate.card import Leg
from sdk.build.evaluate.likelihood import (
    HEAD_ROWS,
    Told,
    batches,
    finite_logits,
    hidden_states,
    start_token,
)
from sdk.errors import EvaluationError
from sdk.tokens import text_tokens

__all__ = ["teacher_leg", "token_map"]


def token_map(student: Any, teacher: Any) -> Tensor:
    """Teacher id of each student token, shape (student vocabulary,).

    Raises:
        EvaluationError: The teacher lacks a token of the student's, or spells tokens in another way.
    """
    mine, theirs = student.get_vocab(), teacher.get_vocab()
    if lacking := sorted(mine.keys() - theirs.keys(), key=mine.__getitem__):
        raise EvaluationError(
            f"the teacher lacks {len(lacking)} of the student's {len(mine)} tokens (such as {lacking[0]!r:.30}); "
            "compare with a teacher whose vocabulary holds the student's"
        )
    if _spelling(student) != _spelling(teacher):
        raise EvaluationError("the two tokenizers spell their tokens in different ways; choose another teacher")
    found = torch.full((max(mine.values()) + 1,), -1, dtype=torch.long)
    for token, row in mine.items():
        found[row] = theirs[token]
    if bool((found < 0).any()):
        raise EvaluationError("the student's token ids have gaps; its tokenizer is damaged")
    return found


def _spelling(tokenizer: Any) -> Any:
    return (json.loads(tokenizer.backend_tokenizer.to_str())["decoder"] or {}).get("type")


@torch.no_grad()
def teacher_leg(
    student: tuple[Any, Any], teacher: tuple[Any, Any], pieces: Sequence[str], told: Told = lambda done, total: None
) -> Leg:
    """Divergence and agreement on each passage.

    Args:
        student: Model and tokenizer.
        teacher: Model and tokenizer.
        pieces: Passages of text.
        told: Told how many are done.

    Raises:
        EvaluationError: Vocabularies that do not fit, or logits that are not numbers.
    """
    kept = token_map(student[1], teacher[1])
    start = start_token(student[1])
    sequences = [[start, *text_tokens(student[1], piece)] for piece in pieces]
    divergence, alike, done = [0.0] * len(pieces), [0.0] * len(pieces), 0
    for rows in batches([len(sequence) for sequence in sequences]):
        group = [sequences[row] for row in rows]
        mine = hidden_states(student[0], group)  # (batch, seq, width)
        theirs = hidden_states(teacher[0], [kept[torch.tensor(sequence)].tolist() for sequence in group])
        places = [(row, at) for row, sequence in enumerate(group) for at in range(len(sequence) - 1)]
        for begin in range(0, len(places), HEAD_ROWS):
            chunk = places[begin : begin + HEAD_ROWS]
            at = [row for row, _ in chunk], [place for _, place in chunk]
            given = torch.log_softmax(finite_logits(student[0], mine[at])[:, : len(kept)], 1)  # (chunk, kept)
            wanted = torch.log_softmax(finite_logits(teacher[0], theirs[at])[:, kept], 1)
            far = (wanted.exp() * (wanted - given)).sum(1).clamp(min=0).tolist()
            same = (wanted.argmax(1) == given.argmax(1)).tolist()
            for (row, _), one, other in zip(chunk, far, same, strict=True):
                divergence[rows[row]] += one
                alike[rows[row]] += other
        done += len(rows)
        told(done, len(pieces))
    positions = tuple(float(len(sequence) - 1) for sequence in sequences)
    return Leg(
        ids=tuple(f"passage-{place}" for place in range(len(pieces))),
        groups=("text",) * len(pieces),
        scores={"kl": (tuple(divergence), positions), "agreement": (tuple(alike), positions)},
        facts={"tokens": int(sum(positions)), "kept_tokens": len(kept), "teacher_tokens": len(teacher[1])},
    )
