"""A repository and options of `git log` in; the fields it prints out, one by one.

Rules: only the installed `git` is run, only to read, and a repository is data of a stranger. So nothing in its
configuration may start a program (monitors, hooks, signature checks, diff drivers), nothing may be fetched, and the
user's own configuration and variables do not count.
"""

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Generator
from pathlib import Path
from typing import IO

from personalize.errors import SourceError

__all__ = ["git_log"]

MAX_SECONDS = 120.0  # A million commits take about 20; longer means a broken disk or a hostile repository.
MAX_FIELD_BYTES = 64 * 1024  # Longer fields are cut: a commit message of this size is a pasted file.
CHUNK_BYTES = 1 << 16

_CONFIGURATION = {
    "safe.directory": "*",  # The user named this folder, also when another account owns it; for this call only.
    "protocol.allow": "never",  # A partial clone would fetch what it lacks.
    "core.fsmonitor": "false",  # A program that a repository can name.
    "core.hooksPath": os.devnull,  # More of them.
    "log.showSignature": "false",  # Would start the gpg program that the repository names.
    "log.showRoot": "true",  # The first commit has files too.
}
_OPTIONS = (
    *("-z", "--encoding=UTF-8", "--no-color", "--no-merges", "--use-mailmap"),
    *("--no-renames", "--no-relative", "--no-ext-diff", "--no-textconv", "--no-show-signature"),
)
_NO_COMMITS = ("does not have any commits", "bad revision 'HEAD'", "ambiguous argument 'HEAD'", "bad default revision")


def git_log(folder: Path, *options: str) -> Generator[str]:
    """Yield the null-terminated fields of `git log -z --no-merges` with `options`, newest commit first.

    Raises:
        SourceError: No `git`, no repository, no commits, or it takes longer than MAX_SECONDS.
    """
    if not folder.is_dir():
        kind = "is a file" if folder.is_file() else "does not exist"
        raise SourceError(f"{folder} {kind}; give the folder of a git repository")
    program = shutil.which("git")
    if program is None:
        raise SourceError("git is not installed or not on the PATH; install it, or give a mail, JSONL or text file")
    command = [program, "--no-pager", "-C", str(folder), "log", *_OPTIONS, *options, "HEAD", "--"]
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints, env=_environment()
        )
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        watch = threading.Timer(MAX_SECONDS, stop)
        watch.daemon = True
        watch.start()
        try:
            if process.stdout is not None:
                with process.stdout as output:
                    yield from _fields(output)
            code = process.wait()
        finally:
            watch.cancel()
            process.kill()  # The reader may have had enough before the end.
            process.wait()
        if late.is_set():
            raise SourceError(
                f"git took more than {MAX_SECONDS:.0f} seconds to read {folder}; give a shallow clone of it"
            )
        if code:
            complaints.seek(0)
            raise SourceError(_in_plain_words(folder, complaints.read(4096).decode("utf-8", "replace")))


def _fields(output: IO[bytes]) -> Generator[str]:
    """Cut a stream at null bytes, holding at most one field of limited length."""
    field = b""
    while chunk := output.read(CHUNK_BYTES):
        *ended, rest = chunk.split(b"\0")
        for part in ended:
            yield (field + part)[:MAX_FIELD_BYTES].decode("utf-8", "replace")
            field = b""
        field = (field + rest)[:MAX_FIELD_BYTES]


def _environment() -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith("GIT_")}
    settings = {"GIT_CONFIG_COUNT": str(len(_CONFIGURATION))}
    for index, (name, value) in enumerate(_CONFIGURATION.items()):
        settings |= {f"GIT_CONFIG_KEY_{index}": name, f"GIT_CONFIG_VALUE_{index}": value}
    return (
        inherited
        | settings
        | {
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_TERMINAL_PROMPT": "0",
        }
    )


def _in_plain_words(folder: Path, complaint: str) -> str:
    if "not a git repository" in complaint:
        return f"{folder} is not a git repository; give the folder that holds .git"
    if any(words in complaint for words in _NO_COMMITS):
        return f"{folder} has 0 commits; give a repository with commits"
    first = next((line for line in complaint.splitlines() if line.strip()), "no reason given")
    return f"git cannot read {folder} ({first.removeprefix('fatal: ')}); check it with `git -C {folder} fsck`"
