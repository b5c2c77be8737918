"""The choice of a release over signed catalogues and made-up devices: pure, so every case is a line."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk.catalogue import Catalogue, Release, Requirements, Rollout
from sdk.device.choose import Device, choose

DIGESTS = {number: f"{number:064x}" for number in range(1, 5)}


def release(number: int, *, per10k: int = 10_000, requires: Requirements | None = None) -> Release:
    return Release(
        version=str(number),
        sequence=number,
        manifest=DIGESTS[number],
        bytes=1,
        base_digest="sha256:" + DIGESTS[number],
        rollout=Rollout(salt=f"{number:016x}", per10k=per10k),
        requires=requires or Requirements(),
    )


def offered(*releases: Release, revoked: tuple[int, ...] = (), minimum: int = 0) -> Catalogue:
    return Catalogue(
        name="small",
        kind="base",
        releases=releases,
        revoked=tuple(DIGESTS[number] for number in revoked),
        minimum_sequence=minimum,
    )


DEVICE = Device(name="d", active=DIGESTS[1], sequence=1, failed=(), sdk="0.1.0", memory_mb=4_000, hardware="arm64")


def test_the_newest_release_that_reaches_the_device_is_taken() -> None:
    later = release(3, per10k=1)
    assert not later.rollout.reaches(DEVICE.name)
    assert choose(offered(later, release(2), release(1)), DEVICE).release == release(2)


def test_force_takes_what_the_rollout_has_not_reached_but_never_what_was_stopped() -> None:
    assert choose(offered(release(2, per10k=1), release(1)), DEVICE).why == "later"
    assert choose(offered(release(2, per10k=1), release(1)), DEVICE, force=True).release is not None
    assert choose(offered(release(2, per10k=0), release(1)), DEVICE, force=True).why == "stopped"


def test_nothing_older_is_taken_unless_the_active_one_was_revoked() -> None:
    device = replace(DEVICE, active=DIGESTS[3], sequence=3)
    assert choose(offered(release(2), release(1)), device).why == "newest"
    left = choose(offered(release(2, per10k=1), release(1), revoked=(3,)), device)
    assert (left.why, left.release) == ("leave", release(2, per10k=1))


def test_a_revoked_bundle_with_nothing_to_go_to_is_still_left() -> None:
    left = choose(offered(release(2, per10k=0), revoked=(1,)), DEVICE)
    assert (left.why, left.release) == ("leave", None)


def test_a_device_below_the_minimum_moves_whatever_its_bucket() -> None:
    assert choose(offered(release(2, per10k=1), release(1), minimum=2), DEVICE).why == "new"
    assert choose(offered(release(2, per10k=0), release(1), minimum=2), DEVICE).why == "stopped"


def test_what_failed_here_is_not_tried_again() -> None:
    assert choose(offered(release(2), release(1)), replace(DEVICE, failed=(DIGESTS[2],))).why == "failed"


@pytest.mark.parametrize(
    "wanted",
    [Requirements(sdk="0.2.0"), Requirements(memory_mb=8_000), Requirements(hardware=("x86_64",))],
)
def test_a_device_that_does_not_suit_is_told_why(wanted: Requirements) -> None:
    choice = choose(offered(release(2, requires=wanted), release(1)), DEVICE, force=True)
    assert choice.why == "unsuited"
    assert any(word in choice.words for word in ("0.2.0", "8000", "x86_64"))


def test_a_bundle_from_the_factory_has_no_place_in_the_order() -> None:
    device = replace(DEVICE, active="", sequence=0)
    assert choose(offered(release(1)), device).why == "new"
    assert choose(offered(), device).why == "nothing"


@given(st.text(min_size=1), st.integers(0, 9_999), st.integers(0, 10_000))
def test_a_larger_share_never_loses_a_device(name: str, small: int, more: int) -> None:
    device = replace(DEVICE, name=name)
    share = min(10_000, small + more)
    if choose(offered(release(2, per10k=small), release(1)), device).release:
        assert choose(offered(release(2, per10k=share), release(1)), device).release


def test_a_thousand_devices_are_reached_by_their_share() -> None:
    reached = [
        choose(offered(release(2, per10k=2_500), release(1)), replace(DEVICE, name=str(number))).release is not None
        for number in range(1_000)
    ]
    assert 200 < sum(reached) < 300  # 25 %, 3.7 standard deviations.
