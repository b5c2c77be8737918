"""Two vocabularies in; what a teacher says about its own tokens, said about the student's tokens, out.

Exact where the student's tokenizer is the teacher's or was trimmed from it: same pre-tokenizer, and merges that are the
teacher's with some left out. Then every text of the student is a text of the teacher, token for token, and

    renormalised   p(s) over the kept tokens, divided by their sum: "given that a kept token comes next"
    folded         what a removed token had goes to the kept token that its spelling begins with: nothing is lost, and a
                   rare word is still expected, by its first piece

Not exact where the tokenizers differ. Folding still works there, by bytes: a teacher's token goes to the longest
student token that it begins with. It holds at places where both have a boundary (alignment finds them), and only there.

Source, for folding by bytes: "Cross-Tokenizer On-Policy Distillation via Byte-Prefix Marginalization",
arXiv:2607.22334.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sdk.build.teachers.token_bytes import bytes_of, described
from sdk.errors import VocabularyError

__all__ = ["Folding", "TokenMap", "exact_map", "folding_by_bytes"]


@dataclass(frozen=True, kw_only=True)
class Folding:
    """Where each teacher token's probability goes."""

    pieces: Tensor
    """Student id that each teacher token begins with, (teacher vocabulary,), int64; −1: nowhere, it is no text."""
    student_vocabulary: int
    """Number of student tokens."""

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Log-probabilities of student tokens, (..., student vocabulary), from teacher logits (..., teacher rows).

        Tokens that stand for no text lose their share, and so do rows beyond the tokenizer; the rest sums to 1.
        """
        known = logits[..., : len(self.pieces)].float()
        told = self.pieces >= 0
        shares = known[..., told].softmax(-1)  # (..., told)
        summed = shares.new_zeros(*shares.shape[:-1], self.student_vocabulary)
        return summed.index_add_(-1, self.pieces[told], shares).log()  # log 0 is −inf: no teacher token begins so.


@dataclass(frozen=True, kw_only=True)
class TokenMap:
    """A student's vocabulary inside a teacher's."""

    teacher_ids: Tensor
    """Teacher id of each student id, (student vocabulary,), int64."""
    folding: Folding
    """Where removed tokens go."""

    def to_teacher(self, ids: Tensor) -> Tensor:
        """The same text in the teacher's ids; any shape."""
        return self.teacher_ids[ids]

    def renormalised(self, logits: Tensor) -> Tensor:
        """Log-probabilities of student tokens, (..., student vocabulary), given that a kept token comes next."""
        return logits[..., self.teacher_ids].float().log_softmax(-1)

    def folded(self, logits: Tensor) -> Tensor:
        """Log-probabilities of student tokens, (..., student vocabulary), removed ones counted by their first piece."""
        return self.folding.log_probabilities(logits)


def exact_map(student: PreTrainedTokenizerFast, teacher: PreTrainedTokenizerFast) -> TokenMap:
    """Prove that the student's tokenizer is the teacher's or was trimmed from it, and map it.

    (1) Both are BPE and cut text into words in the same way: normaliser, pre-tokenizer, decoder and options agree.
    (2) Every student token is a teacher token of the same name, control tokens among control tokens.
    (3) The student's merges are the teacher's, in the same order, with some left out.

    Raises:
        VocabularyError: Which of the three does not hold, and the first place where.
    """
    small, large = described(student), described(teacher)
    _same_cut(small, large)
    known, wanted = teacher.get_vocab(), student.get_vocab()
    if missing := [token for token in wanted if token not in known]:
        raise VocabularyError(
            f"{len(missing)} of the student's {len(wanted)} tokens are not the teacher's (first: {min(missing)!r}); "
            "teach by text, or by places that both share (alignment)"
        )
    controls = [{token["content"] for token in one["added_tokens"] if token["special"]} for one in (small, large)]
    if strays := sorted(token for token in controls[0] ^ controls[1] if token in wanted):
        raise VocabularyError(f"{strays[0]!r} is control for one of teacher and student and text for the other")
    _same_merges(small["model"]["merges"], large["model"]["merges"])
    teacher_ids = torch.empty(len(wanted), dtype=torch.long)
    for token, row in wanted.items():
        teacher_ids[row] = known[token]
    pieces = _first_pieces(student, known, wanted, controls[1])
    return TokenMap(teacher_ids=teacher_ids, folding=Folding(pieces=pieces, student_vocabulary=len(wanted)))


def _same_cut(small: dict[str, object], large: dict[str, object]) -> None:
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        if small[part] != large[part]:
            raise VocabularyError(
                f"teacher and student differ in their {part.replace('_', '-')}; teach by text, or by places that both "
                "share (alignment)"
            )
    options = [_options(one["model"]) for one in (small, large)]
    if options[0] != options[1] or options[0].get("type") != "BPE":
        raise VocabularyError("teacher and student are not two BPE vocabularies of one kind; teach by text")


def _options(model: object) -> dict[str, object]:
    assert isinstance(model, dict)
    return {name: value for name, value in model.items() if name not in ("vocab", "merges")}


def _same_merges(small: list[list[str]], large: list[list[str]]) -> None:
    """Refuse merges that are no subsequence."""
    left = iter(map(tuple, large))
    for pair in map(tuple, small):
        if pair not in left:  # Advances: a subsequence is found in one pass.
            raise VocabularyError(
                f"the student merges {' + '.join(pair)} where the teacher does not, or in another order; teach by text"
            )


def _first_pieces(
    student: PreTrainedTokenizerFast, known: dict[str, int], wanted: dict[str, int], controls: set[str]
) -> Tensor:
    pieces = torch.full((max(known.values()) + 1,), -1, dtype=torch.long)
    for token, row in known.items():
        if token in wanted:
            pieces[row] = wanted[token]
        elif token not in controls:
            parts = student.backend_tokenizer.model.tokenize(token)
            pieces[row] = parts[0].id if parts else -1
    return pieces


def folding_by_bytes(student: PreTrainedTokenizerFast, teacher: PreTrainedTokenizerFast) -> Folding:
    """Where a foreign teacher's tokens go: to the longest student token that their bytes begin with.

    Raises:
        VocabularyError: A tokenizer whose tokens are not understood.
    """
    spellings: dict[bytes, int] = {}
    for row, spelling in sorted(bytes_of(student).items()):
        spellings.setdefault(spelling, row)
    longest = max(map(len, spellings))
    meanings = bytes_of(teacher)
    pieces = torch.full((max(teacher.get_vocab().values()) + 1,), -1, dtype=torch.long)
    for row, meaning in meanings.items():
        cuts = range(min(len(meaning), longest), 0, -1)
        pieces[row] = next((spellings[meaning[:cut]] for cut in cuts if meaning[:cut] in spellings), -1)
    return Folding(pieces=pieces, student_vocabulary=max(student.get_vocab().values()) + 1)
