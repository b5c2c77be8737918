"""What the way by relay and gateway costs a device: milliseconds of sealing and opening, and bytes added.

python -m tests.bench.oblivious
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from sdk.device.oblivious.binary_http import Request, Response, decode, encode, size_class
from sdk.device.oblivious.encapsulation import open_request, seal_request
from sdk.device.oblivious.key_configurations import chosen
from sdk.device.oblivious.key_file import KeyFile, rotate
from sdk.device.oblivious.suites import KEMS

ROUNDS = 200


def milliseconds(work: Callable[[], object]) -> float:
    """Median of ROUNDS runs."""
    took = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        work()
        took.append((time.perf_counter() - begun) * 1000)
    return median(took)


def main() -> None:
    """Print one line a kind of key, and one a size of question."""
    now = datetime.now(UTC)
    request = Request(method="POST", scheme="https", authority="cloud.example", path="/v1/chat", content=b"x" * 300)
    plain = encode(request, padded_to=size_class(len(encode(request))))
    answer = encode(Response(status=200, content=b"x" * 900), padded_to=4096)
    with TemporaryDirectory() as folder:
        for kem in KEMS:
            path = Path(folder) / kem
            rotate(path, kem=kem, overlap=timedelta(0), now=now)
            keys = KeyFile(path).opening(now)
            configuration, algorithm = chosen([key.configuration for key in keys.values()])
            sealed = seal_request(configuration, algorithm, plain)
            asked = open_request(sealed.request, keys)
            response = asked.seal(answer)
            figures = {
                "seal": milliseconds(lambda: seal_request(configuration, algorithm, plain)),  # noqa: B023
                "open": milliseconds(lambda: open_request(sealed.request, keys)),  # noqa: B023
                "seal answer": milliseconds(lambda: asked.seal(answer)),  # noqa: B023
                "open answer": milliseconds(lambda: sealed.open(response)),  # noqa: B023
            }
            words = ", ".join(f"{name} {value:.2f} ms" for name, value in figures.items())
            print(
                f"{kem:<7} {words}; adds {len(sealed.request) - len(plain)} bytes, {len(response) - len(answer)} back"
            )
    write, read = milliseconds(lambda: encode(request)), milliseconds(lambda: decode(plain))
    print(f"binary HTTP: write {write:.3f} ms, read {read:.3f} ms")
    for size in (100, 1000, 3000, 10_000, 40_000):
        content = Request(
            method="POST", scheme="https", authority="cloud.example", path="/v1/chat", content=b"x" * size
        )
        length = len(encode(content))
        print(f"question of {size} bytes: {size_class(length)} sealed, {size_class(length) / size:.1f} times as long")


if __name__ == "__main__":
    main()
