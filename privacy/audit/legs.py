"""The engine in, all legs of its audit in one report out."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from privacy.accounting import epsilon, noise_multiplier
from privacy.audit import charges, mechanism, membership, one_run, randomness
from privacy.audit.canaries import Scores, train_with_canaries
from privacy.audit.findings import DEFAULT_CANARIES, AuditReport, Canaries, Finding, Membership, judged
from privacy.audit.parts import Engine
from privacy.budget import Budget
from privacy.errors import AuditError, PrivacyError
from privacy.events import DpSgdRun, Neighbours
from privacy.versions import versions

__all__ = ["MIN_CANARIES", "audit", "default_run", "mechanism_checks"]

MIN_CANARIES = 50  # Fewer cannot show an epsilon of 2.8 even if every guess is right, and might all be in by chance.
MAX_CANARIES = 20_000  # The canaries' records are a square of numbers: 3 GB at this many.
GUESSED = 0.2  # Share of the canaries that is guessed: near the best choice for both bounds at separations of 0.5 to 4.
DELTA = 1e-5
GUESSES_ALARM = 1e-3  # The bounds are loose: a sound run of 1,000 canaries reaches this six standard deviations out.
FAR_DELTA = 1e-12  # Where the claim is tested: at 1e-5 the bound's own term in delta would drown every small p-value.

Progress = Callable[[str, int, int], None]
"""Called with what was done, how many checks are done, and how many there are."""

_STEP_CHECKS: tuple[Callable[[Engine], Finding | tuple[Finding, ...]], ...] = (
    mechanism.clip_invariant,
    mechanism.neighbour_sensitivity,
    mechanism.unit_sensitivity,
    mechanism.microbatches_add_up,
    mechanism.public_divisor,
    mechanism.limited_steps,
    randomness.noise_findings,
    randomness.noise_secrecy,
    randomness.sampler_rate,
    randomness.sampler_independence,
    randomness.sampler_units,
    randomness.sampler_secrecy,
)
_LEDGER_CHECKS: tuple[Callable[[Path, Engine], Finding], ...] = (
    charges.composition,
    charges.charges_kept,
    charges.independent_sum,
    charges.limits_hold,
)
_STAGES = len(_STEP_CHECKS) + len(_LEDGER_CHECKS) + 1


def default_run() -> DpSgdRun:
    """A night's run at epsilon 4 and delta 1e-5: full batch, 8 steps."""
    noise = noise_multiplier(epsilon=4.0, delta=DELTA, sampling_rate=1.0, steps=8)
    return DpSgdRun(noise_multiplier=noise, sampling_rate=1.0, steps=8)


def audit(
    run: DpSgdRun | None = None,
    *,
    canaries: int = DEFAULT_CANARIES,
    confidence: float = 0.95,
    delta: float = DELTA,
    engine: Engine | None = None,
    progress: Progress = lambda done, count, total: None,
) -> AuditReport:
    """Put the engine through every leg: mechanism checks, one training with canaries, membership inference.

    Args:
        run: The training to audit, under the zero-out relation; None: `default_run`. What it may be accused of depends
            on its noise only, so audit the noise that nights use.
        canaries: Records that are in by a coin, in [50, 20000]; 0: only the mechanism is checked.
        confidence: Of the bounds, in (0, 1).
        delta: Of every epsilon in the report, in (0, 1).
        engine: What is audited; None: the real engine.
        progress: Called after each check.

    Raises:
        AuditError: An argument is impossible.
    """
    if canaries and not MIN_CANARIES <= canaries <= MAX_CANARIES:
        raise AuditError(f"canaries must be 0 or in [{MIN_CANARIES}, {MAX_CANARIES}], got {canaries}")
    if not 0 < confidence < 1 or not 0 < delta < 1:
        raise AuditError(f"confidence and delta must be in (0, 1), got {confidence:g} and {delta:g}")
    chosen, parts = run or default_run(), engine or Engine()
    if chosen.neighbours is not Neighbours.ZERO_OUT:
        raise AuditError(
            f"an audit compares by zero_out, and the run is for {chosen.neighbours.value}; give another run"
        )
    started = time.monotonic()
    findings: list[Finding] = []
    for done, found in enumerate(_mechanism(parts), start=1):
        findings += found
        progress(found[-1].leg, done, _STAGES)
    guessed = attacked = None
    if canaries:
        more, guessed, attacked = _one_training(chosen, canaries, confidence, delta, parts)
        findings += more
    progress("one training with canaries", _STAGES, _STAGES)
    return AuditReport(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        run=chosen.to_dict(),
        versions=versions(),
        seconds=time.monotonic() - started,
        findings=tuple(findings),
        canaries=guessed,
        membership=attacked,
    )


def mechanism_checks(engine: Engine | None = None) -> tuple[Finding, ...]:
    """Return the findings that need no training, in seconds. A part that breaks down has failed its check."""
    return tuple(finding for found in _mechanism(engine or Engine()) for finding in found)


def _mechanism(engine: Engine) -> Iterator[tuple[Finding, ...]]:
    for check in _STEP_CHECKS:
        yield _guarded(check.__name__, partial(check, engine))
    with tempfile.TemporaryDirectory(prefix="limbeck-audit-") as folder:
        for sums in _LEDGER_CHECKS:
            yield _guarded(sums.__name__, partial(sums, Path(folder), engine))


def _guarded(name: str, check: Callable[[], Finding | tuple[Finding, ...]]) -> tuple[Finding, ...]:
    try:
        found = check()
    except PrivacyError as broken:
        leg = name.replace("_", " ")
        found = Finding(leg=leg, claim="the engine does its work", passed=False, measured=f"it broke down: {broken}")
    return found if isinstance(found, tuple) else (found,)


def _one_training(
    run: DpSgdRun, canaries: int, confidence: float, delta: float, engine: Engine
) -> tuple[list[Finding], Canaries, Membership]:
    """Train once with canaries, guess, attack, and compare with what was charged."""
    budget = Budget(epsilon=1e6, unit=run.unit)  # Of a throw-away ledger: any noise may be audited.
    with (
        tempfile.TemporaryDirectory(prefix="limbeck-audit-") as folder,
        engine.ledger(Path(folder) / "ledger.db", key=bytes(32), budget=budget) as ledger,
    ):
        seen = train_with_canaries(run, canaries=canaries, ledger=ledger, engine=engine)
    separation = math.sqrt(run.steps) / run.noise_multiplier  # Sampling only lowers it.
    attacked = membership.attack(
        seen.scores[seen.included].tolist(),
        seen.scores[~seen.included].tolist(),
        separation=separation,
        confidence=confidence,
    )
    guessed, claim = _guessed(run, seen, separation, confidence, delta)
    findings = [_charged(run, seen), claim, membership.judge(attacked)]
    if run.sampling_rate == 1:
        findings.append(membership.judge_sight(attacked))
    return findings, guessed, attacked


def _charged(run: DpSgdRun, seen: Scores) -> Finding:
    due = epsilon(run, delta=DELTA, accountant="rdp")
    return Finding(
        leg="charged training",
        claim="a training that ran was charged what its steps, noise and sampling cost",
        passed=abs(seen.charged - due) <= 1e-9 * due,
        measured=f"charged {seen.charged:.6f}, due {due:.6f}; loss {seen.loss[0]:.3f} before, {seen.loss[1]:.3f} after",
    )


def _guessed(
    run: DpSgdRun, seen: Scores, separation: float, confidence: float, delta: float
) -> tuple[Canaries, Finding]:
    made = max(2, int(GUESSED * len(seen.scores)))
    game = one_run.guess(seen.scores.tolist(), seen.included.tolist(), made)
    any_bound = partial(one_run.epsilon_lower_bound, delta=delta, confidence=confidence)
    gaussian_bound = partial(one_run.gaussian_epsilon_lower_bound, delta=delta, confidence=confidence)
    plain = run.sampling_rate == 1  # Only then is the run a Gaussian mechanism.
    claimed = epsilon(run, delta=delta, accountant="rdp")
    found = Canaries(
        canaries=game.canaries,
        guesses=game.made,
        correct=game.right,
        confidence=confidence,
        delta=delta,
        claimed_epsilon=claimed,
        epsilon_at_least=any_bound(game),
        gaussian_epsilon_at_least=gaussian_bound(game) if plain else None,
        largest_provable_epsilon=any_bound(game.perfect()),
        largest_provable_gaussian_epsilon=gaussian_bound(game.perfect()) if plain else None,
    )
    far = epsilon(run, delta=FAR_DELTA, accountant="rdp")
    p_value = 2 * min(
        one_run.epsilon_p_value(game, claimed=far, delta=FAR_DELTA),
        one_run.gaussian_p_value(game, separation=separation),
    )
    provable = max(found.largest_provable_epsilon, found.largest_provable_gaussian_epsilon or 0.0)
    return found, judged(
        "one-run canaries",
        "guesses about canaries are right no more often than the charged epsilon allows",
        p_value,
        f"{game.right} of {game.made} guesses right: epsilon at least {found.lower_bound():.3f} at {confidence:.0%} "
        f"confidence, charged {claimed:.3f}; this audit could have shown up to {provable:.2f}",
        alarm=GUESSES_ALARM,
    )
