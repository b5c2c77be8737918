"""An adapter in, what a graph's slots take out: its factors side by side as the graph's matrices are."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from personalize.adapter import Adapter
from sdk.device.engines.portable.graph import GROUPS, group_name

__all__ = ["slots_of"]


def slots_of(adapter: Adapter, maps: Mapping[str, tuple[int, int]]) -> dict[str, NDArray[np.float32]]:
    """The inputs of the slots that an adapter fills, by name.

    Args:
        adapter: Checked to fit `maps`.
        maps: Each linear map of the model: (in, out).

    Returns:
        For each group with an adapted map A, shape (in, ranks), and B, shape (ranks, out): B is zero wherever a map's
        rank meets the outputs of another.
    """
    found = {}
    for layer in sorted({int(site.split(".")[2]) for site in adapter.a}):
        for group, parts in GROUPS.items():
            sites = [f"model.layers.{layer}.{part}" for part in parts]
            if not any(site in adapter.a for site in sites):
                continue
            a, b, offset = [], [], 0
            width = sum(maps[site][1] for site in sites)
            for site in sites:
                outputs = maps[site][1]
                if site in adapter.a:
                    a.append(adapter.a[site].detach().float().numpy().T)  # (in, rank)
                    rows = np.zeros((len(adapter.a[site]), width), np.float32)
                    rows[:, offset : offset + outputs] = adapter.b[site].detach().float().numpy().T  # (rank, out)
                    b.append(rows)
                offset += outputs
            name = group_name(layer, group)
            found[f"{name}.A"] = np.ascontiguousarray(np.concatenate(a, axis=1))
            found[f"{name}.B"] = np.concatenate(b)
    return found
