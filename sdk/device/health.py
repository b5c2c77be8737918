"""An old and a new base in, how the new one does beside the old one on public text out; in a process of its own.

    (1) it loads and its manifest's digests hold;
    (2) every logit that it computes is finite;
    (3) its mean loss on public probes, in nats per character, over that of the old base;
    (4) how often both find the same next token likeliest, along what the old base answers to fixed prompts;
    (5) the person's adapters, carried over on public text and asked through the gate.

What is measured here is judged in sdk/device/trial.py, which also starts and limits this process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from personalize.adapter import Adapter
from personalize.exchange import carried_over
from personalize.forward import encode
from personalize.home import Home
from personalize.shelf import LABEL_FORMAT, Shelf, lines_of
from sdk.bundle import Bundle
from sdk.device.night import base_of
from sdk.device.runtime import Runtime
from sdk.device.trial import Progress, carried_out
from sdk.errors import UnhealthyError

__all__ = ["FIXED_PROMPTS", "Findings", "carry_adapters", "examine"]

FIXED_PROMPTS = (
    "Write a subject line for a note about a late train.",
    "Name three colours.",
    "What is the capital of France?",
    "Say thank you to a colleague.",
    "Continue: one, two, three,",
    "Shorten: The meeting that was planned for Monday was moved to Tuesday.",
)
"""Public, and the same on every device."""
ANSWER_TOKENS = 12  # Of each fixed prompt: 72 places in all.
PROBE_ITEMS = 32  # Some seconds for a base of 135 million numbers on one core.
PER_10K, PPM = 10_000, 1_000_000


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was measured; ratios as signed metadata state them, in integers."""

    loss_ratio_ppm: int | None
    """Mean loss of the new base over that of the old one, in millionths; None without an old one or without probes."""
    agreement_per10k: int | None
    """Places where both find the same token likeliest, in ten-thousandths; None where they cut text differently."""
    items: int
    """Probe items read."""
    places: int
    """Places compared."""


def examine(old: Bundle | None, new: Bundle, progress: Progress = lambda what, done, total: None) -> Findings:
    """Measure a new base beside the old one, (1) to (4); without an old one only (1) and (2) can be asked.

    Raises:
        UnhealthyError: It does not load, or computes something that is no finite number.
    """
    rows = (_probe_rows(old) if old else []) or _probe_rows(new)
    before, was = _measured(old, rows, None, progress) if old else (None, 0.0)
    after, now = _measured(new, rows, before, progress)
    pairs = zip(before.answers, after.likeliest, strict=True) if before and after.likeliest else ()
    same = [one == other for mine, theirs in pairs for one, other in zip(mine, theirs, strict=True)]
    return Findings(
        loss_ratio_ppm=round(PPM * now / was) if was > 0 else None,
        agreement_per10k=PER_10K * sum(same) // len(same) if same else None,
        items=len(rows),
        places=len(same),
    )


@dataclass
class _Measured:
    vocabulary: str
    answers: list[list[int]]
    likeliest: list[list[int]] | None = None


def _measured(
    bundle: Bundle, rows: Sequence[dict[str, Any]], other: _Measured | None, progress: Progress
) -> tuple[_Measured, float]:
    """Answers of the first base, or what the second finds likeliest along them; and the mean nats per character."""
    runtime = Runtime.open(Bundle.open(bundle.folder, verify="digests"))
    vocabulary = runtime.tokenizer.backend_tokenizer.to_str()
    made = _Measured(vocabulary=vocabulary, answers=[])
    what = "measure the new base" if other else "measure the old base"
    if other is None:
        made.answers = [_greedy(runtime, prompt) for prompt in FIXED_PROMPTS]
    else:
        for prompt in FIXED_PROMPTS:  # Also where the vocabularies differ: its logits must be finite.
            _greedy(runtime, prompt)
        if other.vocabulary == vocabulary:
            made.likeliest = [_along(runtime, *pair) for pair in zip(FIXED_PROMPTS, other.answers, strict=True)]
    nats = characters = 0.0
    for done, row in enumerate(rows):
        record = encode(runtime.tokenizer, str(row["prompt"]), str(row["answer"]))
        logits = _logits(runtime, record.ids)[record.completion - 1 : -1]  # (completion, vocab)
        wanted = torch.tensor(record.ids[record.completion :])
        nats += float(torch.nn.functional.cross_entropy(logits.double(), wanted, reduction="sum"))
        characters += max(1, record.characters)
        progress(what, done + 1, len(rows))
    return made, nats / characters if characters else 0.0


def _probe_rows(bundle: Bundle) -> list[dict[str, Any]]:
    rows = (
        [row for row in bundle.probes() if row.get("kind") == "loss"] if "probes.jsonl" in bundle.manifest.files else []
    )
    step = max(1, len(rows) // PROBE_ITEMS)
    return rows[::step][:PROBE_ITEMS]


@torch.no_grad()
def _logits(runtime: Runtime, ids: Sequence[int]) -> torch.Tensor:
    """Logits at every place, (seq, vocab)."""
    logits: torch.Tensor = runtime.model(input_ids=torch.tensor([list(ids)])).logits[0]
    if not bool(logits.isfinite().all()):
        raise UnhealthyError("the new base computes numbers that are not finite")
    return logits


def _greedy(runtime: Runtime, prompt: str) -> list[int]:
    ids, answer = list(runtime.encode(prompt)), list[int]()
    for _ in range(ANSWER_TOKENS):
        answer.append(int(_logits(runtime, ids)[-1].argmax()))
        ids.append(answer[-1])
    return answer


def _along(runtime: Runtime, prompt: str, answer: Sequence[int]) -> list[int]:
    """What is likeliest at each place of an answer."""
    ids = list(runtime.encode(prompt))
    found: list[int] = _logits(runtime, [*ids, *answer])[len(ids) - 1 : -1].argmax(1).tolist()
    return found


def carry_adapters(
    home: Home, old: Bundle, new: Bundle, slot: Path, progress: Progress = lambda what, done, total: None
) -> dict[str, Any]:
    """Carry the adapter that answers on each line over to a new base, (5); copies go to `slot`/adapters.

    Returns:
        `before` and `lines`: the home's lines now and on the new base; `adapters`: what became of each. A line whose
        adapter does not carry over ends in None, the bare base: the update is not refused for it.

    Raises:
        HomeBusyError: A night is running.
        PersonalizeError, PrivacyError: The gate could not be asked.
    """
    with home.lock():
        before = {name: list(line) for name, line in lines_of(home).items()}
        after, became = dict(before), dict[str, Any]()
        learned = [name for name, line in before.items() if line and line[-1]]
        sides = base_of(old), base_of(new)
        for name in learned:
            shelf = Shelf(home, name)
            made = carried_over(home, *sides, shelf, progress=progress)
            became[name] = {**made.facts, "admitted": made.admitted is not None}
            after[name] = [*before[name], made.name if made.admitted else None]
            if made.admitted:
                label = {"format": LABEL_FORMAT, "adapter": made.name, **made.label}
                _saved(made.admitted.adapter, slot / "adapters" / made.name, label)
    return {"before": before, "lines": after, "adapters": became}


def _saved(adapter: Adapter, folder: Path, label: dict[str, Any]) -> None:
    folder.parent.mkdir(exist_ok=True)
    adapter.save(folder, extra={"label.json": label})


def main() -> None:
    """Carry out one order; see sdk.device.trial."""
    torch.set_num_threads(1)
    carried_out(_found)


def _found(order: dict[str, Any], tell: Progress) -> dict[str, Any]:
    old = Bundle.open(Path(order["old"])) if order["old"] else None
    new = Bundle.open(Path(order["new"]))
    if order["task"] == "adapters" and old:
        return carry_adapters(Home.open(Path(order["home"])), old, new, Path(order["slot"]), tell)
    return dict(vars(examine(old, new, tell)))


if __name__ == "__main__":
    main()
