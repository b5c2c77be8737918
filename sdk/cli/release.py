"""The release managers' commands: keys, changes, signatures, publication; devices see nothing that too few signed."""

import click

from sdk.cli.release_keys import init, keygen, rotate
from sdk.cli.release_offers import add, delta, revoke, rollout
from sdk.cli.release_signing import bundle, publish, sign
from sdk.cli.release_state import status, verify

__all__ = ["release"]


@click.group()
def release() -> None:
    """Sign and publish models, the way an operating system's updates are."""


for command in (keygen, init, add, sign, publish, rollout, revoke, rotate, delta, bundle, status, verify):
    release.add_command(command)
