"""Public prompts and a model in, texts that the model wrote itself out, sifted.

Rules:
    1. Prompts are public. What an admitted adapter writes to a public prompt is post-processing and costs no privacy;
       what it would write to a person's own prompt is not, so no private text is ever a prompt here.
    2. Text is only appended to the public anchors, never put in their place: a model fed on its own replacements
       collapses, one fed on its own additions does not (arXiv:2404.01413).
    3. What a private adapter wrote is kept by personalize.written: sealed, and deleted with the adapter that wrote it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from personalize.adapter import Adapter, attached
from personalize.forward import Encoded, collate, completion_losses, encode, prefixes
from personalize.plan import Mix
from personalize.rehearsal import prompts
from personalize.written import BY_BASE, Written, WrittenTexts

__all__ = ["Standards", "sift", "top_up", "write", "write_texts"]

BATCH = 32  # Texts written at once; bounds the cache of keys and values.
SPARE = 2  # Prompts asked for each text wanted: about half of what a small model writes is sifted out.
WORD = re.compile(r"\w+")
CONTROL = re.compile(r"<\|[^|<>]*\|>")  # A marker spelled in ordinary tokens; real ones end a text.


@dataclass(frozen=True, kw_only=True)
class Standards:
    """What a text must be like to be learned from. Public, and the same for every writer."""

    least_tokens: int = 6
    """Shortest answer in tokens, ≥ 1."""
    most_repeated: float = 0.3
    """Largest share of three-word runs that repeat an earlier one, in [0, 1]."""
    echoed_words: int = 8
    """A run of so many words that also stands in the prompt is an echo, ≥ 1."""
    nats: tuple[float, float] = (0.3, 5.0)
    """Least and largest loss per token under the bare base, in nats: below is a refrain, above is noise."""

    def __post_init__(self) -> None:
        low, high = self.nats
        if self.least_tokens < 1 or self.echoed_words < 1:
            raise ValueError(f"lengths must be at least 1, got {self.least_tokens} and {self.echoed_words}")
        if not 0 <= self.most_repeated <= 1 or not 0 <= low < high:
            raise ValueError(f"out of range: most_repeated {self.most_repeated}, nats {self.nats}")

    def fault(self, text: Written, record: Encoded, nats: float) -> str | None:
        """Why a text is not good enough, in one word; None where it is.

        Args:
            text: What was written.
            record: The same as tokens.
            nats: Its loss per token under the bare base.
        """
        words = WORD.findall(text.answer.lower())
        if CONTROL.search(text.answer) or "\ufffd" in text.answer:
            return "control"
        if len(record.ids) - record.completion < self.least_tokens or not words:
            return "short"
        if _repeated(words) > self.most_repeated:
            return "repetition"
        if _runs(words, self.echoed_words) & _runs(WORD.findall(text.prompt.lower()), self.echoed_words):
            return "echo"
        return None if self.nats[0] <= nats <= self.nats[1] else "perplexity"


@dataclass(kw_only=True)
class _Turn:
    """One text while it is written."""

    prompt: str
    tokens: list[int] = field(default_factory=list)
    ended: bool = False


@torch.no_grad()
def write(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    seed: int,
    max_tokens: int = 40,
    temperature: float = 1.0,
    whole: bool = True,
) -> Iterator[tuple[int, str]]:
    """Sample one answer to each prompt from a model, with whatever adapter is attached to it.

    Args:
        model: A causal language model of the Llama family.
        tokenizer: Of the base.
        prompts: Public prompts; "" asks for plain text.
        seed: Another seed, other texts; the same one, the same on the same machine.
        max_tokens: Tokens at most; an answer that has not ended by then ends at its last whole sentence, if there is
            one.
        temperature: > 0; 1 samples from the model as it is.
        whole: False leaves an answer that was cut as it is.

    Yields:
        Index of the prompt and its answer, in the order in which they come to an end.
    """
    if temperature <= 0 or max_tokens < 1:
        raise ValueError(f"temperature and max_tokens must be positive, got {temperature} and {max_tokens}")
    generator = torch.Generator().manual_seed(seed)
    by_length: dict[int, list[tuple[int, list[int]]]] = {}
    for index, prompt in enumerate(prompts):  # Equal lengths meet, so nothing is padded.
        begun = encode(tokenizer, prompt, "")
        before = list(begun.ids[: begun.completion])
        by_length.setdefault(len(before), []).append((index, before))
    for rows in by_length.values():
        for start in range(0, len(rows), BATCH):
            group = rows[start : start + BATCH]
            turns = [_Turn(prompt=prompts[index]) for index, _ in group]
            ids = torch.tensor([before for _, before in group])  # (batch, seq)
            _continue(model, ids, turns, set(tokenizer.all_special_ids), generator, max_tokens, temperature)
            for (index, _), turn in zip(group, turns, strict=True):
                yield index, _finished(tokenizer.decode(turn.tokens), turn.ended or not whole)


def _continue(
    model: Any,
    ids: Tensor,
    turns: Sequence[_Turn],
    controls: set[int],
    generator: torch.Generator,
    max_tokens: int,
    temperature: float,
) -> None:
    cache = None  # Keys and values of what was read already; the model makes it.
    for _ in range(max_tokens):
        made = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache, logits = made.past_key_values, made.logits[:, -1]  # (batch, vocab)
        ids = torch.multinomial(torch.softmax(logits.float() / temperature, -1), 1, generator=generator)  # (batch, 1)
        for turn, token in zip(turns, ids[:, 0].tolist(), strict=True):
            turn.ended = turn.ended or token in controls
            if not turn.ended:
                turn.tokens.append(token)
        if all(turn.ended for turn in turns):
            return


def _finished(text: str, ended: bool) -> str:
    """The text without what hangs over: an answer that was cut ends at its last whole sentence."""
    whole = text.strip()
    if ended:
        return whole
    ends = [match.end() for match in re.finditer(r"[.!?][\"')]?(?=\s)", whole)]
    return whole[: ends[-1]] if ends else ""


def sift(
    model: Any,
    tokenizer: Any,
    texts: Sequence[Written],
    *,
    cut: int,
    standards: Standards | None = None,
    known: Sequence[Written] = (),
) -> tuple[list[Written], dict[str, int]]:
    """Keep what is good enough to learn from, each answer once.

    Args:
        model: The bare base: perplexity is measured with no adapter attached.
        tokenizer: Of the base.
        texts: What was written.
        cut: Number of frozen layers.
        standards: What is asked of a text; None takes the defaults.
        known: Texts that are there already; their answers are not taken again.

    Returns:
        The texts kept, in their order, and how many fell for which fault.
    """
    standards = standards or Standards()
    records = [encode(tokenizer, text.prompt, text.answer) for text in texts]
    seen, kept, faults = {_folded(text.answer) for text in known}, [], dict[str, int]()
    for text, record, nats in zip(texts, records, _nats(model, records, cut), strict=True):
        fault = standards.fault(text, record, nats)
        if fault is None and _folded(text.answer) in seen:
            fault = "known"
        if fault is None:
            seen.add(_folded(text.answer))
            kept.append(text)
        else:
            faults[fault] = faults.get(fault, 0) + 1
    return kept, faults


def write_texts(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    adapter: tuple[str, Adapter] | None,
    cut: int,
    seed: int,
    known: Sequence[Written] = (),
    standards: Standards | None = None,
) -> list[Written]:
    """Let the base, or an admitted adapter on it, answer public prompts, and keep what is good enough.

    Args:
        model: The bare base.
        tokenizer: Of the base.
        prompts: Public prompts; never a person's.
        adapter: Name and adapter of an admitted night; None lets the bare base write.
        cut: Number of frozen layers.
        seed: Another seed, other texts.
        known: Texts that are there already; their answers are not taken again.
        standards: What is asked of a text; None takes the defaults.
    """
    writer = adapter[0] if adapter else BY_BASE
    with attached(model, adapter[1]) if adapter else nullcontext():
        answers = dict(write(model, tokenizer, prompts, seed=seed))
    texts = [Written(prompt=prompt, answer=answers[index], writer=writer) for index, prompt in enumerate(prompts)]
    return sift(model, tokenizer, texts, cut=cut, standards=standards, known=known)[0]


def top_up(
    kept: WrittenTexts,
    mix: Mix,
    rows: Sequence[Mapping[str, Any]],
    model: Any,
    tokenizer: Any,
    *,
    count: int,
    adapter: tuple[str, Adapter] | None,
    cut: int,
    seed: int,
) -> None:
    """Write what a night's mix asks for and the home does not hold yet; nothing where it holds enough.

    Args:
        kept: The home's texts; what is written is added.
        mix: Public shares.
        rows: Objects of `rehearsal.jsonl`: their prompts are answered.
        model: The bare base.
        tokenizer: Of the base.
        count: Texts that the night will rehearse.
        adapter: Name and adapter that is in use before the night; None leaves its share to the anchors.
        cut: Number of frozen layers.
        seed: Another seed, other prompts and texts.
    """
    by_base, by_adapter = mix.counts(count)
    shares: list[tuple[int, tuple[str, Adapter] | None]] = [(by_base, None)]
    if adapter:
        shares.append((by_adapter, adapter))
    for wanted, writer in shares:
        known = kept.all()
        lacking = wanted - sum(text.writer == (writer[0] if writer else BY_BASE) for text in known)
        asked = prompts(rows, count=SPARE * max(0, lacking), seed=seed)
        if asked:
            texts = write_texts(model, tokenizer, asked, adapter=writer, cut=cut, seed=seed, known=known)
            kept.add(texts[:lacking])


@torch.no_grad()
def _nats(model: Any, records: Sequence[Encoded], cut: int) -> list[float]:
    """Loss per completion token of each record, in nats."""
    found: list[float] = []
    rows = list(prefixes(model, records, cut=cut))
    for start in range(0, len(rows), BATCH):
        group = rows[start : start + BATCH]
        sums = completion_losses(model, collate(group), cut=cut)  # (batch,)
        found += [
            float(total) / max(1, len(row.record.ids) - row.record.completion)
            for total, row in zip(sums, group, strict=True)
        ]
    return found


def _repeated(words: Sequence[str]) -> float:
    """Share of three-word runs that repeat an earlier one."""
    runs = [tuple(words[at : at + 3]) for at in range(len(words) - 2)]
    return 1.0 - len(set(runs)) / len(runs) if runs else 0.0


def _runs(words: Sequence[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(words[at : at + size]) for at in range(len(words) - size + 1)}


def _folded(text: str) -> str:
    return " ".join(WORD.findall(text.lower()))
