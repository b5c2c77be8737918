"""Tokens in, scores out, by a compiled package: on macOS through Core ML.

**Not run on a device.** On Linux the conformance suite runs the same class over the interpreter of sdk.build.coreml,
which shows that calls, caches and adapters are right. How Core ML itself computes, and how fast, it cannot show.

Rules: a track has its own state, or with array caches its own keys and values, so tracks live side by side. What stands
in the cache beyond a track's tokens is masked, so going back costs nothing. One thread at a time calls the package.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from personalize.adapter import Adapter
from sdk.bundle import Bundle
from sdk.device.engines.compiled import DECODE, PREFILL, Compiled
from sdk.device.engines.rows import Rows
from sdk.device.engines.worn import Wearing
from sdk.errors import BundleError, EngineError, GenerationError
from sdk.packed import load_parts

__all__ = ["CoreMLEngine", "Program", "loaded", "package_of"]

Floats = NDArray[np.float32]
Arrays = Mapping[str, Floats]

MAPS = {"self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"), "mlp": ("gate_proj", "up_proj", "down_proj")}


class Program(Protocol):
    """A package that is loaded, whoever runs it."""

    def state(self) -> Any:
        """Keys and values of a new conversation, empty; unused where they are arrays."""

    def run(self, function: str, arrays: Arrays, state: Any) -> Mapping[str, NDArray[Any]]:
        """Call a function once: every input by name in, every output by name out; the state changes."""


def package_of(bundle: Bundle) -> Path | None:
    """The compiled package of a bundle, the first by name; None without one."""
    names = {path.partition(".mlpackage/")[0] for path in bundle.manifest.files if ".mlpackage/" in path}
    return bundle.folder / f"{min(names)}.mlpackage" if names else None


class CoreMLEngine(Wearing[Arrays]):
    """The engine for the Neural Engine."""

    name = "coreml"

    def __init__(self, bundle: Bundle, package: Path, program: Program) -> None:
        """Run a package that was made of a bundle's checkpoint.

        Args:
            bundle: The base, whose embedding is looked up here.
            package: The *.mlpackage folder; its contract says how it is fed.
            program: The same package, loaded.

        Raises:
            EngineError: It was made of another base, or by another maker.
            BundleError: The contract or the checkpoint cannot be read.
        """
        self.contract = contract = Compiled.read(package)
        if contract.base_digest != bundle.base_digest:
            raise EngineError(f"{package.name} was compiled from another base; compile this one")
        parts = load_parts(bundle.checkpoint)
        try:
            maps = {
                f"model.layers.{layer}.{home}.{name}": parts[f"model.layers.{layer}.{home}.{name}.weight"].shape
                for layer in contract.layers
                for home, names in MAPS.items()
                for name in names
            }
            self._rows = Rows(parts["model.embed_tokens.weight"])
        except KeyError as cause:
            raise BundleError(f"{bundle.checkpoint} lacks {cause}; get the model again") from cause
        super().__init__(
            base_digest=bundle.base_digest,
            maps={site: (inputs, outputs) for site, (outputs, inputs) in maps.items()},
            context_tokens=contract.context,
            vocabulary=contract.vocabulary,
        )
        self._program: Program | None = program
        self._turn = threading.Lock()

    def fit(self, adapter: Adapter) -> Arrays:
        """See Wearing.fit."""
        return self.contract.worn(adapter)

    def memory(self, fit: Arrays | None) -> "_Memory":
        """See Wearing.memory."""
        return _Memory(self, self.contract.nothing_worn() if fit is None else fit)

    def close(self) -> None:
        """See Engine.close."""
        self._program = None
        super().close()

    def new_state(self) -> Any:
        """An empty conversation of the loaded package."""
        return self._opened().state()

    def embedded(self, tokens: list[int]) -> Floats:
        """Shape (tokens, width)."""
        rows: Floats = self._rows(tokens)[0]
        return rows

    def call(self, function: str, arrays: Arrays, state: Any) -> Mapping[str, NDArray[Any]]:
        """Call a function once.

        Raises:
            GenerationError: The engine is closed.
        """
        program = self._opened()
        with self._turn:
            return program.run(function, arrays, state)

    def _opened(self) -> Program:
        if self._program is None:
            raise GenerationError("the engine is closed; open the model again")
        return self._program


class _Memory:
    """The cache of one sequence."""

    def __init__(self, engine: CoreMLEngine, worn: Arrays) -> None:
        self._engine, self._worn = engine, worn
        self._state: Any = None
        self._cache: dict[str, Floats] = {}

    def run(self, tokens: list[int], *, taken: int, keep: int) -> Floats:
        contract, done, scores = self._engine.contract, 0, []
        while done < len(tokens):
            left = len(tokens) - done
            wanted = left <= keep  # From here on each token's scores are told, so they come one at a time.
            count = 1 if wanted else min(contract.prefill, left - keep + 1)
            logits = self._call(tokens[done : done + count], start=taken + done)
            done += count
            if len(tokens) - done < keep:
                scores.append(logits)
        return np.stack(scores)

    def cut(self, length: int, *, taken: int) -> None:
        """Nothing to do: later columns are masked until they are written again."""

    def _call(self, tokens: list[int], *, start: int) -> Floats:
        contract, engine = self._engine.contract, self._engine
        function, arrays = contract.arrays(engine.embedded(tokens), start=start)
        arrays |= self._worn
        if contract.state:
            self._state = engine.new_state() if self._state is None else self._state
        else:
            for name in ("keys", "values"):
                size = contract.sizes[function][name]
                arrays[name] = self._cache.setdefault(name, np.zeros(size, np.float32))
        outputs = engine.call(function, arrays, self._state)
        if not contract.state:
            for name, kept in self._cache.items():
                kept[..., start : start + len(tokens)] = outputs[f"new_{name}"][..., : len(tokens)]
        chunks = sorted((name for name in outputs if name.startswith("logits_")), key=lambda name: int(name[7:]))
        return np.concatenate([np.asarray(outputs[name], np.float32).ravel() for name in chunks])


class _Loaded:
    """Core ML's own runtime; only macOS has it."""

    def __init__(self, package: Path, functions: tuple[str, ...]) -> None:
        import coremltools

        self._models = {name: coremltools.models.MLModel(str(package), function_name=name) for name in functions}

    def state(self) -> Any:
        return self._models[DECODE].make_state()

    def run(self, function: str, arrays: Arrays, state: Any) -> Mapping[str, NDArray[Any]]:
        given = {name: values.astype(np.float16) for name, values in arrays.items()}
        made: Mapping[str, NDArray[Any]] = self._models[function].predict(given, state=state)
        return made


def loaded(package: Path) -> Program:
    """A package in Core ML.

    Raises:
        EngineError: Core ML is not here, or does not take it.
    """
    functions = (DECODE, PREFILL) if Compiled.read(package).prefill > 1 else (DECODE,)
    try:
        program = _Loaded(package, functions)
        program.state()
    except Exception as cause:  # Its errors have no common root.
        raise EngineError(f"Core ML cannot run {package.name} ({cause!s:.160})") from cause
    return program
