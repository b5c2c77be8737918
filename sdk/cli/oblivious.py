"""The commands of who runs the way to the cloud: a gateway's keys, a gateway, a relay."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdk.cli.options import answer, json_option
from sdk.cli.signals import stop_when_asked

if TYPE_CHECKING:
    from sdk.device.oblivious.service import Service

__all__ = ["oblivious"]

host_option = click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")


@click.group()
def oblivious() -> None:
    """Run the way to the cloud that keeps apart who asks and what is asked (Oblivious HTTP)."""


@oblivious.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--rotate", is_flag=True, help="Make a new key the first; made anew anyhow where there is no file.")
@click.option("--kem", type=click.Choice(["x25519", "p256", "p384", "p521", "x448"]), default="x25519",
              show_default=True, help="Kind of the new key.")  # fmt: skip
@click.option("--overlap-days", type=click.FloatRange(0, 365), default=14.0, show_default=True,
              help="How long the keys before still open requests.")  # fmt: skip
@click.option("--public", type=click.Path(path_type=Path, dir_okay=False), help="Write the public keys to this file.")
@json_option
def keys(file: Path, rotate: bool, kem: str, overlap_days: float, public: Path | None, as_json: bool) -> None:
    """Make, rotate or show the private keys of a gateway, and the pins that devices are given."""
    from sdk.device.oblivious import key_file
    from sdk.device.oblivious.key_configurations import serialise

    now = datetime.now(UTC)
    if rotate or not file.exists():
        stored = key_file.rotate(file, kem=kem, overlap=timedelta(days=overlap_days), now=now)
    else:
        stored = key_file.read_keys(file)
    opening = [one for one in stored if one.opens_at(now)]
    if public:
        public.write_bytes(serialise(one.key.configuration for one in opening))
    facts = [
        {
            "id": one.key.configuration.key_id,
            "pin": one.key.configuration.pin,
            "made": one.made.isoformat(timespec="seconds"),
            "until": one.until.isoformat(timespec="seconds") if one.until else None,
        }
        for one in opening
    ]
    lines = [f"key {one['id']:<3} pin {one['pin']}  until {one['until'] or 'it is rotated'}" for one in facts]
    answer({"file": str(file), "keys": facts}, "\n".join(lines), as_json=as_json)


@oblivious.command()
@click.option("--target", "targets", multiple=True, required=True, help="Address that may be asked; can be repeated.")
@click.option("--keys", "key_path", type=click.Path(path_type=Path, dir_okay=False), required=True,
              help="Its private keys; read again when they change.")  # fmt: skip
@click.option("--key-file", type=click.Path(path_type=Path, dir_okay=False),
              help="File with the target's key, so that no device needs one. [LIMBECK_CLOUD_KEY]")  # fmt: skip
@host_option
@click.option("--port", type=click.IntRange(0, 65535), default=8470, show_default=True, help="0 takes a free one.")
@click.option("--window", type=click.FloatRange(1, 3600), default=300.0, show_default=True,
              help="Seconds that a request's date may be off.")  # fmt: skip
@json_option
def gateway(
    targets: tuple[str, ...],
    key_path: Path,
    key_file: Path | None,
    host: str,
    port: int,
    window: float,
    as_json: bool,
) -> None:
    """Open sealed requests that a relay brings, and ask the target for them. Logs no request; Ctrl-C ends it."""
    from sdk.device.cloud import read_key
    from sdk.device.oblivious.gateway import Gateway
    from sdk.device.oblivious.key_configurations import GATEWAY_PATH
    from sdk.device.oblivious.key_file import KeyFile
    from sdk.device.oblivious.service import Service

    made = Gateway(KeyFile(key_path), targets, key=read_key(key_file), window_seconds=window)
    service = Service(host, port, made.handle)
    url = f"{service.url}{GATEWAY_PATH}"
    _serve(service, {"address": url, "targets": list(targets)}, f"gateway at {url}", as_json=as_json)
    click.echo("; ".join(f"{why}: {count}" for why, count in sorted(made.outcomes.items())) or "nothing came", err=True)


@oblivious.command()
@click.option("--gateway", "gateway_url", required=True, help="Address of the gateway, without its path.")
@click.option("--nginx", is_flag=True, help="Print the configuration of an nginx relay instead of being one.")
@host_option
@click.option("--port", type=click.IntRange(0, 65535), default=8471, show_default=True, help="0 takes a free one.")
@json_option
def relay(gateway_url: str, nginx: bool, host: str, port: int, as_json: bool) -> None:
    """Bring sealed requests to a gateway without saying whose they are: for trials; --nginx is for earnest."""
    from sdk.device.oblivious.relay import Relay, nginx_configuration
    from sdk.device.oblivious.service import Service

    if nginx:
        text = nginx_configuration(gateway_url)
        answer({"configuration": text}, text.rstrip("\n"), as_json=as_json)
        return
    service = Service(host, port, Relay(gateway_url).handle)
    _serve(service, {"address": service.url}, f"relay at {service.url}", as_json=as_json)


def _serve(service: "Service", facts: dict[str, Any], words: str, *, as_json: bool) -> None:
    """Say where it is, and serve until somebody asks to stop."""
    answer(facts, words, as_json=as_json)
    service.timeout = 0.2
    with stop_when_asked() as asked:
        while not asked():
            service.handle_request()
    service.server_close()
