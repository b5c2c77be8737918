"""A student's folder in, one .aimodel for Core AI (iOS 27, macOS 27) out, run here before it is kept.

The second exporter, of the same layout: cache and adapters are inputs, weights float16. Core AI's own CPU runtime runs
the asset on Linux too, so it is a second opinion on the layout that owes our interpreter nothing. Needs the extra
`coreai`. The contract that Core ML packages carry stands in the asset's metadata, under `limbeck`.

(1) lay prefill and decode out with the cache as arrays, in float16;
(2) export each by torch.export and convert both into one asset;
(3) let Core AI's runtime read a few tokens, and compare with torch: an asset that differs is not left.
"""

import asyncio
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from sdk.build.coreml.contract import DECODE, Contract, contract_of
from sdk.build.coreml.conversation import Conversation
from sdk.build.coreml.convert import Plan, difference, laid_out
from sdk.build.coreml.execute import Session
from sdk.build.coreml.families import parts_of
from sdk.build.coreml.feed import no_adapter
from sdk.build.coreml.layout import Cache, NeuralEngineDecoder
from sdk.build.coreml.student import Student
from sdk.errors import ConversionError, PackageError

__all__ = ["AssetReport", "convert_for_core_ai", "opened"]

METADATA, CUSTOM = "limbeck", "creator_defined_metadata"


@dataclass(frozen=True, kw_only=True)
class AssetReport:
    """What was made."""

    asset: Path
    bytes: int
    difference: float
    """Largest difference of a logit from torch, as a share of the largest logit, over a few tokens on Core AI's CPU."""
    contract: Contract


def convert_for_core_ai(
    student: Path, out: Path, plan: Plan | None = None, *, progress: Callable[[str, int, int], None] | None = None
) -> AssetReport:
    """Compile a student for Core AI.

    Args:
        student: Folder of a bundle or checkpoint.
        out: Where the asset goes; must not exist, must end in .aimodel.
        plan: Sizes; its cache must be arrays, and it learns nothing. None for the defaults.
        progress: Told what is done.

    Raises:
        ConversionError: The extra is not installed, sizes do not fit, or the asset differs from torch; nothing is left.
    """
    plan, told = plan or Plan(cache=Cache.ARRAYS), progress or (lambda what, done, total: None)
    if out.suffix != ".aimodel" or out.exists():
        raise ConversionError(f"{out} must end in .aimodel and not exist yet; remove it or choose another name")
    if plan.cache is not Cache.ARRAYS or plan.learns:
        raise ConversionError("Core AI takes the cache as arrays, and has no learning functions here")
    _require_library()
    told("read the student", 0, 3)
    student_opened = Student.open(student)
    parts = parts_of(student_opened.model)
    decoders = laid_out(parts, plan)
    contract = contract_of(parts, decoders, base_digest=student_opened.base_digest)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".coreai-") as work, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export and coreai-torch speak of their own versions and internals.
        told("convert", 1, 3)
        staged = Path(work) / out.name
        _program(decoders).save_asset(staged, metadata=_metadata(contract))
        told("compare with torch", 2, 3)
        with opened(staged, parts.embedding.half().float()) as conversation:
            off = difference(conversation, student_opened.model)
        staged.rename(out)
    told("done", 3, 3)
    return AssetReport(
        asset=out,
        bytes=sum(file.stat().st_size for file in out.rglob("*") if file.is_file()),
        difference=off,
        contract=contract,
    )


@contextmanager
def opened(asset: Path, embedding: Tensor, adapter: Mapping[str, Tensor] | None = None) -> Iterator[Conversation]:
    """A conversation with an asset of ours, run by Core AI's CPU runtime inside a `with` block.

    Args:
        asset: Folder that convert_for_core_ai made.
        embedding: The student's, (vocabulary, width).
        adapter: Adapter inputs by name (sdk.build.coreml.adapters); None for none.

    Raises:
        ConversionError: The extra is not installed, or the asset is not ours.
    """
    _require_library()
    from coreai.authoring import AIModelAsset

    try:
        loaded = AIModelAsset.load(asset)
        found = loaded.metadata
        # Core AI is in beta: its stubs have the second name, 1.0.0b3 has the first.
        kept = found.creator_defined_metadata if hasattr(found, CUSTOM) else found.custom_metadata
        contract = Contract.parse(kept[METADATA])
    except (PackageError, KeyError, ValueError, TypeError, RuntimeError, OSError) as cause:
        raise ConversionError(f"{asset} is no asset of `limbeck build coreai` ({cause!r:.100})") from cause
    with asyncio.Runner() as runner:
        running = loaded.executable()
        model = runner.run(running.__aenter__())
        try:
            yield Conversation(
                session=cast(
                    Session, _Runtime(runner=runner, model=model)
                ),  # What a conversation calls of it is `run`.
                contract=contract,
                adapter=adapter or no_adapter(contract, DECODE),
                embedding=embedding,
            )
        finally:
            runner.run(running.__aexit__(None, None, None))


@dataclass(frozen=True)
class _Runtime:
    """Core AI's runtime, called as our interpreter is."""

    runner: asyncio.Runner
    model: Any

    def run(self, inputs: Mapping[str, Tensor], *, function: str) -> dict[str, Tensor]:
        """Call a function once; outputs by name, float32."""
        return self.runner.run(self._run(inputs, function))

    async def _run(self, inputs: Mapping[str, Tensor], function: str) -> dict[str, Tensor]:
        from coreai.runtime import NDArray

        called = self.model.load_function(function)
        wanted = {name: NDArray(inputs[name].half().contiguous().numpy()) for name in called.desc.input_names}
        outputs = await called(wanted)
        return {name: torch.from_numpy(value.numpy().copy()).float() for name, value in outputs.items()}


def _program(decoders: Mapping[str, NeuralEngineDecoder]) -> Any:
    from coreai_torch import TorchConverter, get_decomp_table

    converter = TorchConverter()
    for name, decoder in decoders.items():
        halved = decoder.half()
        examples = tuple(torch.zeros(size, dtype=torch.float16) for size in decoder.inputs.values())
        exported = torch.export.export(halved, args=examples).run_decompositions(get_decomp_table())
        converter.add_exported_program(
            exported, input_names=list(decoder.inputs), output_names=decoder.outputs, entrypoint_name=name
        )
    return converter.to_coreai()


def _metadata(contract: Contract) -> Any:
    from coreai.runtime import AIModelAssetMetadata

    made = AIModelAssetMetadata()
    made.set_custom(METADATA, contract.to_json())
    return made


def _require_library() -> None:
    try:
        import coreai_torch  # noqa: F401 - only whether it is there.
    except ImportError as cause:
        raise ConversionError("Core AI needs the extra: pip install 'limbeck[coreai]'") from cause
