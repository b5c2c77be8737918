"""Nothing in, coremltools out, without the lines it prints that do not matter here.

Filtered by their words, one by one: whatever else coremltools has to say is shown.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["coremltools", "quiet"]

HARMLESS_LINES = (
    "Failed to load _ML",  # Proxies of the device's runtime, which exists on macOS only.
    "Failed to load '_MLCPUComputeDeviceRemoteProxy'",
    "Torch version",  # Newer than the newest tested by coremltools; tests compare every package with torch.
    "scikit-learn version",  # Disables its scikit-learn converter, which is not used.
    "Torch var",  # "… is added again": the same buffer met twice in a trace.
    "Core ML embedding",  # Gathers are fine on a device, and only a caution where they are not.
    "Saving value type of",  # An int64 stands as int32 in a package.
    "Tuple detected at graph output",  # Outputs are named by the converter here.
    "Input ",  # "… is of dynamic shape": inputs have fixed shapes here.
)
HARMLESS_WARNINGS = (
    r"Converting a tensor to a Python",  # Shapes of a trace are fixed on purpose.
    r".*torch\.jit\.",  # The one front end of coremltools that takes this graph.
    r"`torch\.jit\.trace` is",
    r".*is deprecated",
    r"Using a non-tuple sequence",
    r"builtin type .* has no __module__ attribute",  # From SWIG in libmilstoragepython.
    r"Implicitly cleaning up <TemporaryDirectory",  # coremltools' own copy of a model that was saved elsewhere.
    r"(Input|Output), '.*', of the source model, has been renamed",  # Names that are no identifiers, as `60`.
)

FOLDED = r"coremltools\.converters\.mil\.mil\.(passes\.defs\.optimize_repeat_ops|ops\.defs\.iOS15\.elementwise_unary)"


class _WordsFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(HARMLESS_LINES)


def coremltools() -> Any:
    """The module coremltools, imported once (about 3 seconds)."""
    logger = logging.getLogger("coremltools")
    if not any(isinstance(known, _WordsFilter) for known in logger.filters):
        logger.addFilter(_WordsFilter())
    with quiet():
        import coremltools as library
        from coremltools.converters.mil.frontend.torch import ops
        from coremltools.converters.mil.mil.passes import pass_pipeline
    for module, name in ((ops, "_tqdm"), (pass_pipeline, "tqdm")):
        setattr(module, name, _without_bar)  # A bar a pass: the callers here show one of their own.
    return library


def _without_bar(steps: Any, **settings: Any) -> Any:
    return steps


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out HARMLESS_WARNINGS inside a `with` block."""
    with warnings.catch_warnings():
        for words in HARMLESS_WARNINGS:
            warnings.filterwarnings("ignore", message=words)
        # Casts that coremltools tries while it folds constants; a weight or mask that overflows warns elsewhere.
        warnings.filterwarnings("ignore", message="overflow encountered in cast", module=FOLDED)
        yield
