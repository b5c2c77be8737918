"""The command `limbeck`: its groups, and what becomes of a refusal."""

import sys

import click

from personalize.errors import PersonalizeError
from privacy.errors import PrivacyError
from sdk.cli.adapter import adapter
from sdk.cli.ask import ask
from sdk.cli.build import build
from sdk.cli.chat import chat
from sdk.cli.demo import demo
from sdk.cli.device import device
from sdk.cli.oblivious import oblivious
from sdk.cli.person import forget, learn, remember, status
from sdk.cli.privacy import privacy
from sdk.cli.release import release
from sdk.cli.router import consent
from sdk.cli.serve import serve
from sdk.errors import SdkError

__all__ = ["cli", "main"]


@click.group()
@click.version_option(package_name="limbeck")
def cli() -> None:
    """Learn from one person on their own device: private, gated, reversible."""


for command in (
    demo,
    remember,
    forget,
    learn,
    ask,
    chat,
    serve,
    status,
    consent,
    adapter,
    privacy,
    build,
    release,
    device,
):
    cli.add_command(command)
cli.add_command(oblivious)


def main() -> None:
    """Run the command line; every refusal is one line on stderr and exit code 1, a wrong call is exit code 2."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.Abort:
        _refuse("stopped; what was admitted before still answers, what was reserved stays spent", code=130)
    except click.ClickException as wrong:
        wrong.show()
        sys.exit(wrong.exit_code)
    except (PersonalizeError, PrivacyError, SdkError) as refused:
        _refuse(str(refused))
    except BrokenPipeError:
        sys.exit(1)
    except OSError as refused:
        _refuse(f"{refused.strerror or refused}: {refused.filename or 'the disk or a file'}; nothing was admitted")


def _refuse(message: str, *, code: int = 1) -> None:
    click.echo(f"limbeck: {message}", err=True)
    sys.exit(code)


if __name__ == "__main__":  # For torchrun, which starts modules: torchrun … -m sdk.cli.app build distill …
    main()
