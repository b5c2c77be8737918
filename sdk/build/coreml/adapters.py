"""An adapter of personalize in, the arrays that a compiled student takes for it out.

Every kind (`lora`, `frozen-a`, `xs`, `basis`) is a pair A, B a map once it is saved, with its scale folded into B; here
the pairs of one target are stacked over the layers and filled with zeros up to the rank of the slots.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from personalize.adapter import Adapter
from sdk.build.coreml.contract import DECODE, Contract
from sdk.errors import PackageError

__all__ = ["arrays_of_adapter", "load_adapter"]


def load_adapter(folder: Path, contract: Contract) -> Adapter:
    """Read an adapter's folder.

    Raises:
        BaseMismatchError: It was learned on another base than the package was made of.
        AdapterError: The folder is damaged.
    """
    return Adapter.load(folder, base_digest=contract.base_digest)


def arrays_of_adapter(adapter: Adapter, contract: Contract) -> dict[str, Tensor]:
    """The adapter inputs of a compiled student, by name.

    Raises:
        PackageError: The package has no slots, or not those that the adapter needs.
    """
    slots = contract.slots
    if slots is None:
        raise PackageError("the package takes no adapter; convert the student again with --adapter-layers")
    spec = adapter.spec
    if spec.rank > slots.rank:
        raise PackageError(
            f"the adapter has rank {spec.rank} and the package takes {slots.rank}; "
            f"convert with --adapter-rank {spec.rank}"
        )
    homeless = [str(layer) for layer in spec.layers if layer not in slots.layers]
    if homeless or not set(spec.targets) <= set(slots.targets):
        raise PackageError(
            f"the adapter sits on layers {', '.join(map(str, spec.layers))} and the package takes layers "
            f"{', '.join(map(str, slots.layers))}; convert the student with slots for them"
        )
    sizes: Mapping[str, tuple[int, ...]] = contract.functions[DECODE]["inputs"]
    arrays = {f"{target}_{part}": torch.zeros(sizes[f"{target}_{part}"]) for target in slots.targets for part in "ab"}
    for site, a in adapter.a.items():
        layer, target = int(site.split(".")[2]), site.rsplit(".", 1)[-1]
        row = slots.layers.index(layer)
        arrays[f"{target}_a"][row, 0, : spec.rank] = a.float()  # (layers, 1, rank, in)
        arrays[f"{target}_b"][row, 0, :, : spec.rank] = adapter.b[site].float()  # (layers, 1, out, rank)
    return arrays
