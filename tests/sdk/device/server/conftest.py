"""One tiny model with room for a conversation, behind one server, for all tests that ask it."""

from collections.abc import Iterator

import pytest

from sdk.build.checkpoint import save_checkpoint
from sdk.bundle import CHECKPOINT, Bundle, write_manifest
from sdk.device.server.limits import Limits
from sdk.device.server.listen import running
from sdk.device.server.local import Local
from tests.tiny import tiny_model, tiny_tokenizer


@pytest.fixture(scope="session")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tiny base with a context of 2,048 tokens."""
    folder = tmp_path_factory.mktemp("roomy") / "bundle"
    model = tiny_model(layers=2)
    model.config.max_position_embeddings = 2048
    save_checkpoint(model, tiny_tokenizer(), folder / CHECKPOINT)
    return write_manifest(folder, name="tiny", version="0", base_id="tiny", licence="Apache-2.0", origin="random")


@pytest.fixture(scope="session")
def local(roomy: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Local:
    return Local.open(tmp_path_factory.mktemp("home"), bundle=roomy)


@pytest.fixture(scope="session")
def url(local: Local) -> Iterator[str]:
    with running(local, limits=Limits(per_minute=100_000)) as url:
        yield url
