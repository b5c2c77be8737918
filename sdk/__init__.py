"""Making, shipping and running a small language model that learns from its user on the device."""

from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdk.device.assistant import Assistant

__all__ = ["Assistant", "__version__"]

__version__ = metadata.version("limbeck")


def __getattr__(name: str) -> Any:
    """Import the heavy parts (torch, transformers) only when they are asked for: `limbeck --help` needs none."""
    if name == "Assistant":
        from sdk.device.assistant import Assistant

        return Assistant
    raise AttributeError(f"module 'sdk' has no attribute {name!r}")
