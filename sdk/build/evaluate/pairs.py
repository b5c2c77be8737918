"""Two texts of which one is better, many times over, in; the share that the model finds likelier out: BLiMP and PIQA.

BLiMP asks which of two sentences is grammatical: 67 paradigms of 1,000 minimal pairs, of which a seeded choice of each
is taken. PIQA asks which of two ways reaches a goal; `by_length` divides by the bytes of the answer, because the longer
of two answers costs more whatever it says. A tie counts half. Chance is one half in both.

Sources: BLiMP, arXiv:1912.00582 (whole-sentence probability, its section 4); PIQA, arXiv:1911.11641; the prompt and
the division by bytes are those of lm-evaluation-harness.
"""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from sdk.build.evaluate.card import Leg
from sdk.build.evaluate.likelihood import Scored, Told, nats, start_token
from sdk.errors import EvaluationError
from sdk.tokens import text_tokens

__all__ = ["Pair", "pair_leg", "read_blimp", "read_piqa"]

SEED = 7
CHANCE = 0.5


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A good and a bad text."""

    name: str
    group: str
    before: str
    """What both begin with and what costs nothing; may be empty."""
    good: str
    bad: str


def pair_leg(model: Any, tokenizer: Any, pairs: Sequence[Pair], told: Told = lambda done, total: None) -> Leg:
    """Whether the good text is the likelier one of each pair, by its sum of nats and by its nats per byte."""
    start, sequences = start_token(tokenizer), []
    for pair in pairs:
        free = [start, *text_tokens(tokenizer, pair.before)]
        for side in (pair.good, pair.bad):
            ids = (start, *text_tokens(tokenizer, pair.before + side))
            alike = [one == other for one, other in zip(free, ids, strict=False)]
            first = alike.index(False) if False in alike else len(alike)
            sequences.append(Scored(ids=ids, first=min(first, len(ids) - 1)))
    losses = nats(model, sequences, lambda done, total: told(done // 2, total // 2))
    good, bad, ones = losses[0::2], losses[1::2], (1.0,) * len(pairs)
    scores = {"accuracy": (tuple(map(_won, good, bad)), ones)}
    if any(pair.before for pair in pairs):  # Sentences of BLiMP are as long as one another; answers are not.
        shares = [
            (one / _bytes(pair.good), other / _bytes(pair.bad))
            for pair, one, other in zip(pairs, good, bad, strict=True)
        ]
        scores["by_length"] = (tuple(_won(one, other) for one, other in shares), ones)
    return Leg(
        ids=tuple(pair.name for pair in pairs),
        groups=tuple(pair.group for pair in pairs),
        scores=scores,
        facts={"chance": CHANCE},
    )


def read_blimp(file: Path, *, each: int) -> list[Pair]:
    """A seeded choice of `each` pairs of every paradigm in BLiMP.zip.

    Raises:
        EvaluationError: The archive cannot be read or holds something else.
    """
    pairs = []
    try:
        with zipfile.ZipFile(file) as archive:
            names = sorted(name for name in archive.namelist() if name.startswith("data/") and name.endswith(".jsonl"))
            for name in names:
                rows = [json.loads(line) for line in archive.read(name).splitlines() if line.strip()]
                for row in Random(SEED).sample(rows, min(each, len(rows))):
                    paradigm = str(row["UID"])
                    pairs.append(
                        Pair(
                            name=f"{paradigm}-{row['pairID']}",
                            group=paradigm,
                            before="",
                            good=str(row["sentence_good"]),
                            bad=str(row["sentence_bad"]),
                        )
                    )
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError) as cause:
        raise EvaluationError(f"{file} is no readable BLiMP archive ({cause!r:.60}); get it again") from cause
    if not pairs:
        raise EvaluationError(f"{file} holds no pairs; get it again")
    return pairs


def read_piqa(folder: Path, *, most: int | None) -> list[Pair]:
    """The validation split of PIQA, or a seeded choice of it.

    Raises:
        EvaluationError: A file is missing, or the two do not belong together.
    """
    try:
        lines = (folder / "valid.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
        labels = [int(label) for label in (folder / "valid-labels.lst").read_text(encoding="utf-8").split()]
        if len(rows) != len(labels) or not set(labels) <= {0, 1}:
            raise ValueError(f"{len(rows)} questions and {len(labels)} labels")
        pairs = [_question(place, row, label) for place, (row, label) in enumerate(zip(rows, labels, strict=True))]
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise EvaluationError(f"{folder} holds no readable PIQA validation split ({cause!r:.60})") from cause
    if most is None or len(pairs) <= most:
        return pairs
    return [pairs[place] for place in sorted(Random(SEED).sample(range(len(pairs)), most))]


def _question(place: int, row: dict[str, str], label: int) -> Pair:
    answers = f" {row['sol1']}", f" {row['sol2']}"
    return Pair(
        name=f"piqa-{place}",
        group="piqa",
        before=f"Question: {row['goal']}\nAnswer:",
        good=answers[label],
        bad=answers[1 - label],
    )


def _won(good: float, bad: float) -> float:
    return 0.5 if good == bad else float(good < bad)


def _bytes(text: str) -> int:
    return max(1, len(text.encode()))
