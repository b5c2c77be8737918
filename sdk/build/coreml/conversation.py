"""A compiled student's package and tokens in, tokens out: contract.json's order of calls, run by the interpreter."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sdk.build.coreml.adapters import arrays_of_adapter, load_adapter
from sdk.build.coreml.contract import DECODE, PREFILL, Contract
from sdk.build.coreml.execute import Session
from sdk.build.coreml.feed import arrays_of, no_adapter
from sdk.build.coreml.layout import Cache
from sdk.build.coreml.program import Package
from sdk.errors import PackageError

__all__ = ["Conversation"]


@dataclass
class Conversation:
    """One conversation with a compiled student."""

    session: Session
    contract: Contract
    adapter: Mapping[str, Tensor]
    """Adapter inputs of every call."""
    embedding: Tensor = field(repr=False)
    """Shape (vocabulary, width), float32."""
    position: int = 0
    """Positions in the cache."""
    _cache: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def open(
        cls, folder: Path, *, adapter: Path | None = None, precision: str = "fp32", watch: bool = False
    ) -> "Conversation":
        """Open a package that `build coreml` made.

        Raises:
            PackageError: Not such a package, damaged, or without slots for the adapter.
            BaseMismatchError: The adapter was learned on another base.
        """
        package = Package.open(folder)
        contract_file = package.extra("contract.json")
        if not contract_file.is_file():
            raise PackageError(f"{folder} has no contract.json: only packages of `limbeck build coreml` answer prompts")
        contract = Contract.parse(contract_file.read_text(encoding="utf-8"))
        session = Session(package, precision=precision, watch=watch)
        arrays = arrays_of_adapter(load_adapter(adapter, contract), contract) if adapter else {}
        return cls(
            session=session,
            contract=contract,
            adapter=arrays or no_adapter(contract, DECODE),
            embedding=_embedding(session, contract),
        )

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer that travels in the package.

        Raises:
            PackageError: It has none.
        """
        folder = self.session.package.extra("contract.json").parent
        if not (folder / "tokenizer.json").is_file():
            raise PackageError(f"{self.session.package.folder} carries no tokenizer; convert a student that has one")
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
        return tokenizer

    def read(self, tokens: Sequence[int]) -> Tensor:
        """Take tokens in; the logits after the last of them, shape (vocabulary,).

        Raises:
            PackageError: They pass the cache.
        """
        if not tokens or self.position + len(tokens) > self.contract.context:
            raise PackageError(
                f"{self.position + len(tokens)} positions do not fit a cache of {self.contract.context}; shorten the "
                "prompt or convert with a larger --context"
            )
        piece = self.contract.prefill_positions if PREFILL in self.contract.functions else 1
        logits = torch.empty(0)
        for start in range(0, len(tokens), piece):
            part = list(tokens[start : start + piece])
            logits = self._call(DECODE if len(part) == 1 else PREFILL, part)
        return logits

    def write(self, tokens: Sequence[int], count: int, *, stop: frozenset[int] = frozenset()) -> Iterator[int]:
        """Read `tokens`, then yield up to `count` likeliest next ones; a token of `stop` ends it and is not yielded."""
        logits = self.read(tokens)
        for written in range(count):
            token = int(logits.argmax())
            if token in stop:
                return
            yield token
            if written + 1 < count:
                logits = self.read([token])

    def _call(self, function: str, part: list[int]) -> Tensor:
        arrays = arrays_of(self.contract, function, self.embedding[part], start=self.position) | dict(self.adapter)
        if self.contract.cache is Cache.ARRAYS:
            for name in ("keys", "values"):
                size = self.contract.functions[function]["inputs"][name]
                arrays[name] = self._cache.setdefault(name, torch.zeros(size))
        outputs = self.session.run(arrays, function=function)
        if self.contract.cache is Cache.ARRAYS:
            columns = slice(self.position, self.position + len(part))
            for name in ("keys", "values"):
                self._cache[name][..., columns] = outputs[f"new_{name}"][..., : len(part)]
        self.position += len(part)
        chunks = sorted((name for name in outputs if name.startswith("logits_")), key=lambda name: int(name[7:]))
        return torch.cat([outputs[name].reshape(-1) for name in chunks])


def _embedding(session: Session, contract: Contract) -> Tensor:
    if not contract.tied:
        return load_file(session.package.extra("embedding.safetensors"))["embedding"].float()
    parts = [session.constant(name, function=DECODE) for name in contract.head]
    return torch.cat([part.reshape(len(part), -1) for part in parts])
