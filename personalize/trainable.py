"""An adapter in, the few numbers of it that are trained, each kind with its own per-example gradients.

Kinds, from many numbers to few (d for rank 8 on the seven maps of four layers of SmolLM2-135M):
    lora       A and B                                      d = 344,064    arXiv:2106.09685
    frozen-a   B; A stays a fixed orthonormal frame         d = 165,888    arXiv:2308.03303
    xs         r x r cores: B = B0 + U R, U from W's SVD    d = 1,792      arXiv:2405.17604
    basis      K coefficients: B = B0 + sum theta_k D_k     d = K          docs/adr/0004
The noise of a private step grows with the square root of d, so the private default trains few.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from personalize.adapter import AdaptedLinear, Adapter, attached, sites
from personalize.errors import AdapterError
from privacy.per_example import add_grad_sample

__all__ = ["KINDS", "Basis", "FrozenA", "Trainable", "trainable"]

KINDS = ("lora", "frozen-a", "xs", "basis")


@dataclass(frozen=True, kw_only=True)
class Basis:
    """Directions for B, learned on public people: how people differ."""

    directions: Mapping[str, Tensor]
    """Site name to directions, shape (count, out, rank), whitened: one record moves a coefficient by about one unit.
    Sites that are not named stay as they are."""
    variance: Tensor
    """Between-people variance of each coefficient in whitened units, shape (count,), > 0, falling."""

    def __len__(self) -> int:
        return len(self.variance)


class Trainable(ABC):
    """The parameters of one kind, and how a layer's backward becomes gradients of them."""

    kind: str

    def __init__(self, start: Adapter) -> None:
        """Begin at `start`, whose tensors are never written to."""
        self.start = start
        self.summed = False  # True: backward leaves plain sums on `.grad`, as training without privacy needs.
        self.parameters: list[Tensor] = []
        self._modules: Mapping[str, AdaptedLinear] = {}

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        """Put the parameters on the model for the time of a `with` block."""
        with attached(model, self.start) as modules:
            self._modules = modules
            for site, module in modules.items():
                if self._trains(site):
                    module.route, module.trained = self._route(site), tuple(self.parameters)
            self.refresh()
            try:
                yield
            finally:
                self._modules = {}

    def refresh(self) -> None:
        """Bring the attached factors up to date; call it after every change of `parameters`."""
        for site, module in self._modules.items():
            module.a, module.b = self._factors(site)

    @torch.no_grad()
    def adapter(self) -> Adapter:
        """The adapter at the present parameters, a copy."""
        factors = {site: self._factors(site) for site in self.start.a}
        return replace(
            self.start,
            a={site: a.detach().clone() for site, (a, _) in factors.items()},
            b={site: b.detach().clone() for site, (_, b) in factors.items()},
            kind=self.kind,
        )

    def _new(self, value: Tensor) -> Tensor:
        parameter = value.detach().clone().requires_grad_(True)
        self.parameters.append(parameter)
        return parameter

    def _put(self, parameter: Tensor, left: Tensor, right: Tensor) -> None:
        """Leave the gradient left' right of each example: (batch, seq, m) and (batch, seq, n) in, (batch, m, n) out."""
        if self.summed:
            gradient = left.flatten(0, 1).t() @ right.flatten(0, 1)
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        else:
            add_grad_sample(parameter, torch.bmm(left.transpose(1, 2), right))

    def _trains(self, site: str) -> bool:
        """Whether anything at this site is trained; below the lowest such site no gradient is computed."""
        return True

    @abstractmethod
    def _factors(self, site: str) -> tuple[Tensor, Tensor]:
        """A and B of a site at the present parameters."""

    @abstractmethod
    def _route(self, site: str) -> Any:
        """A privacy.per_example.Route for a site."""


class Lora(Trainable):
    """A and B. From the fresh adapter, B = 0 makes the first gradient of A zero, as in the paper."""

    kind = "lora"

    def __init__(self, start: Adapter) -> None:
        super().__init__(start)
        self._a = {site: self._new(value) for site, value in start.a.items()}
        self._b = {site: self._new(value) for site, value in start.b.items()}

    def _factors(self, site: str) -> tuple[Tensor, Tensor]:
        return self._a[site].detach(), self._b[site].detach()

    def _route(self, site: str) -> Any:
        def route(inputs: Tensor, projected: Tensor, upstream: Tensor) -> None:
            self._put(self._a[site], upstream @ self._b[site].detach(), inputs)
            self._put(self._b[site], upstream, projected)

        return route


class FrozenA(Trainable):
    """B only."""

    kind = "frozen-a"

    def __init__(self, start: Adapter, *, layers: Collection[int] | None = None) -> None:
        """Train B at `start`, of all its layers or of some only."""
        super().__init__(start)
        chosen = start.spec.layers if layers is None else layers
        prefixes = tuple(f"model.layers.{layer}." for layer in chosen)
        self._b = {site: self._new(value) for site, value in start.b.items() if site.startswith(prefixes)}

    def shapes(self) -> dict[str, torch.Size]:
        """Trained site to the shape of its B, in the order of `parameters`."""
        return {site: value.shape for site, value in self._b.items()}

    def _trains(self, site: str) -> bool:
        return site in self._b

    def _factors(self, site: str) -> tuple[Tensor, Tensor]:
        return self.start.a[site], self._b[site].detach() if site in self._b else self.start.b[site]

    def _route(self, site: str) -> Any:
        return lambda inputs, projected, upstream: self._put(self._b[site], upstream, projected)


class Cores(Trainable):
    """An r x r core R between A and the leading left singular vectors U of the frozen weight: B = B0 + U R."""

    kind = "xs"

    def __init__(self, start: Adapter, model: nn.Module) -> None:
        super().__init__(start)
        self._left: dict[str, Tensor] = {}
        self._core: dict[str, Tensor] = {}
        rank = start.spec.rank
        for site, linear in sites(model, start.spec).items():
            self._left[site] = torch.linalg.svd(linear.weight.detach(), full_matrices=False)[0][:, :rank].contiguous()
            self._core[site] = self._new(torch.zeros(rank, rank, dtype=linear.weight.dtype))

    def _factors(self, site: str) -> tuple[Tensor, Tensor]:
        return self.start.a[site], self.start.b[site] + self._left[site] @ self._core[site].detach()

    def _route(self, site: str) -> Any:
        left = self._left[site]  # Projected first: the (out, rank) gradient of B is never formed.
        return lambda inputs, projected, upstream: self._put(self._core[site], upstream @ left, projected)


class Coefficients(Trainable):
    """K coefficients over public directions: B = B0 + sum over k of theta_k D_k."""

    kind = "basis"

    def __init__(self, start: Adapter, basis: Basis) -> None:
        super().__init__(start)
        if not basis.directions or not basis.directions.keys() <= start.b.keys():
            raise AdapterError(
                "the basis has other layers or targets than the adapter; use the basis of this base model"
            )
        self.basis = basis
        self.theta = self._new(torch.zeros(len(basis), dtype=next(iter(start.b.values())).dtype))

    def _trains(self, site: str) -> bool:
        return site in self.basis.directions

    def _factors(self, site: str) -> tuple[Tensor, Tensor]:
        if not self._trains(site):
            return self.start.a[site], self.start.b[site]
        step = torch.tensordot(self.theta.detach(), self.basis.directions[site].to(self.theta.dtype), dims=1)
        return self.start.a[site], self.start.b[site] + step  # (out, rank)

    def _route(self, site: str) -> Any:
        directions = self.basis.directions[site].to(self.theta.dtype).flatten(1)  # (count, out * rank)

        def route(inputs: Tensor, projected: Tensor, upstream: Tensor) -> None:
            if self.summed:
                whole = (upstream.flatten(0, 1).t() @ projected.flatten(0, 1)).flatten()  # (out * rank,)
                gradient = directions @ whole
                self.theta.grad = gradient if self.theta.grad is None else self.theta.grad.add_(gradient)
            else:
                each = torch.bmm(upstream.transpose(1, 2), projected).flatten(1)  # (batch, out * rank)
                add_grad_sample(self.theta, each @ directions.t())

        return route


def trainable(kind: str, start: Adapter, *, model: nn.Module, basis: Basis | None = None) -> Trainable:
    """The parameters of `kind`, beginning at `start`.

    Args:
        kind: One of KINDS.
        start: The adapter to begin at; a fresh one, a public domain adapter, or the one in use.
        model: The base, without adapters (`xs` reads its weights).
        basis: Directions, for `basis` only.

    Raises:
        AdapterError: Unknown kind, or `basis` without directions.
    """
    if kind == "lora":
        return Lora(start)
    if kind == "frozen-a":
        return FrozenA(start)
    if kind == "xs":
        return Cores(start, model)
    if kind == "basis" and basis is not None:
        return Coefficients(start, basis)
    if kind == "basis":
        raise AdapterError("kind basis needs the directions that ship with the base; use kind xs where there are none")
    raise AdapterError(f"unknown adapter kind {kind!r}; choose one of {', '.join(KINDS)}")
