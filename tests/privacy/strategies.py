"""Events as hypothesis draws them: a seed in, plausible facts out."""

from hypothesis import strategies as st

from privacy.events import DpSgdRun, Event, GateRelease, GaussianRelease, LaplaceRelease

__all__ = ["events", "extreme_events"]

_noise = st.floats(0.4, 50.0)


def events() -> st.SearchStrategy[Event]:
    """Any mechanism under the default unit and neighbours."""
    return st.one_of(
        st.builds(
            DpSgdRun,
            noise_multiplier=_noise,
            sampling_rate=st.sampled_from([0.001, 0.01, 0.064, 0.3, 0.9, 1.0]),
            steps=st.integers(1, 500),
        ),
        st.builds(GaussianRelease, noise_multiplier=_noise, count=st.integers(1, 20)),
        st.builds(GateRelease, noise_multiplier=_noise, count=st.integers(1, 5)),
        st.builds(LaplaceRelease, scale=st.floats(0.5, 100.0), count=st.integers(1, 20)),
    )


def extreme_events() -> st.SearchStrategy[Event]:
    """Any sampled or full run that can be written at all, however odd."""
    return st.builds(
        DpSgdRun,
        noise_multiplier=st.floats(1e-3, 1e9),
        sampling_rate=st.floats(1e-12, 1.0),
        steps=st.integers(1, 10**12),
    ) | st.builds(LaplaceRelease, scale=st.floats(1e-3, 1e9), count=st.integers(1, 10**12))
