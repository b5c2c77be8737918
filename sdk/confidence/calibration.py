"""Answers that were rated in, a router's calibration out: the head, the threshold, and how both did on a third part.

Rules: three parts that share no answer: the head is fitted to the first, the threshold to the second, and the figures
are of the third, so that none flatters itself. The split is seeded. The file names the base that gave the answers: for
another base it means nothing.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from sdk.confidence.conformal import controlled
from sdk.confidence.evidence import FEATURES, Evidence
from sdk.confidence.head import Head
from sdk.errors import RouterError

__all__ = ["FORMAT", "MAX_BYTES", "Calibration", "Rated", "calibrated"]

FORMAT = "router/1"
MAX_BYTES = 1024 * 1024  # Refused before parsing: a router is a few KB.
SHARES = (0.4, 0.35)  # Of the head and of the threshold; the rest tells how they did.
MOST_SAMPLES = 16  # Each costs as much as an answer.
LEAST = 60  # Answers: a risk of 5 % needs 19 for the threshold alone.
SEED = 11


@dataclass(frozen=True, kw_only=True)
class Rated:
    """An answer whose being right is known."""

    evidence: Evidence
    """What the model told about it."""
    right: bool
    """Whether it was right."""
    kind: str = ""
    """What it was one of, such as a task."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a router decides by."""

    base_digest: str
    """The base (and what it wore) that gave the answers, "sha256:…"."""
    risk: float
    """Highest chance that an answer is wrong and kept, in (0, 1)."""
    threshold: float
    """An answer is kept if its confidence is above it."""
    head: Head
    """Evidence to confidence."""
    report: dict[str, Any]
    """How it did on answers that neither the head nor the threshold has seen: plain values."""
    adapter: str | None = None
    """Name of the home's adapter that the base wore; None is the bare base."""
    samples: int = 0
    """Further answers to draw for each, whose agreement the head weighs; 0: it weighs none."""

    def kept_share(self) -> str:
        """How many answers it keeps on the device, in words, with the risk that it holds."""
        report = self.report
        kept, wrong, right, checked = (report[name] for name in ("kept", "wrong_and_kept", "right", "checked"))
        return (
            f"{kept} of {checked} answers are kept on the device, {wrong} of them wrong; {right} of {checked} are "
            f"right; at most {self.risk:.0%} of all answers may be wrong and kept"
        )

    def to_json(self) -> bytes:
        """The file, UTF-8, one final newline."""
        fields = {
            "format": FORMAT,
            "base_digest": self.base_digest,
            "risk": self.risk,
            "loss": "wrong and kept, of all answers",
            "threshold": self.threshold,
            "head": self.head.to_dict(),
            "report": self.report,
        }
        fields |= {name: told for name in ("adapter", "samples") if (told := getattr(self, name))}
        return (json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()

    @classmethod
    def parse(cls, content: bytes) -> "Calibration":
        """Read the file.

        Raises:
            RouterError: Too long, no JSON, another format, or a number out of range.
        """
        if len(content) > MAX_BYTES:
            raise RouterError(f"the router's file has over {MAX_BYTES} bytes; calibrate it again")
        try:
            fields = json.loads(content)
            if fields["format"] != FORMAT:
                raise RouterError(f"the router has format {fields['format']!r:.40}, this version reads {FORMAT!r}")
            made = cls(
                base_digest=str(fields["base_digest"]),
                risk=float(fields["risk"]),
                threshold=float(fields["threshold"]),
                head=Head.from_dict(fields["head"]),
                report=dict(fields["report"]),
                adapter=fields.get("adapter"),
                samples=int(fields.get("samples", 0)),
            )
        except (ValueError, KeyError, TypeError, RecursionError) as cause:
            raise RouterError(f"the router's file is damaged ({type(cause).__name__}); calibrate it again") from cause
        if not (0 < made.risk < 1 and 0 <= made.threshold <= 1 and 0 <= made.samples <= MOST_SAMPLES):
            raise RouterError("the router's risk, threshold or samples are out of range; calibrate it again")
        return made


def calibrated(
    rated: Sequence[Rated], *, base_digest: str, risk: float = 0.05, adapter: str | None = None, samples: int = 0
) -> Calibration:
    """Fit a head and a threshold, and say how they do.

    Args:
        rated: Answers to public requests, at least LEAST, of one model.
        base_digest: Of that model.
        risk: Highest chance that an answer is wrong and kept.
        adapter: Name of what the base wore.
        samples: Further answers that were drawn for each, where all of `rated` tell how far they agreed.

    Raises:
        RouterError: Too few answers.
        ValueError: The risk is not in (0, 1).
    """
    if len(rated) < LEAST:
        raise RouterError(f"{len(rated)} answers cannot calibrate a router; give at least {LEAST} tasks")
    order = Random(SEED).sample(range(len(rated)), len(rated))
    first, second = round(SHARES[0] * len(order)), round(sum(SHARES) * len(order))
    fit, hold, check = (
        [rated[place] for place in part] for part in (order[:first], order[first:second], order[second:])
    )
    features = FEATURES if all(one.evidence.agreement is not None for one in rated) else FEATURES[:-1]
    rows = [one.evidence.row()[: len(features)] for one in fit]
    head = Head.fit(rows, [one.right for one in fit], features=features)
    told = [head.confidence(one.evidence.row()) for one in hold]
    threshold = controlled(told, [not one.right for one in hold], risk=risk)
    return Calibration(
        base_digest=base_digest,
        risk=risk,
        threshold=threshold,
        head=head,
        report={"answers": len(rated)} | _report(head, threshold, check),
        adapter=adapter,
        samples=samples,
    )


def _report(head: Head, threshold: float, check: Sequence[Rated]) -> dict[str, Any]:
    """Counts on the third part; what they mean as shares is the reader's to compute, with an interval."""
    told = [head.confidence(one.evidence.row()) for one in check]
    kept = [confidence > threshold for confidence in told]
    kinds = sorted({one.kind for one in check})
    return {
        "checked": len(check),
        "right": sum(one.right for one in check),
        "kept": sum(kept),
        "wrong_and_kept": sum(keep and not one.right for keep, one in zip(kept, check, strict=True)),
        "auroc": auroc(told, [one.right for one in check]),
        "calibration_error": _calibration_error(told, [one.right for one in check]),
        "kinds": {
            kind: {
                "checked": sum(one.kind == kind for one in check),
                "right": sum(one.right for one in check if one.kind == kind),
                "kept": sum(keep for keep, one in zip(kept, check, strict=True) if one.kind == kind),
            }
            for kind in kinds
        },
    }


def auroc(scores: Sequence[float], positive: Sequence[bool]) -> float | None:
    """Chance that a positive one scores above a negative one, ties half; None where one sort is missing."""
    ranked = sorted(zip(scores, positive, strict=True))
    count, above, start = sum(positive), 0.0, 0
    if not 0 < count < len(ranked):
        return None
    below = 0
    while start < len(ranked):
        end = start
        while end < len(ranked) and ranked[end][0] == ranked[start][0]:
            end += 1
        same = sum(flag for _, flag in ranked[start:end])
        above += same * (below + (end - start - same) / 2)
        below += end - start - same
        start = end
    return above / (count * (len(ranked) - count))


def _calibration_error(told: Sequence[float], right: Sequence[bool], bins: int = 10) -> float:
    """Mean gap between confidence and share of right answers over ten equal parts of [0, 1], weighed by their size."""
    total = 0.0
    for place in range(bins):
        inside = [
            (confidence, float(good))
            for confidence, good in zip(told, right, strict=True)
            if place == min(int(confidence * bins), bins - 1)
        ]
        total += abs(sum(confidence - good for confidence, good in inside))
    return total / max(1, len(told))
