"""Ways to learn from a stream of nights in, the error each leaves at equal lifetime epsilon of a record out.

Compared: block DP-GD (a record is read in one night), matrix factorisation (noise that is correlated over nights, so
that it cancels in running totals; a record is read in `uses` nights, `apart` nights between) and the naive composition
of as many nights with independent noise. Every plan is calibrated by the accountant that the ledger enforces.

(1) The noise each needs. (2) The noise in the mean of all records so far: in closed form, and measured with real noise.
(3) A linear model trained night by night with clipping, on a person who stays the same and one who changes.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from privacy import noise
from privacy.accounting import epsilon as cost
from privacy.accounting import noise_multiplier
from privacy.events import DpSgdRun, Event, MatrixFactorisationRun
from privacy.matrix_factorisation import correlate, mean_square_error, sensitivity
from tests.figures import show, table

EPSILONS = (1.0, 2.0, 4.0)
DELTA = 1e-5
NIGHTS, RECORDS, NUMBERS = 64, 32, 16  # Of the linear model: its nights, records a night, and parameters.
USES, APART = 4, 8
PEOPLE = 64  # Independent repetitions; the first half chooses the settings, the second half is reported.
RATES = tuple(0.125 * 2**power for power in range(8))  # Choices at either end would say that the grid is too short.
HALF_LIFE_NIGHTS = 16  # Of the tastes of the person who changes.
TIE = 2.0  # Standard errors inside which nobody is called the winner.

Vector = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How often a record is read, and how the noise of different nights is related."""

    name: str
    uses: int = 1
    """Sums that one record takes part in."""
    apart: int = 0
    """Nights between two of them; 0: all in the same night."""
    every: int = 1
    """Nights that are gathered into one block before it is read."""
    bands: int = 0
    """Correlated noise with so many bands; 0: independent noise."""

    def sums(self, night: int) -> list[list[int]]:
        """Return the noisy sums of `night`: for each the nights whose records take part."""
        if (night + 1) % self.every:
            return []
        if self.apart == 0:
            return [list(range(night + 1 - self.every, night + 1))] * self.uses
        return [list(range(night, max(night - self.uses * self.apart, -1), -self.apart))]

    def life(self, noise_std: float, nights: int) -> Event:
        """Return what the whole life of one record is charged as."""
        if self.bands == 0:
            return DpSgdRun(noise_multiplier=noise_std, sampling_rate=1.0, steps=self.uses)
        return MatrixFactorisationRun(noise_multiplier=noise_std, steps=nights, **self._shape)

    @property
    def _shape(self) -> dict[str, Any]:
        return {"bands": self.bands, "min_separation": self.apart, "max_participations": self.uses}

    def noise_std(self, epsilon: float, nights: int) -> float:
        """Return the std of each independent draw (in clip norms) with which a record's life costs `epsilon`.

        Raises:
            RuntimeError: The accountant does not agree: a bug in this bench.
        """
        steps = self.uses if self.bands == 0 else 1
        std = noise_multiplier(epsilon=epsilon, delta=DELTA, sampling_rate=1.0, steps=steps)
        if self.bands:
            std *= sensitivity(steps=nights, **self._shape)
        spent = cost(self.life(std, nights), delta=DELTA, accountant="rdp")
        if not 0.995 * epsilon < spent <= epsilon * (1 + 1e-9):
            raise RuntimeError(f"{self.name}: a life costs {spent:.4f}, not {epsilon:g}")
        return std

    def relative_noise(self, nights: int) -> Vector:
        """Return for each night the std of the mean of all records so far, at std 1 and one record a night.

        Infinite before anything was published.
        """
        sums = np.array([len(self.sums(night)) for night in range(nights)])
        reads = np.array([sum(map(len, self.sums(night))) for night in range(nights)])
        variance = np.cumsum(row_norms(nights, self.bands) if self.bands else sums.astype(float))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(np.cumsum(reads) > 0, np.sqrt(variance) / np.cumsum(reads), np.inf)

    def draws(self, std: float, nights: int, shape: tuple[int, ...]) -> Iterator[Vector]:
        """Yield the noise of one sum after the other, by the generator that training uses."""
        count = sum(len(self.sums(night)) for night in range(nights))
        independent = iter(std * noise.gaussian((count, *shape)).numpy())
        return correlate(independent, self.bands, nights) if self.bands else independent


def row_norms(nights: int, bands: int) -> Vector:
    """Return what each night adds to the variance of the running total, at noise std 1."""
    impulse = (np.array([float(night == 0)]) for night in range(nights))
    totals: Vector = np.cumsum(np.concatenate(list(correlate(impulse, bands, nights))))
    return totals * totals


def best_bands(nights: int, uses: int, apart: int) -> int:
    """Return the number of bands with the least mean error of running totals."""
    shape = {"steps": nights, "min_separation": apart, "max_participations": uses}
    choices = sorted({min(2**power, nights) for power in range(1, 10)} | {min(apart, nights)})
    return min(choices, key=lambda bands: mean_square_error(bands=bands, **shape))


def plans(nights: int, uses: int, apart: int) -> list[Plan]:
    """Return what is compared; the first is what the product does."""
    return [
        Plan(name="block, once"),
        Plan(name=f"block of {uses} nights, once", every=uses),
        Plan(name=f"naive, {uses} uses", uses=uses, apart=apart),
        Plan(name="matrix, once", apart=nights, bands=best_bands(nights, 1, nights)),
        Plan(name=f"matrix, {uses} uses", uses=uses, apart=apart, bands=best_bands(nights, uses, apart)),
    ]


# (2) The mean of all records so far


def expected_errors() -> list[dict[str, Any]]:
    """Return the noise in the mean of all records so far against block DP-GD: after the last night, and on average."""
    found = []
    for nights, (uses, apart) in itertools.product((16, 64, 365), ((2, 8), (4, 4), (4, 8), (8, 4))):
        if uses * apart > nights:
            continue
        compared = plans(nights, uses, apart)
        errors = {plan.name: plan.noise_std(2.0, nights) * plan.relative_noise(nights) for plan in compared}
        block = errors[compared[0].name]
        for plan in compared:
            error = errors[plan.name]
            found.append(
                {
                    "nights": nights,
                    "uses": uses,
                    "apart": apart,
                    "plan": plan.name,
                    "bands": plan.bands,
                    "last_night": float(error[-1] / block[-1]),
                    "mean_of_nights": float(error.mean() / block.mean()),
                }
            )
    return found


def measured_over_expected(epsilon: float, people: int = 400) -> dict[str, float]:
    """Draw the stream's noise as training does; return its RMSE after the last night over that of the closed form."""
    found = {}
    for plan in plans(NIGHTS, USES, APART):
        std = plan.noise_std(epsilon, NIGHTS)
        total = np.sum(list(plan.draws(std, NIGHTS, (people, NUMBERS))), axis=0)
        reads = sum(sum(map(len, plan.sums(night))) for night in range(NIGHTS))
        measured = math.sqrt(float((total * total).mean())) / reads
        found[plan.name] = measured / (std * float(plan.relative_noise(NIGHTS)[-1]))
    return found


# (3) A linear model


@dataclass(frozen=True, kw_only=True)
class World:
    """People with linear tastes, and what they wrote."""

    inputs: Vector
    """Shape (people, nights, records, numbers), each of norm 1."""
    answers: Vector
    """Shape (people, nights, records)."""
    tastes: Vector
    """Shape (people, nights, numbers)."""


def make_world(rng: np.random.Generator, *, half_life_nights: float | None) -> World:
    """Draw tastes that stay, or that are forgotten at a half-life, and noisy answers by them."""
    keep = 1.0 if half_life_nights is None else 0.5 ** (1 / half_life_nights)
    tastes = rng.normal(size=(PEOPLE, NIGHTS, NUMBERS))
    for night in range(1, NIGHTS):
        tastes[:, night] = keep * tastes[:, night - 1] + math.sqrt(1 - keep * keep) * tastes[:, night]
    inputs = rng.normal(size=(PEOPLE, NIGHTS, RECORDS, NUMBERS))
    inputs /= np.linalg.norm(inputs, axis=-1, keepdims=True)
    answers = np.einsum("pnrd,pnd->pnr", inputs, tastes) + 0.3 * rng.normal(size=inputs.shape[:-1])
    return World(inputs=inputs, answers=answers, tastes=tastes)


def train(plan: Plan, world: World, *, rate: float, std: float) -> Vector:
    """Learn night by night from clipped sums (clip norm 1); return the excess risk, shape (people, nights).

    1 is the risk of who knows nothing. The risk of a night is taken after it was learned.
    """
    weights = np.zeros((PEOPLE, NUMBERS))
    risk = np.empty((PEOPLE, NIGHTS))
    draws = plan.draws(std, NIGHTS, (PEOPLE, NUMBERS)) if std else itertools.repeat(np.zeros(1))
    for night in range(NIGHTS):
        for cohorts in plan.sums(night):
            inputs = world.inputs[:, cohorts].reshape(PEOPLE, -1, NUMBERS)  # (people, records of all cohorts, numbers)
            answers = world.answers[:, cohorts].reshape(PEOPLE, -1)
            missed = answers - (inputs @ weights[:, :, None])[:, :, 0]
            total = (np.clip(missed, -1, 1)[:, None, :] @ inputs)[:, 0]  # Inputs have norm 1, so this clips gradients.
            weights = weights + rate * (total + next(draws)) / RECORDS
        error = weights - world.tastes[:, night]
        risk[:, night] = (error * error).mean(axis=1)
    return risk


def tuned(
    plan_of: Callable[[int], Plan], bands: Sequence[int], world: World, epsilon: float | None
) -> dict[str, float]:
    """Choose rate and bands on one half of the people; return the mean risk over all nights of the other half."""
    best, reported = math.inf, np.zeros(1)
    for width, rate in itertools.product(bands, RATES):
        plan = plan_of(width)
        with np.errstate(over="ignore", invalid="ignore"):  # Too large a rate may diverge; it is not chosen.
            std = plan.noise_std(epsilon, NIGHTS) if epsilon else 0.0
            risk = train(plan, world, rate=rate, std=std).mean(axis=1)  # (people,)
        if risk[: PEOPLE // 2].mean() < best:
            best, reported = float(risk[: PEOPLE // 2].mean()), risk[PEOPLE // 2 :]
            chosen = {"rate": rate, "bands": float(width)}
    error = float(reported.std(ddof=1) / math.sqrt(len(reported)))
    return {"risk": float(reported.mean()), "standard_error": error, **chosen}


def learned(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return the mean risk of every plan, person and epsilon."""
    wide = tuple(sorted({2, 8, best_bands(NIGHTS, 1, NIGHTS)}))
    narrow = tuple(sorted({2, 4, best_bands(NIGHTS, USES, APART)}))
    rivals: dict[str, tuple[Callable[[int], Plan], Sequence[int]]] = {
        "block, once": (lambda _: Plan(name="block, once"), (0,)),
        f"block, {USES} steps a night": (lambda _: Plan(name="steps", uses=USES), (0,)),
        f"block of {USES} nights, once": (lambda _: Plan(name="gathered", every=USES), (0,)),
        f"naive, {USES} uses": (lambda _: Plan(name="naive", uses=USES, apart=APART), (0,)),
        "matrix, once": (lambda width: Plan(name="once", apart=NIGHTS, bands=width), wide),
        f"matrix, {USES} uses": (lambda width: Plan(name="uses", uses=USES, apart=APART, bands=width), narrow),
    }
    found = []
    for person, half_life in (("stays", None), ("changes", HALF_LIFE_NIGHTS)):
        world = make_world(rng, half_life_nights=half_life)
        for epsilon in (*EPSILONS, None):
            for name, (plan_of, bands) in rivals.items():
                if epsilon is None and name.startswith("matrix"):
                    continue  # Without noise there is nothing to correlate.
                row = tuned(plan_of, bands, world, epsilon)
                found.append({"person": person, "epsilon": epsilon, "plan": name, **row})
    return found


# Words


def noise_words() -> str:
    """Lay out (1)."""
    compared = [Plan(name=f"block, {USES} steps a night", uses=USES), *plans(NIGHTS, USES, APART)]
    rows = [
        (plan.name, str(plan.bands or "–"), *(f"{plan.noise_std(epsilon, NIGHTS):.3f}" for epsilon in EPSILONS))
        for plan in compared
    ]
    return table(("noise std (clip norms)", "bands", *(f"epsilon {epsilon:g}" for epsilon in EPSILONS)), rows)


def mean_words(errors: Sequence[dict[str, Any]], checks: dict[str, float]) -> str:
    """Lay out (2)."""
    streams = dict.fromkeys((error["nights"], error["uses"], error["apart"]) for error in errors)
    rows = []
    for nights, uses, apart in streams:
        here = [one for one in errors if (one["nights"], one["uses"], one["apart"]) == (nights, uses, apart)]
        means = (one["mean_of_nights"] for one in here[1:])
        cells = (f"{mean:.2f}" if math.isfinite(mean) else "waits" for mean in means)
        both = (f"{one['last_night']:.2f} / {cell}" for one, cell in zip(here[1:], cells, strict=True))
        rows.append((f"{nights} nights, {uses} uses {apart} nights apart", *both))
    columns = ("noise over that of block, once", "block of uses nights", "naive", "matrix, once", "matrix, all uses")
    shown = ", ".join(f"{name} {ratio:.3f}" for name, ratio in checks.items())
    return (
        f"{table(columns, rows)}\n(RMSE of the mean of all records so far: after the last night / mean of nights; "
        f"the same at every epsilon)\nmeasured RMSE over expected: {shown}"
    )


def model_words(rows: Sequence[dict[str, Any]]) -> str:
    """Lay out (3), with a winner only where the difference is larger than chance."""
    lines, names = [], list(dict.fromkeys(row["plan"] for row in rows))
    for person, epsilon in dict.fromkeys((row["person"], row["epsilon"]) for row in rows):
        here = {row["plan"]: row for row in rows if (row["person"], row["epsilon"]) == (person, epsilon)}
        ranked = sorted(here.values(), key=lambda row: row["risk"])
        margin = TIE * math.hypot(ranked[0]["standard_error"], ranked[1]["standard_error"])
        tied = [row["plan"] for row in ranked if row["risk"] - ranked[0]["risk"] <= margin]
        cells = [
            f"{here[name]['risk']:.3f}±{here[name]['standard_error']:.3f}" if name in here else "–" for name in names
        ]
        lines.append(
            (f"{person}, {'no privacy' if epsilon is None else f'epsilon {epsilon:g}'}", *cells, " = ".join(tied))
        )
    return table(("excess risk, mean of nights", *names, "best"), lines)


@click.command()
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the made-up people; noise has none.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def main(seed: int, as_json: bool) -> None:
    """Compare block DP-GD with matrix factorisation on a stream, at equal lifetime epsilon of a record."""
    errors, checks = expected_errors(), measured_over_expected(2.0)
    rows = learned(np.random.default_rng(seed))
    facts = {"delta": DELTA, "mean": errors, "measured_over_expected": checks, "linear_model": rows, "seed": seed}
    setting = (
        f"{NIGHTS} nights of {RECORDS} records, {NUMBERS} numbers, {USES} uses {APART} nights apart, delta {DELTA:g}"
    )
    words = "\n\n".join((setting, noise_words(), mean_words(errors, checks), model_words(rows)))
    show(facts, words, as_json=as_json)


if __name__ == "__main__":
    main()
