"""Tokens in, scores out, by onnxruntime on the bundle's own weights: fast on any processor, adapters beside the base.

Rules: an adapter is read once and handed to a run as inputs, so wearing one builds nothing and tracks under different
adapters run side by side. A track's keys and values stand in memory of its own, which grows with it.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from personalize.adapter import Adapter
from sdk.bundle import Bundle
from sdk.device.engines.ahead import Ahead
from sdk.device.engines.portable.graph import Graph, graph_of, head_of
from sdk.device.engines.portable.slots import slots_of
from sdk.device.engines.protocol import Track
from sdk.device.engines.worn import Wearing
from sdk.errors import EngineError, GenerationError

__all__ = ["PortableEngine", "default_threads"]

Slots = Mapping[str, onnxruntime.OrtValue]

FIRST_TOKENS = 256  # Room of a new track; it doubles when it is full.
ERRORS_ONLY = 3  # onnxruntime warns of each slot that its start is no constant: that is what a slot is.


def default_threads() -> int:
    """One core is left to the app, and more than four gain little for so small a model."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(4, cores - 1))


class PortableEngine(Wearing[Slots]):
    """The engine for every processor."""

    name = "portable"

    def __init__(
        self, bundle: Bundle, *, threads: int | None = None, exact: bool = False, ahead: bool | None = None
    ) -> None:
        """Load a bundle's weights, in a fraction of a second.

        Args:
            bundle: The base.
            threads: Threads of one step, ≥ 1; None takes default_threads().
            exact: Compute as torch does, in float32, instead of with activations of 8 bits; several times slower.
            ahead: Let tracks guess what repeats; None does where it pays, which is not with `exact`.

        Raises:
            BundleError: The checkpoint cannot be read.
            EngineError: onnxruntime cannot run it here.
        """
        graph = graph_of(bundle.checkpoint, exact=exact)
        super().__init__(
            base_digest=bundle.base_digest,
            maps=graph.maps,
            context_tokens=int(graph.config.max_position_embeddings),
            vocabulary=int(graph.config.vocab_size),
        )
        self._config, self._rows = graph.config, graph.rows
        self._ahead = not exact if ahead is None else ahead
        self._session: onnxruntime.InferenceSession | None = _session(graph, threads or default_threads())

    def begin(self, adapter: str | None = None) -> Track:
        """See Engine.begin."""
        track = super().begin(adapter)
        return Ahead(track, context_tokens=self.context_tokens) if self._ahead else track

    def fit(self, adapter: Adapter) -> Slots:
        """See Wearing.fit."""
        return {name: _value(factor) for name, factor in slots_of(adapter, self._maps).items()}

    def memory(self, fit: Slots | None) -> "_Memory":
        """See Wearing.memory."""
        return _Memory(self, fit or {})

    def close(self) -> None:
        """See Engine.close."""
        self._session = None
        super().close()

    def opened(self) -> onnxruntime.InferenceSession:
        """The loaded model.

        Raises:
            GenerationError: The engine is closed.
        """
        if self._session is None:
            raise GenerationError("the engine is closed; open the model again")
        return self._session

    @property
    def memory_shape(self) -> tuple[int, int, int]:
        """Of a track's keys and values: (layers · 2, heads, numbers of a head)."""
        config = self._config
        return 2 * config.num_hidden_layers, int(config.num_key_value_heads or 0), head_of(config)

    def embedded(self, tokens: list[int]) -> NDArray[np.float32]:
        """Shape (1, tokens, hidden)."""
        return self._rows(tokens)


class _Memory:
    """Keys and values of one sequence, and where a run finds and leaves them."""

    def __init__(self, engine: PortableEngine, slots: Slots) -> None:
        self._engine, self._slots, self._room = engine, slots, 0
        self._kept: list[NDArray[np.float32]] = []
        self._binding: Any = None

    def run(self, tokens: list[int], *, taken: int, keep: int) -> NDArray[np.float32]:
        session, total = self._engine.opened(), taken + len(tokens)
        if total > self._room:
            self._grow(session, total, taken)
        logits = np.empty((1, keep, self._engine.vocabulary), np.float32)
        self._binding.bind_cpu_input("embedded", self._engine.embedded(tokens))
        self._binding.bind_cpu_input("last", np.array([total - 1], np.int32))
        self._binding.bind_cpu_input("total", np.array([total], np.int32))
        self._binding.bind_cpu_input("start", np.array([len(tokens) - keep], np.int64))
        self._binding.bind_ortvalue_output("logits", _value(logits))
        session.run_with_iobinding(self._binding)
        scores: NDArray[np.float32] = logits[0]
        return scores

    def cut(self, length: int, *, taken: int) -> None:
        """Nothing to do: what stands behind the tokens taken is not read."""

    def _grow(self, session: onnxruntime.InferenceSession, total: int, taken: int) -> None:
        """Make room for `total` tokens and more, and bind it; the first `taken` come along."""
        room = max(FIRST_TOKENS, self._room)
        while room < total:
            room *= 2
        room = min(room, self._engine.context_tokens)
        count, heads, width = self._engine.memory_shape
        grown = [np.zeros((1, heads, room, width), np.float32) for _ in range(count)]
        for new, old in zip(grown, self._kept, strict=False):  # None at first.
            new[:, :, :taken] = old[:, :, :taken]
        binding = session.io_binding()
        for place, values in enumerate(grown):
            name, value = f"{place // 2}.{('keys', 'values')[place % 2]}", _value(values)
            binding.bind_ortvalue_input(f"past.{name}", value)
            binding.bind_ortvalue_output(f"present.{name}", value)
        for name, value in self._slots.items():
            binding.bind_ortvalue_input(name, value)
        self._kept, self._room, self._binding = grown, room, binding


def _value(values: NDArray[Any]) -> onnxruntime.OrtValue:
    """An array as onnxruntime's value, in the same memory."""
    return onnxruntime.OrtValue.ortvalue_from_numpy(values)


def _session(graph: Graph, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = ERRORS_ONLY
    options.enable_mem_pattern = False  # Shapes change with every prompt.
    options.add_external_initializers(
        list(graph.arrays), [_value(np.ascontiguousarray(a)) for a in graph.arrays.values()]
    )
    try:
        return onnxruntime.InferenceSession(graph.content, options, providers=["CPUExecutionProvider"])
    except Exception as cause:  # Its errors have no common root.
        raise EngineError(f"onnxruntime {onnxruntime.__version__} cannot run this model ({cause!s:.200})") from cause
