"""A machine's speed in, the amount of text that a demo takes out, so that it ends in minutes everywhere.

How much is taken depends on public text and the clock only, never on a private record.
"""

import time
from dataclasses import dataclass

from personalize.forward import encode, prefixes
from personalize.learner import Base

__all__ = ["Pace"]

SAMPLE_TEXTS = 48  # About 1,500 tokens: two seconds on two quiet cores.
QUICK, FAIR = 550.0, 300.0  # Tokens a second through the frozen layers; two quiet cores do about 700.


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How much of the text a demo takes; None takes all."""

    public_people: int | None = None
    """Other people whose public text is learned from, evenly spread over time."""
    public_records: int | None = 24
    """Records of each other person; the pace of a demo, not of a release."""
    train_records: int | None = None
    """Records learned from, evenly spread over time."""
    test_records: int | None = None
    """Later records tested on."""
    probes_per_leg: int | None = None
    """Public probe items of each leg."""

    @classmethod
    def of_machine(cls, base: Base) -> "Pace":
        """The pace for a machine as busy as this one is now."""
        texts = [encode(base.tokenizer, row["prompt"], row["answer"]) for row in base.rehearsal[:SAMPLE_TEXTS]]
        began = time.monotonic()
        tokens = sum(len(prefix.record.ids) for prefix in prefixes(base.model, texts, cut=base.spec.cut))
        return cls.of_speed(tokens / max(time.monotonic() - began, 1e-9))

    @classmethod
    def of_speed(cls, tokens_per_second: float) -> "Pace":
        """The pace for a speed through the frozen layers."""
        if tokens_per_second >= QUICK:
            return cls(public_people=41, public_records=8, train_records=160, test_records=80, probes_per_leg=40)
        if tokens_per_second >= FAIR:
            return cls(public_people=26, public_records=8, train_records=100, test_records=50, probes_per_leg=40)
        # As many people as a fair machine reads: 16 of them left no direction in which two halves of one agreed.
        return cls(public_people=26, public_records=8, train_records=60, test_records=30, probes_per_leg=30)
