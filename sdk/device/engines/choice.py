"""A bundle and a wish in, the engine that answers out, and why it is that one.

On a Mac the compiled package of a bundle goes first, elsewhere or without one the portable engine, wherever its
libraries are installed and it can run the model. Torch, which is always there, is what everything falls back to.
"""

import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from sdk.bundle import Bundle
from sdk.device.chat import Chat
from sdk.device.engines.protocol import Engine
from sdk.device.engines.torch_engine import TorchEngine
from sdk.device.runtime import Runtime
from sdk.errors import EngineError

__all__ = ["WISHES", "Choice", "Opened", "choose", "open_engine"]

WISHES = ("auto", "coreml", "portable", "torch")
"""What may be asked for."""

LIBRARIES = ("onnxruntime", "onnx")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which engine answers."""

    name: Literal["coreml", "portable", "torch"]
    why: str
    """One line for a person."""
    fallback: bool = False
    """Whether another one was asked for by name."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A loaded engine with its bundle's text side."""

    engine: Engine
    chat: Chat
    choice: Choice
    runtime: Runtime | None
    """The model in torch, where that is what answers; other engines load none."""


def choose(bundle: Bundle, wanted: str = "auto") -> Choice:
    """Which engine would answer, without loading a model.

    Args:
        bundle: The base.
        wanted: One of WISHES; an engine that cannot run here is replaced by the next that can, and the choice says why.

    Raises:
        EngineError: There is no engine of this name.
        BundleError: The bundle's configuration cannot be read.
    """
    if wanted not in WISHES:
        raise EngineError(f"there is no engine {wanted!r}; choose one of {', '.join(WISHES)}")
    if wanted == "torch":
        return Choice(name="torch", why="it was asked for")
    troubles: list[str] = []
    looked: tuple[tuple[Literal["coreml", "portable"], Callable[[Bundle], str]], ...] = (
        ("coreml", _coreml), ("portable", _portable),
    )  # fmt: skip
    for name, look in looked:
        if (wanted == "portable" and name == "coreml") or (wanted == "auto" and name == "coreml" and not _is_mac()):
            continue
        try:
            return _chosen(name, look(bundle), troubles, wanted)
        except (ImportError, OSError, EngineError) as cause:  # A wheel that is there may still not load.
            troubles.append(f"the {name} engine cannot run: {cause!s:.240}")
    return _chosen("torch", "it is always there", troubles, wanted)


def open_engine(bundle: Bundle, wanted: str = "auto") -> Opened:
    """Load the engine that `choose` names, or the next where it turns out not to run.

    Raises:
        EngineError, BundleError: As `choose`, or the checkpoint cannot be loaded.
    """
    choice = choose(bundle, wanted)
    if choice.name != "torch":
        try:
            engine = _load_coreml(bundle) if choice.name == "coreml" else _load_portable(bundle)
            return Opened(engine=engine, chat=Chat.open(bundle), choice=choice, runtime=None)
        except (ImportError, OSError, EngineError) as cause:
            trouble = f"the {choice.name} engine cannot run: {cause!s:.240}"
            if choice.name == "coreml":
                after = open_engine(bundle, "portable")
                choice = replace(after.choice, why=f"{trouble}; {after.choice.why}", fallback=wanted != "auto")
                return replace(after, choice=choice)
            choice = Choice(name="torch", why=trouble, fallback=wanted != "auto")
    runtime = Runtime.open(bundle)
    return Opened(engine=TorchEngine(runtime), chat=runtime.chat, choice=choice, runtime=runtime)


def _chosen(name: Literal["coreml", "portable", "torch"], why: str, troubles: list[str], wanted: str) -> Choice:
    words = "; ".join([*troubles, *([why] if name != "torch" or not troubles else [])])
    return Choice(name=name, why=words, fallback=bool(troubles) and wanted != "auto")


def _is_mac() -> bool:
    return sys.platform == "darwin"


def _portable(bundle: Bundle) -> str:
    """Why the portable engine can run a bundle; raises where it cannot."""
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        how = "`pip install 'limbeck[portable]'` makes answers several times faster"
        raise EngineError(f"{' and '.join(missing)} not installed; {how}")
    from sdk.device.engines.portable.graph import suited

    suited(bundle.checkpoint)
    return f"onnxruntime {importlib.metadata.version('onnxruntime')} runs this base"


def _coreml(bundle: Bundle) -> str:
    """Why Core ML can run a bundle; raises where it cannot."""
    from sdk.device.engines.coreml_engine import package_of

    if not _is_mac():
        raise EngineError("Core ML is on Apple's systems only")
    package = package_of(bundle)
    if package is None:
        raise EngineError("the bundle holds no compiled package; `limbeck build coreml` makes one")
    return f"Core ML runs {package.name} of this base"


def _load_portable(bundle: Bundle) -> Engine:
    from sdk.device.engines.portable.engine import PortableEngine

    return PortableEngine(bundle)


def _load_coreml(bundle: Bundle) -> Engine:
    from sdk.device.engines import coreml_engine

    package = coreml_engine.package_of(bundle)
    if package is None:
        raise EngineError("the bundle holds no compiled package")
    return coreml_engine.CoreMLEngine(bundle, package, coreml_engine.loaded(package))
