"""A service in, its address while a block runs out."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sdk.device.oblivious.service import Service


@contextmanager
def served(service: Service) -> Iterator[str]:
    """Serve in a thread until the block ends."""
    thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield service.url
    finally:
        service.shutdown()
        service.server_close()
        thread.join()
