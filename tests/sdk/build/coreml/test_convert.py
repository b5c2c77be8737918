"""A package says what torch says: both caches, packed weights bit for bit, adapters as inputs."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from personalize.adapter import Adapter, AdapterSpec, attached, fresh
from personalize.errors import BaseMismatchError
from sdk.build.compress import SCHEMES
from sdk.build.coreml import convert as conversion
from sdk.build.coreml.contract import DECODE
from sdk.build.coreml.conversation import Conversation
from sdk.build.coreml.convert import Plan, convert
from sdk.build.coreml.encoded import Encoded
from sdk.build.coreml.encoding import encodings_of
from sdk.build.coreml.execute import Session
from sdk.build.coreml.layout import Cache
from sdk.build.coreml.library import coremltools, quiet
from sdk.build.coreml.origin import Origin
from sdk.build.coreml.placed import encode, saved
from sdk.build.coreml.program import Package
from sdk.build.coreml.student import Student
from sdk.errors import ConversionError, PackageError
from tests.sdk.build.coreml.compiled import PLAN, compiled, student

PROMPT = [5, 17, 40, 99, 310, 7, 12, 13, 200, 31, 6]
WRITTEN = 50


def learned(base_digest: str, model: torch.nn.Module, *, rank: int = 3, layers: tuple[int, ...] = (1,)) -> Adapter:
    """An adapter that clearly changes what is written."""
    adapter = fresh(model, AdapterSpec(layers=layers, rank=rank), fits_base=base_digest)
    generator = torch.Generator().manual_seed(3)
    b = {site: 0.3 * torch.randn(value.shape, generator=generator) for site, value in adapter.b.items()}
    return replace(adapter, b=b)


def torch_tokens(model: torch.nn.Module, count: int) -> list[int]:
    tokens = list(PROMPT)
    with torch.no_grad():
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(PROMPT) :]


@pytest.mark.parametrize(("form", "cache"), [("packed", Cache.STATE), ("plain", Cache.ARRAYS)])
def test_greedy_tokens_are_those_of_torch_with_and_without_an_adapter(form: str, cache: Cache, tmp_path: Path) -> None:
    made, opened = compiled(form, cache), Student.open(student(form))
    bare = torch_tokens(opened.model, WRITTEN)
    assert list(Conversation.open(made.package).write(PROMPT, WRITTEN)) == bare
    adapter = learned(opened.base_digest, opened.model)
    adapter.save(tmp_path / "adapter")
    with attached(opened.model, adapter):
        wanted = torch_tokens(opened.model, WRITTEN)
    assert wanted != bare
    assert list(Conversation.open(made.package, adapter=tmp_path / "adapter").write(PROMPT, WRITTEN)) == wanted


def test_the_packed_grid_is_in_the_package_bit_for_bit() -> None:
    package = Package.open(compiled("packed", Cache.STATE).package)
    session, weights = Session(package), Student.open(student("packed")).model.state_dict()
    checked = 0
    for index in range(2):
        for owner, names in (("self_attn", "qkvo"), ("mlp", ("gate", "up", "down"))):
            for short in names:
                tensor = weights[f"model.layers.{index}.{owner}.{short}_proj.weight"]
                name = f"layers_{index}_maps_{short}_proj_weight_encoded"
                assert torch.equal(session.constant(name, function=DECODE)[:, :, 0, 0], tensor)
                checked += 1
    kinds = [op.kind for op in package.function(DECODE).operations if op.kind.startswith("constexpr")]
    assert kinds == ["constexpr_blockwise_shift_scale"] * (checked + 1)  # And the head.
    assert torch.equal(Conversation.open(package.folder).embedding, weights["model.embed_tokens.weight"])


def test_codes_are_stored_in_four_bits_with_their_zeros() -> None:
    function = Package.open(compiled("packed", Cache.STATE).package).function(DECODE)
    sizes = {out.name: out for op in function.operations for out in op.outputs}
    encoded = next(
        op for op in function.operations if op.kind.startswith("constexpr") and "q_proj" in op.outputs[0].name
    )
    types = {}
    for parameter in ("data", "offset", "scale"):
        value = encoded.attributes.get(parameter) or encoded.inputs[parameter][0]
        types[parameter] = sizes[value.name].dtype if hasattr(value, "name") else value.dtype
    assert types == {"data": "uint4", "offset": "uint4", "scale": "float16"}


def test_a_weight_off_its_grid_is_not_packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(checkpoint: Path) -> dict[str, Encoded]:
        found = encodings_of(checkpoint)
        name = "model.layers.0.mlp.up_proj.weight"
        codes = found[name].codes.clone()
        codes[0, 0] = (codes[0, 0] + 1) % 16
        return found | {name: replace(found[name], codes=codes)}

    monkeypatch.setattr(conversion, "encodings_of", shifted)
    with pytest.raises(ConversionError, match=r"up_proj\.weight is not on its grid any more"):
        convert(student("packed"), tmp_path / "x.mlpackage", PLAN)
    assert not (tmp_path / "x.mlpackage").exists()


def test_every_scheme_is_in_a_package_bit_for_bit(tmp_path: Path) -> None:
    """One map a scheme, read back by the interpreter: the constants are the values that torch computes with."""

    class Maps(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.maps = torch.nn.ModuleDict({name: torch.nn.Conv2d(64, 32, 1, bias=False) for name in names})

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return tuple(self.maps[name](x) for name in names)

    names = {scheme.replace("-", "_"): scheme for scheme in SCHEMES}
    generator = torch.Generator().manual_seed(0)
    codes = {name: SCHEMES[scheme](torch.randn(32, 64, generator=generator)) for name, scheme in names.items()}
    library = coremltools()
    with quiet(), torch.no_grad():
        trace = torch.jit.trace(Maps(), torch.zeros(1, 64, 1, 1), check_trace=False)
        program = library.convert(
            trace,
            inputs=[library.TensorType("x", (1, 64, 1, 1))],
            minimum_deployment_target=library.target.iOS18,
            convert_to="milinternal",
        )
        encode(program, {f"maps.{name}.weight": encoded for name, encoded in codes.items()})
        saved(program, tmp_path / "x.mlpackage")
    session = Session(Package.open(tmp_path / "x.mlpackage"))
    for name, encoded in codes.items():
        assert torch.equal(session.constant(f"maps_{name}_weight_encoded")[:, :, 0, 0], encoded.values()), name


def test_functions_share_their_weights() -> None:
    made = compiled("plain", Cache.ARRAYS)
    weights = made.package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    with safe_open(student("plain") / "model.safetensors", framework="pt") as file:
        numbers = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118 - not a dict.
    assert 2 * numbers <= weights.stat().st_size <= 2.6 * numbers  # float16 once, not twice; records of 64 bytes.


def test_the_contract_says_where_an_embedding_row_stands_in_the_weight_file() -> None:
    made = compiled("plain", Cache.ARRAYS)
    weights = (made.package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin").read_bytes()
    contract = json.loads(Package.open(made.package).extra("contract.json").read_text())
    place = contract["embedding"][0]["rows"]["val"]
    row = torch.frombuffer(bytearray(weights[place["first_byte"] :][: place["bytes"]]), dtype=torch.float16)
    wanted: Tensor = Student.open(student("plain")).model.model.embed_tokens.weight
    assert torch.equal(row.view(place["size"][0], -1)[17], wanted[17].half())


def test_every_declared_array_is_in_the_package_and_no_other() -> None:
    for made in (compiled("packed", Cache.STATE), compiled("plain", Cache.ARRAYS)):
        package = Package.open(made.package)
        for name, arrays in made.contract.functions.items():
            function = package.function(name)
            assert {given.name: given.size for given in function.inputs} == dict(arrays["inputs"])
            assert {state.name: state.size for state in function.states} == dict(arrays["states"])
            assert set(function.outputs) == set(arrays["outputs"])


def test_operations_know_their_torch_line() -> None:
    lines = json.loads(Package.open(compiled("packed", Cache.STATE).package).extra("lines.json").read_text())
    assert any("layers.1" in place and "layout.py" in place for place in lines[DECODE].values())
    package = Package.open(compiled("packed", Cache.STATE).package)
    function = package.function(DECODE)
    origin = Origin.of(package, function)
    for operation, block in zip(function.operations, origin.blocks, strict=True):
        for output in operation.outputs:  # A name that another numbering of the trace gave would lead elsewhere.
            if operation.kind == "conv":
                (weight,) = operation.inputs["weight"]
                owner = re.match(r"(layers)_(\d+)|(head)", getattr(weight, "name", ""))
                assert owner
                assert block == (f"layers.{owner[2]}" if owner[1] else "head")
                assert "conv.py" in origin.lines[output.name]
    here = str(Path(__file__).parents[4])  # Where the sources stand on this machine.
    assert all(here not in place and not place.startswith("/") for place in lines[DECODE].values())


def test_wrong_adapters_are_refused_with_what_to_do(tmp_path: Path) -> None:
    made, opened = compiled("packed", Cache.STATE), Student.open(student("packed"))
    cases = {
        "rank": (learned(opened.base_digest, opened.model, rank=5), PackageError, "--adapter-rank 5"),
        "layer": (learned(opened.base_digest, opened.model, layers=(0, 1)), PackageError, "takes layers 1"),
        "base": (learned("sha256:" + "0" * 64, opened.model), BaseMismatchError, "learned on base"),
    }
    for name, (adapter, error, words) in cases.items():
        adapter.save(tmp_path / name)
        with pytest.raises(error, match=words):
            Conversation.open(made.package, adapter=tmp_path / name)


def test_more_positions_than_the_cache_are_refused() -> None:
    conversation = Conversation.open(compiled("packed", Cache.STATE).package)
    with pytest.raises(PackageError, match="65 positions do not fit a cache of 64"):
        conversation.read([5] * 65)


def test_a_package_that_differs_from_torch_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "TOLERANCE", 1e-9)
    made = compiled("plain", Cache.ARRAYS)
    shutil.copytree(made.package, tmp_path / "copy.mlpackage")
    with pytest.raises(ConversionError, match="differs from torch by"):
        conversion.difference(Conversation.open(tmp_path / "copy.mlpackage"), Student.open(student("plain")).model)


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"context": 100}, "multiple of 32"), ({"prefill_positions": 1}, "prefill"), ({"adapter_rank": 0}, "rank")],
)
def test_plans_that_cannot_be_are_refused(fields: dict[str, int], words: str) -> None:
    with pytest.raises(ConversionError, match=words):
        Plan(**fields)  # type: ignore[arg-type]


def test_an_existing_package_a_wrong_name_and_a_foreign_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="must end in \\.mlpackage and not exist"):
        convert(student("plain"), compiled("plain", Cache.ARRAYS).package, PLAN)
    with pytest.raises(ConversionError, match="must end in"):
        convert(student("plain"), tmp_path / "model", PLAN)
    with pytest.raises(ConversionError, match=r"has no config\.json"):
        convert(tmp_path, tmp_path / "x.mlpackage", PLAN)
