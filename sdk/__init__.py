"""Making, shipping and running a small language model that learns from its user on the device."""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdk.device.answers.records import Answer
    from sdk.device.answers.schema import Copied
    from sdk.device.answers.session import Session
    from sdk.device.answers.tools import ToolLimits
    from sdk.device.assistant import Assistant

__all__ = ["Answer", "Assistant", "Copied", "Session", "ToolLimits", "__version__"]

__version__ = metadata.version("limbeck")

_HOMES = {
    "Answer": "sdk.device.answers.records",
    "Assistant": "sdk.device.assistant",
    "Copied": "sdk.device.answers.schema",
    "Session": "sdk.device.answers.session",
    "ToolLimits": "sdk.device.answers.tools",
}


def __getattr__(name: str) -> Any:
    """Import the heavy parts (torch, transformers) only when they are asked for: `limbeck --help` needs none."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'sdk' has no attribute {name!r}")
