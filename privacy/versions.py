"""Nothing in, what runs here out: versions by name, and a digest of the code that clips and noises."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from functools import lru_cache
from pathlib import Path

__all__ = ["engine_digest", "versions"]

_ENGINE = ("dp_sgd.py", "noise.py", "per_example.py")  # What an audit of a step is about; the ledger has its own chain.
_LIBRARIES = ("limbeck", "torch", "numpy", "scipy", "dp-accounting")


def versions() -> dict[str, str]:
    """Return the versions that a figure depends on: Python, libraries, and the digest of the engine."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # Run from a folder of sources.
    return found | {"engine": engine_digest()}


@lru_cache(maxsize=1)
def engine_digest() -> str:
    """Return `sha256:…` of the engine's source, or `unknown` where only compiled code is installed."""
    digest = hashlib.sha256()
    for name in _ENGINE:
        try:
            source = Path(__file__).with_name(name).read_bytes()
        except OSError:
            return "unknown"
        digest.update(f"{name} {len(source)}\n".encode() + source)
    return f"sha256:{digest.hexdigest()}"
