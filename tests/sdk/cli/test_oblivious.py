"""The commands of who runs relay and gateway; the processes themselves run in tests/flows/test_fallback.py."""

import json
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from sdk.cli.app import cli
from sdk.device.oblivious.key_configurations import parse
from sdk.errors import CloudError, KeyConfigurationError, ObliviousError


def told(*arguments: str) -> str:
    done = CliRunner().invoke(cli, ["oblivious", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_keys_are_made_shown_and_rotated(tmp_path: Path) -> None:
    file, public = str(tmp_path / "keys"), tmp_path / "public"
    made = json.loads(told("keys", file, "--json"))["keys"]
    assert json.loads(told("keys", file, "--json"))["keys"] == made  # Shown, not made again.
    rotated = json.loads(told("keys", file, "--rotate", "--kem", "p256", "--public", str(public), "--json"))["keys"]
    assert [one["pin"] for one in rotated[1:]] == [made[0]["pin"]]
    assert rotated[1]["until"]
    assert [one.pin for one in parse(public.read_bytes())] == [one["pin"] for one in rotated]
    assert f"pin {rotated[0]['pin']}" in told("keys", file)


def test_nginx_is_configured_for_the_gateway() -> None:
    words = told("relay", "--gateway", "https://gateway.example", "--nginx")
    assert "proxy_pass https://gateway.example/.well-known/ohttp-gateway;" in words
    assert json.loads(told("relay", "--gateway", "https://gateway.example", "--nginx", "--json")) == {
        "configuration": words
    }


@pytest.mark.parametrize(
    ("arguments", "error", "why"),
    [
        (["relay", "--gateway", "http://gateway.example", "--nginx"], CloudError, "unencrypted"),
        (["gateway", "--target", "https://cloud.example", "--keys", "none"], KeyConfigurationError, "cannot be read"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(arguments: list[str], error: type[CloudError], why: str) -> None:
    done = CliRunner().invoke(cli, ["oblivious", *arguments])
    assert isinstance(done.exception, error)
    assert why in str(done.exception)


def test_a_port_in_use_is_refused_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = CliRunner().invoke(cli, ["oblivious", "relay", "--gateway", "https://gateway.example", "--port", port])
    assert isinstance(done.exception, ObliviousError)
    assert "choose another" in str(done.exception)
