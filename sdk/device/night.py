"""A bundle in, what a night of learning needs of it out; and the plan of a night without a basis."""

from personalize.adapter import AdapterSpec
from personalize.learner import Base
from personalize.plan import NightPlan
from sdk.bundle import Bundle
from sdk.device.runtime import Runtime

__all__ = ["ADAPTED_LAYERS", "base_of", "plan_of"]

ADAPTED_LAYERS = 4  # The upper ones: all below are computed once a night (docs/benchmarks.md).
RATES = {"xs": 5e-3, "frozen-a": 1e-3, "lora": 1e-3}  # Adam's rate of each kind, from public text only.


def base_of(bundle: Bundle, *, runtime: Runtime | None = None, probes_per_leg: int | None = None) -> Base:
    """What learning needs of a bundle.

    Args:
        bundle: The base model.
        runtime: The same bundle, loaded already; None loads it.
        probes_per_leg: Probe items used of each leg; None takes all.

    Raises:
        BundleError: It cannot be loaded.
    """
    runtime = runtime or Runtime.open(bundle)
    layers = len(runtime.model.model.layers)
    return Base(
        model=runtime.model,
        tokenizer=runtime.tokenizer,
        digest=bundle.base_digest,
        probes=bundle.probes(),
        rehearsal=bundle.rehearsal(),
        spec=AdapterSpec(layers=tuple(range(max(1, layers - ADAPTED_LAYERS), layers))),
        probes_per_leg=probes_per_leg,
    )


def plan_of(*, kind: str = "xs", epsilon: float = 2.0, delta: float = 1e-5, steps: int = 8) -> NightPlan:
    """The plan of a night from the bare base or the adapter in use."""
    return NightPlan(kind=kind, epsilon=epsilon, delta=delta, steps=steps, clip_norm=2.0, step_size=RATES[kind])
