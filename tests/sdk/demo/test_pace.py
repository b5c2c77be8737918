"""A slower machine takes less text; all of it is taken only when that was asked for."""

from itertools import pairwise

from sdk.demo.pace import FAIR, QUICK, Pace


def test_a_slower_machine_never_takes_more() -> None:
    paces = [Pace.of_speed(speed) for speed in (1.0, FAIR, QUICK, 5000.0)]
    for slow, fast in pairwise(paces):
        for part in ("public_people", "public_records", "train_records", "test_records", "probes_per_leg"):
            assert getattr(slow, part) <= getattr(fast, part)


def test_the_full_pace_takes_every_record_and_probe() -> None:
    assert (Pace().train_records, Pace().test_records, Pace().probes_per_leg) == (None, None, None)
