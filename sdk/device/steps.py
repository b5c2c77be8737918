"""What stands on the disk in, the one next step of an update out. Pure: the same sight always gives the same step.

    idle → fetch → rebuild (from a delta, else whole) → verify → staged → trial → commit
                                                                       ↘ give up

An update is not a program that runs from top to bottom but this function, asked again after every step. Whatever was
interrupted, and wherever, the next call sees how far it got and goes on from there; asked twice, it does nothing twice.
"""

from dataclasses import dataclass
from enum import Enum

__all__ = ["MAX_TRIES", "Seen", "Step", "next_step"]

MAX_TRIES = 3  # A trial that took the machine down with it leaves no verdict, only its count.


class Step(Enum):
    """What to do next."""

    FETCH_DELTA = "fetch the delta"
    REBUILD = "rebuild from the active bundle"
    FETCH_FILES = "fetch the files"
    ASSEMBLE = "put the files together"
    TRY = "try the new bundle"
    COMMIT = "switch to it"
    GIVE_UP = "give it up"
    DONE = "done"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """How far an update got, as the disk tells it."""

    wanted: str
    """SHA-256 of the manifest of the bundle that shall become active."""
    active: str
    """The same of the bundle that is."""
    staged: str | None = None
    """The same of the whole and verified bundle in the other slot."""
    delta: bool = False
    """Whether a delta from the active bundle is offered and has not failed."""
    delta_here: bool = False
    """Whether it is fetched."""
    files_here: bool = False
    """Whether all files that the active bundle lacks are fetched."""
    passed: bool | None = None
    """Verdict of the trial of what is staged; None: there is none yet."""
    tries: int = 0
    """Trials of it that were begun."""


def next_step(seen: Seen) -> Step:
    """The next step of an update."""
    if seen.active == seen.wanted:
        return Step.DONE
    if seen.staged == seen.wanted:
        if seen.passed is None:
            return Step.TRY if seen.tries < MAX_TRIES else Step.GIVE_UP
        return Step.COMMIT if seen.passed else Step.GIVE_UP
    if seen.delta:
        return Step.REBUILD if seen.delta_here else Step.FETCH_DELTA
    return Step.ASSEMBLE if seen.files_here else Step.FETCH_FILES
