"""The name of a figure in; what it is called, its unit, and which way is better, out."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

__all__ = ["FIGURES", "LEGS", "QUALITY", "Figure"]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """How a figure is shown and read."""

    title: str
    unit: str = ""
    """Unit behind the number; "%" shows a share of 1 in per cent."""
    better: Literal["higher", "lower"] = "higher"
    digits: int = 1
    meaning: str = ""


LEGS: Mapping[str, str] = MappingProxyType(
    {
        "text": "Held-out text",
        "teacher": "Closeness to the teacher",
        "tasks": "Device tasks",
        "snips": "Assistant requests (SNIPS)",
        "blimp": "Grammar (BLiMP)",
        "piqa": "Common sense (PIQA)",
        "ifeval": "Instructions (IFEval)",
        "cost": "Size, speed and memory",
        "energy": "Energy",
    }
)
"""Legs in the order in which they run, with their names for people."""

FIGURES: Mapping[str, Figure] = MappingProxyType(
    {
        "text.bits_per_byte": Figure(
            title="Bits per byte", unit="bits", better="lower", digits=3, meaning="surprise at text it never saw"
        ),
        "teacher.kl": Figure(
            title="Divergence", unit="nats", better="lower", digits=3, meaning="KL of the student from the teacher"
        ),
        "teacher.agreement": Figure(title="Same first token", unit="%", meaning="as the teacher"),
        "tasks.quality": Figure(title="Tasks done", unit="%", meaning="mean over tasks of each task's own figure"),
        "tasks.named": Figure(title="Action right", unit="%", meaning="structured tasks"),
        "tasks.exact": Figure(title="Exact answer", unit="%", meaning="structured tasks, letter by letter"),
        "tasks.slot_f1": Figure(title="Slot F1", unit="%", meaning="structured tasks, name and value exact"),
        "tasks.copied": Figure(
            title="Values copied", unit="%", meaning="share of open values that stand in the request"
        ),
        "tasks.rouge_l": Figure(title="ROUGE-L", unit="%", meaning="tasks whose answer is text, but proofreading"),
        "tasks.edit_f": Figure(title="Edit F0.5", unit="%", meaning="proofreading; a wrong correction weighs double"),
        "tasks.valid": Figure(title="Valid JSON", unit="%", meaning="of the task's schema"),
        "snips.named": Figure(title="Intent right", unit="%", meaning="of 7"),
        "snips.slot_f1": Figure(title="Slot F1", unit="%", meaning="name and value exact"),
        "snips.exact": Figure(title="All right", unit="%", meaning="intent and every slot"),
        "snips.copied": Figure(title="Values copied", unit="%", meaning="share of values that stand in the request"),
        "snips.valid": Figure(title="Valid JSON", unit="%"),
        "blimp.accuracy": Figure(title="Grammatical one likelier", unit="%", meaning="chance is 50 %"),
        "piqa.accuracy": Figure(title="Right answer likelier", unit="%", meaning="chance is 50 %"),
        "piqa.by_length": Figure(title="The same, per byte", unit="%", meaning="chance is 50 %"),
        "ifeval.instructions": Figure(title="Instructions followed", unit="%"),
        "ifeval.prompts": Figure(title="Prompts followed", unit="%", meaning="every instruction of the prompt"),
        "cost.load_seconds": Figure(title="Load", unit="s", better="lower", digits=2, meaning="CPU seconds"),
        "cost.first_token_ms": Figure(
            title="First token", unit="ms", better="lower", digits=0, meaning="64-token prompt"
        ),
        "cost.prefill_tokens_per_second": Figure(title="Prefill", unit="tokens/s", digits=0),
        "cost.decode_tokens_per_second": Figure(title="Decode", unit="tokens/s"),
        "cost.answer_ms": Figure(
            title="One answer", unit="ms", better="lower", digits=0, meaning="64 tokens in, 32 out"
        ),
        "cost.peak_megabytes": Figure(title="Peak memory", unit="MB", better="lower", digits=0),
        "cost.size_megabytes": Figure(title="Size on disk", unit="MB", better="lower"),
        "cost.parameters_millions": Figure(title="Parameters", unit="M", better="lower"),
        "energy.joules": Figure(title="Energy of one answer", unit="J", better="lower", digits=3, meaning="estimate"),
        "energy.joules_float16": Figure(
            title="The same at 16 bits a weight", unit="J", better="lower", digits=3, meaning="estimate"
        ),
        "energy.measured_joules": Figure(
            title="Energy of one answer, measured", unit="J", better="lower", digits=3, meaning="powermetrics"
        ),
        "density.quality": Figure(
            title="Quality", unit="points", meaning="mean of the legs above chance, 100 is perfect"
        ),
        "density.per_millisecond": Figure(title="Quality per millisecond", unit="points/ms", digits=4),
        "density.per_joule": Figure(title="Quality per joule", unit="points/J", digits=1),
    }
)
"""Figures in the order in which they are shown, by "leg.figure"."""

QUALITY: Mapping[str, tuple[str, float]] = MappingProxyType(
    {
        "tasks": ("quality", 0.0),
        "snips": ("exact", 0.0),
        "ifeval": ("instructions", 0.0),
        "blimp": ("accuracy", 0.5),
        "piqa": ("accuracy", 0.5),
    }
)
"""Leg to the score that counts as quality, and what guessing would score."""
