"""A night's number and a share's place in, the level of its test out: how a home's one chance of error is spent.

The gate asks several questions of one candidate (the legs), several candidates a night (the shares alpha), and all that
night after night. Only some of this needs a correction:

- Legs: none. A candidate passes only where every leg says yes, and a harmful one is harmful on at least one leg, whose
  test errs with its own level at most (intersection-union test, Berger 1982). More legs make the gate stricter.
- Shares: owed. Each share tried is one more candidate that may pass by luck. A night's level is halved from share to
  share.
- Nights: owed. A home that learns for years would admit something harmful by luck one day. Night k gets the share
  6 / (pi k)^2 of the lifetime level; over all nights these add up to 1, so no horizon has to be known.

Both sequences are public and fixed in advance. The sum is a union bound: it holds however the nights depend on one
another.
"""

import math

__all__ = ["LIFETIME_LEVEL", "level_of"]

LIFETIME_LEVEL = 0.05
"""Chance that a home ever admits an adapter whose true drop on some leg is at the margin or beyond, for candidates that
were made without knowing the probes."""


def level_of(*, look: int, place: int, shares: int, lifetime: float = LIFETIME_LEVEL) -> float:
    """The one-sided level of the tests of one share on one night.

    Args:
        look: Which time this home's gate is used, from 1; public, because nights and their number are.
        place: Place of the share in the order in which shares are tried, from 0.
        shares: How many may be tried, ≥ 1.
        lifetime: Level over all nights and shares, in (0, 1).

    Returns:
        Level in (0, lifetime).

    Raises:
        ValueError: An argument is out of range.

    Source: Bonferroni's inequality; the sum of 1 / k^2 is pi^2 / 6 (Euler). The halving is 1/2, 1/4, …, and the last
    share gets as much as the one before it.
    """
    if look < 1 or not 0 <= place < shares or not 0 < lifetime < 1:
        raise ValueError(f"out of range: look {look}, place {place} of {shares}, lifetime level {lifetime}")
    tonight = lifetime * 6.0 / (math.pi * look) ** 2
    return tonight * 2.0 ** -min(place + 1, shares - 1)
