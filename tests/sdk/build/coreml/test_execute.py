"""The interpreter runs packages that plain coremltools made, and says what is wrong with broken ones."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdk.build.coreml import execute
from sdk.build.coreml.constants import DENSE
from sdk.build.coreml.contract import DECODE
from sdk.build.coreml.conversation import Conversation
from sdk.build.coreml.execute import Session
from sdk.build.coreml.layout import Cache
from sdk.build.coreml.library import coremltools, quiet
from sdk.build.coreml.operations import OPERATIONS
from sdk.build.coreml.program import Package
from sdk.build.coreml.weight_file import array_of
from sdk.errors import PackageError, UnknownOperationError
from tests.sdk.build.coreml.compiled import compiled


class Residual(nn.Module):
    """A block as of ResNet: strided convolution, batch norm, pools, linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)
        self.second, self.pool, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.MaxPool2d(3, 2, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.norm(self.first(x))))
        x = x + torch.relu(self.second(x))
        found: Tensor = self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return found


class Inverted(nn.Module):
    """A block as of MobileNet: depthwise convolution, hard swish, squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.deep = nn.Conv2d(4, 16, 1), nn.Conv2d(16, 16, 5, padding=2, groups=16)
        self.gate, self.narrow = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.relu6(self.deep(nn.functional.hardswish(self.wide(x))))
        found: Tensor = x + self.narrow(h * torch.sigmoid(self.gate(h.mean((2, 3), keepdim=True))))
        return found


class Hourglass(nn.Module):
    """A block as of a U-Net: group norm, transposed convolution, nearest resize, concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1)
        self.norm = nn.GroupNorm(2, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.gelu(self.norm(self.down(x)))
        return torch.cat((self.up(h), nn.functional.interpolate(h, scale_factor=2, mode="nearest"), x), 1)


class Vision(nn.Module):
    """A block as of a vision transformer: patches, class token, fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, 32, 4, stride=4), nn.Parameter(torch.randn(1, 1, 32))
        self.norm, self.qkv, self.out = nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((self.token, self.patch(x).flatten(2).transpose(1, 2)), 1)
        q, k, v = self.qkv(self.norm(x)).reshape(1, 17, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(1, 17, 32)
        found: Tensor = (x + self.out(mixed))[:, 0]
        return found


class Text(nn.Module):
    """Embedding, 1-D convolution, log-softmax: integers in."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(50, 16), nn.Conv1d(16, 16, 3, padding=1), nn.Linear(16, 50)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids).transpose(1, 2)
        return torch.log_softmax(self.head((torch.tanh(self.mix(x)) * torch.sigmoid(x)).transpose(1, 2)), -1)


def bert() -> nn.Module:
    """A layer of transformers' BERT."""
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertLayer

    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "attn_implementation": "eager",
    }
    layer = BertLayer(BertConfig(**sizes))

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Any:
            found = self.layer(x)
            return found[0] if isinstance(found, tuple) else found

    return First()


FOREIGN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "residual": (Residual, (1, 3, 32, 32), "iOS18"),
    "inverted": (Inverted, (1, 4, 9, 9), "iOS16"),
    "hourglass": (Hourglass, (1, 4, 8, 8), "iOS17"),
    "vision": (Vision, (1, 3, 16, 16), "iOS18"),
    "text": (Text, (1, 9), "iOS16"),
    "bert": (bert, (1, 7, 32), "iOS18"),
}


def converted(model: nn.Module, example: Tensor, system: str, path: Path) -> Package:
    """What plain ct.convert makes of a model."""
    library = coremltools()
    kind = np.float32 if example.is_floating_point() else np.int32
    with quiet(), torch.no_grad():
        trace = torch.jit.trace(model, example, check_trace=False)
        made = library.convert(
            trace,
            inputs=[library.TensorType("x", tuple(example.shape), dtype=kind)],
            minimum_deployment_target=getattr(library.target, system),
            skip_model_load=True,
        )
        made.save(str(path))
        del made
    return Package.open(path)


@pytest.mark.parametrize("name", list(FOREIGN))
def test_packages_of_plain_coremltools_give_what_torch_gives(name: str, tmp_path: Path) -> None:
    make, size, system = FOREIGN[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().eval()
        example = torch.randint(0, 50, size) if name == "text" else torch.randn(size)
    package = converted(model, example, system, tmp_path / "x.mlpackage")
    given = {"x": example if example.is_floating_point() else example.int()}
    with torch.no_grad():
        wanted = model(example)
    (found,) = Session(package).run(given).values()
    (rounded,) = Session(package, precision="declared").run(given).values()
    assert (found - wanted).abs().max() <= 2e-3 * wanted.abs().max()  # Weights are float16.
    assert (rounded - wanted).abs().max() <= 1e-2 * wanted.abs().max()


def test_overflow_is_found_at_its_operation_and_not_where_there_is_none(tmp_path: Path) -> None:
    class Naive(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.rsqrt((x * x).mean(1, keepdim=True) + 1e-5)

    package = converted(Naive(), torch.randn(1, 8, 1, 4), "iOS18", tmp_path / "x.mlpackage")
    for peak, kinds in ((22_552.0, {"overflow"}), (2.0, set())):
        states = torch.ones(1, 8, 1, 4)
        states[0, 0] = peak
        session = Session(package, precision="declared", watch=True)
        session.run({"x": states})
        assert {finding.kind for finding in session.findings} == kinds
        assert all(finding.operation in ("mul", "square", "reduce_mean") for finding in session.findings)


def test_our_own_layout_neither_overflows_nor_makes_nan() -> None:
    made = compiled("packed", Cache.STATE)
    conversation = Conversation.open(made.package, precision="declared", watch=True)
    list(conversation.write([5, 17, 40, 99], 4))
    assert {finding.kind for finding in conversation.session.findings} <= {"subnormal"}


def test_an_unknown_operation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {kind: run for kind, run in OPERATIONS.items() if kind != "silu"}
    monkeypatch.setattr(execute, "OPERATIONS", known)
    with pytest.raises(UnknownOperationError, match="operation silu"):
        Conversation.open(compiled("packed", Cache.STATE).package).read([5])


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A copy of a package, to be damaged."""
    return Path(shutil.copytree(compiled("packed", Cache.STATE).package, tmp_path / "broken.mlpackage"))


def model_of(folder: Path) -> Path:
    return next(folder.rglob("model.mlmodel"))


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.999])
def test_a_truncated_program_is_refused_in_one_line(broken: Path, kept: float) -> None:
    whole = model_of(broken).read_bytes()
    model_of(broken).write_bytes(whole[: int(kept if kept in (0, 1, 100) else kept * len(whole))])
    with pytest.raises(PackageError) as refused:
        Conversation.open(broken).read([5])
    assert "\n" not in str(refused.value)


def test_missing_and_short_weights_are_refused_in_one_line(broken: Path) -> None:
    weights = next(broken.rglob("weight.bin"))
    content = weights.read_bytes()
    for damaged in (content[: len(content) // 2], content[:10], b"\0" * len(content)):
        weights.write_bytes(damaged)
        with pytest.raises(PackageError, match=r"weight\.bin"):
            Conversation.open(broken)
    weights.unlink()
    with pytest.raises(PackageError, match=r"weight\.bin are missing"):
        Conversation.open(broken)


def test_a_newer_specification_and_a_missing_manifest_are_refused(broken: Path) -> None:
    spec = Package.open(broken).spec
    spec.specificationVersion = 99
    model_of(broken).write_bytes(spec.SerializeToString())
    with pytest.raises(PackageError, match="specification 99"):
        Package.open(broken)
    (broken / "Manifest.json").unlink()
    with pytest.raises(PackageError, match=r"no \.mlpackage"):
        Package.open(broken)


def test_inputs_of_another_size_or_missing_and_unknown_functions_are_refused() -> None:
    session = Session(Package.open(compiled("packed", Cache.STATE).package))
    with pytest.raises(PackageError, match="is missing"):
        session.run({}, function=DECODE)
    first = session.package.function(DECODE).inputs[0].name
    with pytest.raises(PackageError, match=r"has size \(1, 2\)"):
        session.run({first: torch.zeros(1, 2)}, function=DECODE)
    with pytest.raises(PackageError, match="no function train"):
        session.run({}, function="train")
    with pytest.raises(PackageError, match="precision"):
        Session(session.package, precision="int8")


def test_a_state_updated_in_place_is_a_state_updated_by_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    package = compiled("packed", Cache.STATE).package
    quick = Conversation.open(package)
    tokens = list(quick.write([5, 17, 40, 99], 12))
    steps = quick.session._ready[DECODE][0]
    assert sum(step.in_place for step in steps) == 4  # Keys and values of two layers.
    monkeypatch.setattr(execute, "_seen_elsewhere", lambda *arguments: True)
    slow = Conversation.open(package)
    assert list(slow.write([5, 17, 40, 99], 12)) == tokens
    assert torch.equal(slow.session.states["keys"], quick.session.states["keys"])


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6])
def test_packed_bits_are_read_from_the_lowest_upwards(bits: int) -> None:
    values = [(7 * step) % 2**bits for step in range(19)]
    whole = sum(value << (bits * at) for at, value in enumerate(values))
    raw = whole.to_bytes(-(-19 * bits // 8), "little")
    assert array_of(raw, f"uint{bits}", (19,)).tolist() == values
    with pytest.raises(PackageError, match="bytes where"):
        array_of(raw[:-1], f"uint{bits}", (19,))


def test_negative_four_bit_values_are_read_in_twos_complement() -> None:
    assert array_of(bytes([0x8F, 0x07]), "int4", (3,)).tolist() == [-1, -8, 7]


def test_compressed_constants_follow_their_definitions() -> None:
    """By hand, from the formulas in coremltools' iOS 18 compression operations."""
    half = np.float16
    data = np.array([[0, 15], [3, 8]], np.uint8)
    scale, offset = np.array([[2], [0.5]], half), np.array([[1], [3]], np.uint8)
    (dense,) = DENSE["constexpr_blockwise_shift_scale"]({"data": data, "scale": scale, "offset": offset}, (2, 2))
    assert dense.tolist() == [[-2, 28], [0, 2.5]]
    lut = np.array([1, 2, 3, 4, 10, 20, 30, 40], half).reshape(2, 1, 4, 1)  # A palette of four for each row.
    (dense,) = DENSE["constexpr_lut_to_dense"]({"indices": np.array([[0, 3], [1, 2]]), "lut": lut}, (2, 2))
    assert dense.tolist() == [[1, 4], [20, 30]]
    vectors = np.array([1, 2, 3, 4], half).reshape(1, 1, 2, 2)  # Two entries of two components along axis 0.
    given = {"indices": np.array([[0, 1]]), "lut": vectors, "vector_axis": np.array(0)}
    assert DENSE["constexpr_lut_to_dense"](given, (2, 2))[0].tolist() == [[1, 3], [2, 4]]
    mask = np.array([[1, 0], [0, 1]], np.uint8)
    (dense,) = DENSE["constexpr_sparse_to_dense"]({"mask": mask, "nonzero_data": np.array([5, 6], half)}, (2, 2))
    assert dense.tolist() == [[5, 0], [0, 6]]
    given = {
        "quantized_data": data,
        "zero_point": np.array([1, 3], np.uint8),
        "scale": np.array([2, 0.5], half),
        "axis": np.array(0),
    }
    assert DENSE["constexpr_affine_dequantize"](given, (2, 2))[0].tolist() == [[-2, 28], [0, 2.5]]
    with pytest.raises(PackageError, match="sparse constant has 1 values for 2 places"):
        DENSE["constexpr_sparse_to_dense"]({"mask": mask, "nonzero_data": np.array([5], half)}, (2, 2))
    wrong = np.ones((2, 3), half)
    with pytest.raises(PackageError, match="do not divide"):
        DENSE["constexpr_blockwise_shift_scale"]({"data": data, "scale": wrong}, (2, 2))
