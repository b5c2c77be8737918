"""A compiled package in, what the coreml engine calls out: the maker's interpreter in place of Core ML's runtime."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sdk.build.coreml.execute import Session
from sdk.build.coreml.program import Package

__all__ = ["Interpreted"]


class Interpreted:
    """A loaded package, as sdk.device.engines.coreml_engine.Program."""

    def __init__(self, package: Path) -> None:
        self.session = Session(Package.open(package))

    def state(self) -> dict[str, torch.Tensor]:
        return {}

    def run(self, function: str, arrays: Mapping[str, NDArray[np.float32]], state: Any) -> Mapping[str, NDArray[Any]]:
        self.session.states = {} if state is None else state
        given = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in arrays.items()}
        return {name: values.numpy() for name, values in self.session.run(given, function=function).items()}
