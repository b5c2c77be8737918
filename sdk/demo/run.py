"""The demo's choices in; one night lived, measured and put on a page out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from personalize.home import Home
from personalize.learner import require_policy
from personalize.plan import NightPlan
from sdk.build.package import open_base
from sdk.demo.night import NightResult, run
from sdk.demo.page import write_page
from sdk.demo.person import Source, open_person

__all__ = ["demo"]

Progress = Callable[[str, int, int], None]


def demo(
    source: Source,
    *,
    home: Path | None = None,
    epsilon: float = 2.0,
    delta: float = 1e-5,
    nights: int = 1,
    full: bool = False,
    report: Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> NightResult:
    """Run the demo in a new home of its own inside `home`.

    Args:
        source: Whose text.
        home: The person's home; what is in it is not touched.
        epsilon: Budget of a night for each record, above 0 and at most the lifetime budget.
        delta: Probability, at most the policy's.
        nights: Wall-clock blocks.
        full: All records and probes.
        report: Where the page goes; default: beside the demo's home.
        progress: Told what is done now.

    Raises:
        SourceError, TrainingError, SdkError, PersonalizeError, PrivacyError: Refused or failed, in one line.
    """
    plan = replace(NightPlan(), epsilon=epsilon, delta=delta)
    require_policy(plan)
    person = open_person(source)  # Before anything costly: a wrong source is refused at once.
    place = _new_home(Home.open(home))
    bundle = open_base(progress=lambda step, done: progress(step, round(100 * done), 100))
    result = run(bundle, person, plan, home=place, full=full, nights=nights, progress=progress)
    page = report or place / "report.html"
    result |= {"home": str(place), "report": str(page.absolute())}
    write_page(result, page)
    return result


def _new_home(home: Home) -> Path:
    demos = home.path / "demos"
    demos.mkdir(mode=0o700, exist_ok=True)
    taken = [int(folder.name) for folder in demos.iterdir() if folder.name.isdigit()]
    place = demos / str(max(taken, default=0) + 1)
    place.mkdir(mode=0o700)
    return place
