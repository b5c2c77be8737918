"""Tokens in, scores out, by the model as it was trained: the reference that every other engine is compared with.

Rules: the engine has a model of its own around the runtime's weights (nothing is copied), so a night that trains on the
runtime's model changes no answer. Whose adapter a linear map applies is a matter of the running thread, so tracks with
different adapters may run side by side.
"""

import threading
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import DynamicCache

from personalize.adapter import TARGETS, Adapter
from sdk.checkpoint import model_of
from sdk.device.engines.worn import Wearing
from sdk.device.runtime import Runtime
from sdk.errors import GenerationError

__all__ = ["TorchEngine"]

Pairs = Mapping[str, tuple[Tensor, Tensor]]
"""Site to A, shape (rank, in), and B, shape (out, rank)."""


class _Running(threading.local):
    """The adapter under which this thread runs the model."""

    def __init__(self) -> None:
        self.pairs: Pairs = {}


class _WornLinear(nn.Module):
    """A frozen linear map that adds the correction of the running adapter."""

    def __init__(self, site: str, base: nn.Linear, running: _Running) -> None:
        super().__init__()
        self.site, self.base, self.running = site, base, running

    def forward(self, inputs: Tensor) -> Tensor:
        """Shape (batch, seq, in) in, (batch, seq, out) out."""
        outputs: Tensor = self.base(inputs)
        pair = self.running.pairs.get(self.site)
        return outputs if pair is None else outputs + (inputs @ pair[0].t()) @ pair[1].t()


class TorchEngine(Wearing[Pairs]):
    """The reference engine."""

    name = "torch"

    def __init__(self, runtime: Runtime) -> None:
        """Share the weights of a loaded base."""
        config = runtime.model.config
        self._running = _Running()
        model = model_of(config, dict(_plain_weights(runtime.model)))
        maps = {
            site: (linear.in_features, linear.out_features)
            for site, linear in model.named_modules()
            if site.rsplit(".", 1)[-1] in TARGETS and isinstance(linear, nn.Linear)
        }
        super().__init__(
            base_digest=runtime.bundle.base_digest,
            maps=maps,
            context_tokens=int(config.max_position_embeddings),
            vocabulary=int(config.vocab_size),
        )
        for site in maps:
            linear = model.get_submodule(site)
            assert isinstance(linear, nn.Linear)
            model.set_submodule(site, _WornLinear(site, linear, self._running))
        self._model: nn.Module | None = model.requires_grad_(False)

    def fit(self, adapter: Adapter) -> Pairs:
        """See Wearing.fit."""
        return {site: (a.detach().float(), adapter.b[site].detach().float()) for site, a in adapter.a.items()}

    def memory(self, fit: Pairs | None) -> "_Memory":
        """See Wearing.memory."""
        return _Memory(self, fit or {})

    def close(self) -> None:
        """See Engine.close; the runtime keeps its own model."""
        self._model = None
        super().close()

    def run(self, step: Tensor, pairs: Pairs, cache: DynamicCache, keep: int) -> Tensor:
        """Run the model under an adapter: tokens (1, tokens) in, logits (keep, vocab) out."""
        if self._model is None:
            raise GenerationError("the engine is closed; open the model again")
        self._running.pairs = pairs
        try:
            with torch.no_grad():
                out = self._model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=keep)
        finally:
            self._running.pairs = {}
        logits: Tensor = out.logits[0].float()
        return logits


class _Memory:
    """Keys and values of one sequence, as transformers keeps them."""

    def __init__(self, engine: TorchEngine, pairs: Pairs) -> None:
        self._engine, self._pairs, self._cache = engine, pairs, DynamicCache()

    def run(self, tokens: list[int], *, taken: int, keep: int) -> NDArray[np.float32]:
        logits = self._engine.run(torch.tensor([tokens]), self._pairs, self._cache, keep)
        scores: NDArray[np.float32] = logits.cpu().numpy()
        return scores

    def cut(self, length: int, *, taken: int) -> None:
        if length:
            self._cache.crop(length - taken)  # Counted from the end.
        else:
            self._cache = DynamicCache()


def _plain_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Weights by their plain names, whether or not an adapter is attached at this moment."""
    for name, value in model.state_dict().items():
        yield name.replace(".base.weight", ".weight"), value
