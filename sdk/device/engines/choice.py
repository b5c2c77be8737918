"""A bundle and a wish in, the engine that answers out, and why it is that one.

The portable engine is taken wherever its libraries are installed and it can run the model. Torch, which is always
there, is what everything falls back to.
"""

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from typing import Literal

from sdk.bundle import Bundle
from sdk.device.chat import Chat
from sdk.device.engines.protocol import Engine
from sdk.device.engines.torch_engine import TorchEngine
from sdk.device.runtime import Runtime
from sdk.errors import EngineError

__all__ = ["WISHES", "Choice", "Opened", "choose", "open_engine"]

WISHES = ("auto", "portable", "torch")
"""What may be asked for."""

LIBRARIES = ("onnxruntime", "onnx")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which engine answers."""

    name: Literal["portable", "torch"]
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
        wanted: One of WISHES; an engine that cannot run here is replaced by torch, and the choice says why.

    Raises:
        EngineError: There is no engine of this name.
        BundleError: The bundle's configuration cannot be read.
    """
    if wanted not in WISHES:
        raise EngineError(f"there is no engine {wanted!r}; choose one of {', '.join(WISHES)}")
    if wanted == "torch":
        return Choice(name="torch", why="it was asked for")
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        how = "`pip install 'limbeck[portable]'` makes answers several times faster"
        return _torch(f"{' and '.join(missing)} not installed; {how}", wanted)
    try:
        from sdk.device.engines.portable.graph import suited

        suited(bundle.checkpoint)
    except (ImportError, OSError, EngineError) as cause:  # A wheel that is there may still not load.
        return _torch(str(cause), wanted)
    return Choice(name="portable", why=f"onnxruntime {importlib.metadata.version('onnxruntime')} runs this base")


def open_engine(bundle: Bundle, wanted: str = "auto") -> Opened:
    """Load the engine that `choose` names, or torch where it turns out not to run.

    Raises:
        EngineError, BundleError: As `choose`, or the checkpoint cannot be loaded.
    """
    choice = choose(bundle, wanted)
    if choice.name == "portable":
        try:
            from sdk.device.engines.portable.engine import PortableEngine

            return Opened(engine=PortableEngine(bundle), chat=Chat.open(bundle), choice=choice, runtime=None)
        except (ImportError, OSError, EngineError) as cause:
            choice = _torch(str(cause), wanted)
    runtime = Runtime.open(bundle)
    return Opened(engine=TorchEngine(runtime), chat=runtime.chat, choice=choice, runtime=runtime)


def _torch(why: str, wanted: str) -> Choice:
    return Choice(name="torch", why=f"the portable engine cannot run: {why:.240}", fallback=wanted != "auto")
