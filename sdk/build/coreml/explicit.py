"""A graph with backward passes in, the same as one graph of plain operations out, which coremltools converts."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["explicit"]


def explicit(forward: Callable[..., tuple[Tensor, ...]], sizes: Sequence[tuple[int, ...]]) -> Any:
    """Trace a function of fixed sizes, its gradients included.

    torch.func leaves views, copies and empty tensors that coremltools' front end does not take; they are rewritten.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    examples = [torch.full(size, 0.01) for size in sizes]
    pure = torch.func.functionalize(forward, remove="mutations_and_views")
    table: Any = torch._decomp.core_aten_decompositions()
    graph = make_fx(pure, decomposition_table=table)(*examples)
    _plain(graph)
    graph.eval()
    return torch.jit.trace(graph, tuple(examples), check_trace=False)


def _plain(module: Any) -> None:
    graph = module.graph
    for node in list(graph.nodes):
        name = str(node.target)
        if name.startswith(("aten.clone", "aten.alias", "aten.detach", "aten.lift")):
            node.replace_all_uses_with(node.args[0])
        elif name.startswith("aten.copy."):
            node.replace_all_uses_with(node.args[1])
        elif name.startswith("aten.empty"):
            with graph.inserting_before(node):
                zeros = graph.call_function(torch.ops.aten.full.default, (node.args[0], 0.0))
            node.replace_all_uses_with(zeros)
        elif name.startswith("aten.view"):
            node.target = torch.ops.aten.reshape.default
    graph.eliminate_dead_code()
    module.recompile()
