"""Recorded outputs, or an endpoint that scores tokens, in; a teacher of log-probabilities without weights out.

Both are checked as they come in: a list that is not sorted, not finite, or sums to over 1 is refused, never mended.

The file is one safetensors, format `teacher_outputs/1`. Sequences stand one after the other:

    ids          (tokens,)     int32    what the teacher read, in its own vocabulary
    lengths      (sequences,)  int32    tokens of each sequence
    top_ids      (tokens, k)   int32    the likeliest next tokens after each of ids
    top_log_probs (tokens, k)  float16 or float32, natural logarithms, never rising along k
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sdk.build.losses.outcomes import TopK
from sdk.build.teachers.answer_cache import request_digest
from sdk.build.teachers.black_box import BlackBox
from sdk.build.teachers.price import Estimate
from sdk.build.teachers.protocol import Answer, Depth, Prompt, Sampling, Teacher, TeacherFacts
from sdk.build.teachers.top_k import checked, cut
from sdk.errors import EndpointError, PromptRefusedError, TeacherError

__all__ = ["Recorded", "ScoringEndpoint", "record"]

FORMAT = "teacher_outputs/1"
CHECKED_TOGETHER = 16_384  # Tokens: bounds the memory of a check, about 50 MB at k = 64.
TENSORS = ("ids", "lengths", "top_ids", "top_log_probs")


def record(teacher: Teacher, sequences: Iterable[Tensor], file: Path, *, top_k: int, vocabulary: int) -> int:
    """Write what a teacher says about sequences, so that it need not be there when the student learns.

    Args:
        teacher: Of log-probabilities or weights.
        sequences: Token ids, each (seq,), in the teacher's vocabulary.
        file: Where; written whole or not at all.
        top_k: Tokens kept for each position.
        vocabulary: Of the teacher.

    Returns:
        Tokens written.

    Raises:
        TeacherError: The teacher cannot say it, or the file cannot be written.
    """
    rows = [ids.long() for ids in sequences]
    told = [teacher.log_probabilities(ids[None], top_k) for ids in rows]
    tensors = {
        "ids": torch.cat(rows).int(),
        "lengths": torch.tensor([len(ids) for ids in rows], dtype=torch.int32),
        "top_ids": torch.cat([one.ids[0] for one in told]).int(),
        "top_log_probs": torch.cat([one.log_probs[0] for one in told]).float(),
    }
    facts = teacher.facts
    about = {"format": FORMAT, "name": facts.name, "licence": facts.licence, "vocabulary": str(vocabulary)}
    partial = file.with_name(f".{file.name}.partial")
    try:
        save_file(tensors, partial, metadata=about)
        partial.replace(file)
    except (OSError, SafetensorError) as cause:
        partial.unlink(missing_ok=True)
        raise TeacherError(f"{file} cannot be written ({cause}); free some room or name another place") from cause
    return len(tensors["ids"])


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A teacher who said all that it says beforehand."""

    facts: TeacherFacts
    """Who taught."""
    top_k: int
    """Tokens that were kept for each position."""
    _outputs: TopK
    _places: Mapping[bytes, int]

    @classmethod
    def open(cls, file: Path, *, licence: str | None = None) -> Self:
        """Read and check a whole file.

        Raises:
            TeacherError: Damaged, of another format, or with numbers that are no log-probabilities.
        """
        about, tensors = _read(file)
        ids, lengths, top_ids, top_logs = (tensors[name] for name in TENSORS)
        if ids.dim() != 1 or lengths.dim() != 1 or int(lengths.sum()) != len(ids) or (lengths < 1).any():
            raise TeacherError(
                f"{file}: lengths of {int(lengths.sum())} tokens do not cut {len(ids)} ids; record it again"
            )
        if top_ids.dim() != 2 or top_ids.shape != top_logs.shape or len(top_ids) != len(ids):
            raise TeacherError(f"{file}: top_ids and top_log_probs must both be ({len(ids)}, k); record it again")
        try:
            vocabulary = int(about["vocabulary"])
        except (KeyError, ValueError) as cause:
            raise TeacherError(f"{file} does not say how large the vocabulary is; record it again") from cause
        parts = [
            checked(some[None], logs[None], vocabulary=vocabulary)
            for some, logs in zip(top_ids.split(CHECKED_TOGETHER), top_logs.split(CHECKED_TOGETHER), strict=True)
        ]
        outputs = TopK(
            ids=torch.cat([part.ids[0] for part in parts]),
            log_probs=torch.cat([part.log_probs[0] for part in parts]),
            rest=torch.cat([part.rest[0] for part in parts]),
        )
        ends = lengths.cumsum(0).tolist()
        places = {_key(row): end - len(row) for row, end in zip(ids.split(lengths.tolist()), ends, strict=True)}
        name = about.get("name", file.name)
        stated = licence or about.get("licence", "unknown")
        facts = TeacherFacts(name=name, depth=Depth.PROBABILITIES, licence=stated, origin=file.name)
        return cls(facts=facts, top_k=top_ids.shape[1], _outputs=outputs, _places=places)

    @property
    def spent(self) -> float | None:
        """Nothing: it is all here."""
        return 0.0

    def estimate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Estimate:
        """Refused like the answers themselves.

        Raises:
            TeacherError: Always.
        """
        raise TeacherError(f"{self.facts.origin} holds outputs of {self.facts.name}, which cannot answer new prompts")

    def text(self, prompts: Sequence[Prompt], sampling: Sampling = Sampling()) -> list[Answer]:  # noqa: B008  # Frozen.
        """Refused: nobody is there who could write.

        Raises:
            TeacherError: Always.
        """
        raise TeacherError(f"{self.facts.origin} holds outputs of {self.facts.name}, which cannot answer new prompts")

    def log_probabilities(self, ids: Tensor, top_k: int) -> TopK:
        """What was recorded after each of `ids`, (batch, seq); each row a whole recorded sequence.

        Raises:
            TeacherError: A row that was not recorded, or a larger `top_k` than was kept.
        """
        starts = []
        for number, row in enumerate(ids):
            if (start := self._places.get(_key(row))) is None:
                raise TeacherError(
                    f"row {number} of {tuple(ids.shape)} ids is not among the {len(self._places)} sequences in "
                    f"{self.facts.origin}; record it with the text and the cuts of this run"
                )
            starts.append(start)
        picked = torch.tensor(starts)[:, None] + torch.arange(ids.shape[1])  # (batch, seq)
        outputs = self._outputs
        return cut(TopK(ids=outputs.ids[picked], log_probs=outputs.log_probs[picked], rest=outputs.rest[picked]), top_k)


def _read(file: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(file, framework="pt") as content:
            about = content.metadata() or {}
            if about.get("format") != FORMAT:
                raise TeacherError(f"{file} is not of format {FORMAT}; record a teacher's outputs, or name its folder")
            return about, {name: content.get_tensor(name) for name in TENSORS}
    except (OSError, SafetensorError) as cause:
        raise TeacherError(f"{file} cannot be read as {FORMAT} ({cause}); record it again") from cause


def _key(row: Tensor) -> bytes:
    key: bytes = row.int().numpy().tobytes()
    return key


@dataclass(frozen=True, kw_only=True)
class ScoringEndpoint(BlackBox):
    """An endpoint that also scores tokens: `completions` with token ids, `echo` and `logprobs`, as vLLM serves them.

    Tokens are asked for by number (`return_tokens_as_token_ids`): names of tokens are not unique, numbers are. An
    endpoint that answers with names is refused.
    """

    vocabulary: int
    """Of the served model; its tokenizer is the one that `ids` are in."""

    @property
    def facts(self) -> TeacherFacts:
        """Who teaches."""
        return TeacherFacts(name=self.model, depth=Depth.PROBABILITIES, licence=self.licence, origin=self.endpoint.url)

    def log_probabilities(self, ids: Tensor, top_k: int) -> TopK:
        """The `top_k` likeliest next tokens after each of `ids`, (batch, seq), and the mass of all others.

        Raises:
            EndpointError: It does not score, answers with names, or gives fewer than `top_k`.
            TeacherError: What it gives are no log-probabilities.
        """
        rows = [self._row([int(token) for token in row], top_k) for row in ids]
        return checked(
            torch.tensor([[list(place) for place in row] for row in rows]),
            torch.tensor([[list(place.values()) for place in row] for row in rows]),
            vocabulary=self.vocabulary,
        )

    def _row(self, ids: list[int], top_k: int) -> list[dict[int, float]]:
        """A dict for each token, likeliest first: what comes after it."""
        body = {
            "model": self.model,
            "prompt": ids,
            "max_tokens": 1,  # What comes after the last token stands where the first new one is.
            "echo": True,
            "logprobs": top_k,
            "temperature": 0,
            "return_tokens_as_token_ids": True,
        }
        digest = request_digest(self.endpoint.url, body)
        found = self.cache.get(digest)
        if found is None:
            found = {"top": self._scored(body, len(ids))}
            self.cache.put(digest, found)
        try:
            places = [_numbered(place) for place in found["top"]]
        except (AttributeError, TypeError, ValueError) as cause:
            raise EndpointError(
                f"{self.endpoint.url} names tokens instead of numbering them; serve with vLLM, or record outputs"
            ) from cause
        if short := [len(place) for place in places if len(place) < top_k]:
            raise EndpointError(
                f"{self.endpoint.url} gives {min(short)} log-probabilities a token, {top_k} were asked for"
            )
        return [dict(sorted(place.items(), key=lambda pair: -pair[1])[:top_k]) for place in places]

    def _scored(self, body: Mapping[str, Any], tokens: int) -> list[Any]:
        self.meter.open(tokens, 1)
        used = (0, 0)
        try:
            answer = self.endpoint.post("completions", body)
            used = (tokens, 1)
        except PromptRefusedError as refused:
            raise EndpointError(f"{self.endpoint.url} does not score tokens: {refused}") from refused
        finally:
            self.meter.close((tokens, 1), used)
        match answer:
            case {"choices": [{"logprobs": {"top_logprobs": [_, *top]}}, *_]} if len(top) == tokens:
                return top
        raise EndpointError(
            f"{self.endpoint.url} does not give log-probabilities of {tokens} tokens with echo; "
            "take text only, or record outputs"
        )


def _numbered(place: Mapping[str, float]) -> dict[int, float]:
    """`token_id:17` names to numbers."""
    found = {}
    for name, log_prob in place.items():
        head, _, number = name.rpartition(":")
        if head != "token_id":
            raise ValueError(name)
        found[int(number)] = min(0.0, float(log_prob))  # Rounding in a server may leave 1e-7.
    return found
