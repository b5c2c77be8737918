"""What keeps a model off the Neural Engine, as a table: rule, severity, what to do, and the source that states it.

None of the rules could be tested by this project: they are other people's findings, and some contradict one another.
Ground truth is MLComputePlan on a device.
"""

from dataclasses import dataclass

__all__ = ["RULES", "Rule"]

NER = "apple/coreai-models, neural_engine_rules.md"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One row of the table."""

    severity: str
    """error: likely to leave the unit or to fail. warning: likely to be slow. note: worth knowing."""
    says: str
    source: str


RULES: dict[str, Rule] = {
    "rank-over-5": Rule(severity="error", says="a tensor has more than 5 dimensions; reshape it", source=NER),
    "rank-over-4": Rule(
        severity="warning", says="a tensor has 5 dimensions; prefer (1, channels, 1, positions)", source=NER
    ),
    "float32": Rule(severity="error", says="float32 is computed elsewhere; convert with float16", source=NER),
    "integers": Rule(
        severity="warning",
        says="int32 arithmetic pulls the block to the CPU; give it as an input",
        source="john-rocky/CoreML-LLM, README",
    ),
    "dynamic-shape": Rule(severity="error", says="a size is not fixed; make one function a shape", source=NER),
    "narrow-last-axis": Rule(
        severity="warning",
        says="the last axis of an input or output is under 32 float16 numbers (64 bytes) and is padded to them",
        source=NER,
    ),
    "linear": Rule(
        severity="warning",
        says="a linear map by constant weights; use a 1 × 1 convolution",
        source=f"{NER}; ANEMLL CLAUDE.md",
    ),
    "dimension-over-16384": Rule(
        severity="error", says="a dimension is over 16,384; split it", source="Anemll/Anemll, models/llama_model.py"
    ),
    "infinite-constant": Rule(severity="error", says="a constant is infinite; mask with -1e4", source=NER),
    "gather": Rule(
        severity="error", says="a look-up by index; give the rows as an input", source=f"{NER}; hollance/neural-engine"
    ),
    "runtime-index": Rule(
        severity="error",
        says="a slice at an index known only at run time crashed the compiler; write under a mask",
        source="apple/coreai-torch #6",
    ),
    "state-width": Rule(
        severity="error",
        says="the last axis of a state is no multiple of 32",
        source="apple/coremltools #2631 (one report, M4)",
    ),
    "state": Rule(
        severity="note",
        says="the cache is a state; Apple's rules prefer inputs and outputs, ANEMLL ships states; measure both",
        source=f"{NER}; Anemll/Anemll",
    ),
    "fused-attention": Rule(
        severity="warning",
        says="fused attention may ignore its mask; write it out",
        source=f"{NER}; Orion, ane_constraints.md #6",
    ),
    "square-overflow": Rule(
        severity="error",
        says="a mean of squares of unscaled values overflows float16 above 255; divide by the largest first",
        source="measured by this project: hidden states of SmolLM2 reach 22,552",
    ),
    "stride": Rule(severity="note", says="a stride or dilation other than 1, 2, 3 (2 with palettes)", source=NER),
    "recurrent": Rule(
        severity="warning",
        says="recurrent layers run elsewhere",
        source="hollance/neural-engine, unsupported-layers.md (2019; some are guesses)",
    ),
    "palette-and-state": Rule(
        severity="warning",
        says="4-bit palettes with a state crashed after 100 to 200 calls, or gave wrong numbers",
        source="apple/coremltools #2716",
    ),
    "int4-blocks": Rule(
        severity="warning",
        says="4 bits a block suit the Mac's GPU; palettes or 8 bits a row suit the Neural Engine",
        source="coremltools guide, opt-overview; apple/coreai-models #55",
    ),
    "large": Rule(
        severity="note",
        says="over 3 GB of weights stayed off M1's unit",
        source="smpanaro/more-ane-transformers, NOTES",
    ),
}
"""Name of a rule to its row."""
