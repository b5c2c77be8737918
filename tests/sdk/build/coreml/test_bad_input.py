"""What is wrong with a package, a contract or a student is said in one line, and how to go on."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from personalize.adapter import AdapterSpec, fresh
from sdk.build.coreml import convert as conversion
from sdk.build.coreml.adapters import arrays_of_adapter
from sdk.build.coreml.contract import DECODE, Contract, contract_of
from sdk.build.coreml.conversation import Conversation
from sdk.build.coreml.convert import Plan, laid_out
from sdk.build.coreml.encoding import encodings_of
from sdk.build.coreml.execute import Session
from sdk.build.coreml.families import parts_of
from sdk.build.coreml.layout import Cache, NeuralEngineDecoder, Shape
from sdk.build.coreml.origin import Origin
from sdk.build.coreml.program import Package
from sdk.build.coreml.student import Student
from sdk.errors import CompressionError, ConversionError, PackageError
from tests.sdk.build.coreml.compiled import family, plain
from tests.sdk.build.coreml.test_execute import converted, model_of
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def relu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of one operation, without a contract of ours."""
    folder = tmp_path_factory.mktemp("relu") / "x.mlpackage"
    converted(nn.ReLU().eval(), torch.randn(1, 4, 1, 4), "iOS18", folder)
    return folder


def one_line(error: type[Exception], words: str, call: Callable[[], Any]) -> None:
    with pytest.raises(error, match=words) as refused:
        call()
    assert "\n" not in str(refused.value)


def contract() -> Contract:
    parts = parts_of(tiny_model(layers=1))
    decoder = NeuralEngineDecoder(parts, Shape(context=32, positions=1, cache=Cache.ARRAYS))
    return contract_of(parts, {DECODE: decoder}, base_digest="none")


def test_contracts_of_another_format_or_damaged_are_refused() -> None:
    text = contract().to_json()
    one_line(PackageError, "convert again", lambda: Contract.parse(text.replace("contract/1", "contract/9")))
    for bad in ("{", "[]", json.dumps({"format": "coreml-contract/1"})):
        one_line(PackageError, "contract cannot be read", partial(Contract.parse, bad))


def test_an_adapter_for_a_package_without_slots_is_refused() -> None:
    adapter = fresh(tiny_model(layers=1), AdapterSpec(layers=(0,), rank=2), fits_base="none")
    one_line(PackageError, "takes no adapter", lambda: arrays_of_adapter(adapter, contract()))


def test_packages_of_others_answer_no_prompt_and_have_none_of_our_constants(relu: Path) -> None:
    one_line(PackageError, "only packages of", lambda: Conversation.open(relu))
    one_line(PackageError, "has no constant head", lambda: Session(Package.open(relu)).constant("head"))


def test_a_package_without_its_tokenizer_says_so(relu: Path) -> None:
    made = contract()
    conversation = Conversation(
        session=Session(Package.open(relu)), contract=made, adapter={}, embedding=torch.zeros(320, 32)
    )
    one_line(PackageError, "carries no tokenizer", conversation.tokenizer)


def damaged(relu: Path, folder: Path, change: Callable[[Any], None]) -> Path:
    """A copy of the package whose program was changed."""
    copy = Path(shutil.copytree(relu, folder / "copy.mlpackage"))
    spec = Package.open(copy).spec
    change(spec)
    model_of(copy).write_bytes(spec.SerializeToString())
    return copy


def _block(spec: Any) -> Any:
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    return block


def _undefined(spec: Any) -> None:
    _block(spec).operations[-1].inputs["x"].arguments[0].name = "nobody"


def _never_computed(spec: Any) -> None:
    _block(spec).outputs[0] = "nobody"


def _no_block(spec: Any) -> None:
    spec.mlProgram.functions["main"].opset = "CoreML99"


def _no_function(spec: Any) -> None:
    spec.mlProgram.functions.clear()


def _other_kind(spec: Any) -> None:
    spec.neuralNetwork.SetInParent()


def _elsewhere(spec: Any) -> None:
    operation = _block(spec).operations[0]
    operation.attributes["val"].blobFileValue.fileName = "@model_path/../../secret.bin"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_undefined, "nobody, which nothing defines"),
        (_never_computed, "output nobody of main is never computed"),
        (_no_block, "no block for CoreML99"),
        (_no_function, "has no function"),
        (_other_kind, "only ML Programs run here"),
        (_elsewhere, "outside the package"),
    ],
)
def test_a_program_that_cannot_be_is_refused(
    change: Callable[[Any], None], words: str, relu: Path, tmp_path: Path
) -> None:
    copy = damaged(relu, tmp_path, change)
    one_line(PackageError, words, lambda: Package.open(copy))


def test_a_manifest_that_leads_out_of_the_package_is_refused(relu: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(relu, tmp_path / "copy.mlpackage"))
    manifest = json.loads((copy / "Manifest.json").read_text())
    manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = "../../secret.mlmodel"
    (copy / "Manifest.json").write_text(json.dumps(manifest))
    one_line(PackageError, "names a model outside itself", lambda: Package.open(copy))


def test_damaged_lines_of_origin_are_refused(relu: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(relu, tmp_path / "copy.mlpackage"))
    package = Package.open(copy)
    package.extra("lines.json").parent.mkdir(parents=True)
    package.extra("lines.json").write_text("{")
    one_line(PackageError, "convert the student again", lambda: Origin.of(package, package.function()))


def test_students_that_have_no_layout_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = family("qwen2")
    model.config.model_type = "mamba"
    one_line(ConversionError, "the families are llama", lambda: parts_of(model))
    capped = family("gemma3")
    capped.config.final_logit_softcapping = 30.0
    one_line(ConversionError, "train without the caps", lambda: parts_of(capped))
    odd = tiny_model(layers=1)
    odd.config.hidden_act = "relu"
    one_line(ConversionError, "activation relu has no Core ML layout", lambda: parts_of(odd))
    parts = parts_of(tiny_model(layers=1))
    one_line(ConversionError, "4 adapted layers were asked for", lambda: laid_out(parts, Plan()))
    monkeypatch.setattr(conversion, "MAX_DIMENSION", 32)
    one_line(ConversionError, "64 channels .* distil it narrower", lambda: laid_out(parts, replace_layers(1)))


def replace_layers(count: int) -> Plan:
    return replace(Plan(context=32), adapter_layers=count)


def test_folders_that_hold_no_student_or_damaged_codes_are_refused(tmp_path: Path) -> None:
    folder = plain(tmp_path / "student", layers=1)
    (folder / "encoding.safetensors").write_bytes(b"\0" * 40)
    one_line(CompressionError, "compress the student again", lambda: encodings_of(folder))
    (folder / "config.json").write_text('{"model_type": "nothing"}')
    one_line(ConversionError, "cannot be read as a model", lambda: Student.open(folder))
