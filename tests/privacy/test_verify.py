"""The independent path: an export alone, recomputed by dp-accounting. What it must accept, and what it must not."""

import ast
import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy import verify
from privacy.budget import Budget
from privacy.chain import canonical
from privacy.errors import BudgetExhaustedError, ExportError, PrivacyError
from privacy.events import DpSgdRun, Event, GaussianRelease, LaplaceRelease, MatrixFactorisationRun, Neighbours, Unit
from privacy.ledger import Ledger
from privacy.verify import verify_export, verify_file
from tests.privacy.ledgers import KEY, NIGHT, Clock, opened
from tests.privacy.strategies import events, extreme_events


@pytest.fixture
def text(tmp_path: Path) -> str:
    """An export with every mechanism, two scopes, and all limits."""
    clock = Clock()
    limits = {"total_epsilon": 9.0, "caller_epsilon": 6.0, "period_epsilon": 5.0, "period_days": 2}
    with opened(tmp_path, clock=clock, **limits) as ledger:
        ledger.set_budget(Budget(epsilon=3, unit=Unit.DAY, neighbours=Neighbours.REPLACE), scope="telemetry")
        receipt = ledger.reserve(NIGHT, blocks=["monday"])
        ledger.draw(receipt, 10)
        ledger.close(receipt)
        clock.move(days=3)
        for run in (
            DpSgdRun(noise_multiplier=1.2, sampling_rate=0.02, steps=100),
            LaplaceRelease(scale=20, count=2),
            GaussianRelease(noise_multiplier=12),
            MatrixFactorisationRun(noise_multiplier=20, steps=40, bands=8, min_separation=10, max_participations=4),
        ):
            ledger.reserve(run, blocks=["tuesday", "wednesday"], caller="other")
        day = GaussianRelease(noise_multiplier=9, unit=Unit.DAY, neighbours=Neighbours.REPLACE)
        ledger.reserve(day, blocks=["tuesday"], scope="telemetry")
        return ledger.export()


def changed(text: str, change: Callable[[dict[str, Any]], None]) -> str:
    written = json.loads(text)
    change(written)
    return canonical(written)


def rehashed(text: str, change: Callable[[list[dict[str, Any]]], None]) -> str:
    """Change entries and make all hashes fit again, as somebody without the device key could."""
    from privacy.chain import Head, link

    written = json.loads(text)
    for entry in written["entries"]:
        entry["body"] = json.loads(entry["body"])
    change(written["entries"])
    head = Head()
    for entry in written["entries"]:
        fields = {name: entry[name] for name in ("at", "kind", "scope", "caller", "receipt", "body")}
        linked = link(head, key=b"somebody else's key", **fields)
        head = Head(seq=linked.seq, hash=linked.hash, at=linked.at)
        entry |= {
            "seq": linked.seq,
            "body": linked.body,
            "previous": linked.previous,
            "hash": linked.hash,
            "mac": linked.mac,
        }
    written["head"] = {"seq": head.seq, "hash": head.hash}
    return canonical(written)


def test_an_export_is_verified_with_and_without_the_key(text: str) -> None:
    verdict = verify_export(text, key=KEY)
    claims = json.loads(text)["claims"]
    assert verdict.sealed
    assert verdict.runs == 6
    assert verdict.spent == {name: claim["spent_rdp"] for name, claim in claims.items()}
    assert verdict.spent_beside == pytest.approx({name: claim["spent_pld"] for name, claim in claims.items()}, rel=0.01)
    assert verdict.unit == {"experience": "record/zero_out", "telemetry": "day/replace"}
    assert verdict.delta == {"experience": 1e-5, "telemetry": 1e-5}
    assert not verify_export(text).sealed


def test_an_export_in_a_file_is_verified(text: str, tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text(text)
    assert verify_file(tmp_path / "export.json", beside=False).runs == 6


@given(st.lists(st.tuples(events(), st.integers(0, 2)), max_size=6), st.floats(0.5, 20))
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_ledger_admits_its_export_verifies(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[Event, int]], budget: float
) -> None:
    with opened(tmp_path_factory.mktemp("ledger"), epsilon=budget, total_epsilon=2 * budget) as ledger:
        for run, block in runs:
            try:
                ledger.reserve(run, blocks=[f"block {block}"])
            except BudgetExhaustedError:
                continue
        verdict = verify_export(ledger.export(beside=False), key=KEY)
        assert verdict.spent == {"experience": ledger.spent()}
        assert verdict.entries == len(ledger.entries())


@given(extreme_events())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_even_the_oddest_run_that_is_admitted_can_be_verified(
    tmp_path_factory: pytest.TempPathFactory, run: Event
) -> None:
    with opened(tmp_path_factory.mktemp("ledger"), epsilon=1e4) as ledger:
        with suppress(BudgetExhaustedError):
            ledger.reserve(run, blocks=["b"])
        assert verify_export(ledger.export(beside=False), key=KEY).spent == {"experience": ledger.spent()}


def test_every_changed_figure_of_the_claims_is_noticed(text: str) -> None:
    def figures(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
        if isinstance(value, dict):
            return [found for name, inner in value.items() for found in figures(inner, (*path, name))]
        return [path]

    paths = figures(json.loads(text)["claims"])
    assert len(paths) > 20
    for path in paths:

        def change(written: dict[str, Any], path: tuple[str, ...] = path) -> None:
            holder = written["claims"]
            for name in path[:-1]:
                holder = holder[name]
            old = holder[path[-1]]
            holder[path[-1]] = old * 0.9 if isinstance(old, float) else "other"

        with pytest.raises(ExportError):
            verify_export(changed(text, change))


def test_every_changed_field_of_every_entry_is_noticed(text: str) -> None:
    count = len(json.loads(text)["entries"])
    for index in range(count):
        for name in ("seq", "at", "kind", "scope", "caller", "receipt", "body", "previous", "hash"):

            def change(written: dict[str, Any], index: int = index, name: str = name) -> None:
                entry = written["entries"][index]
                entry[name] = entry[name] + 1 if name == "seq" else entry[name] + "x"

            with pytest.raises(ExportError):
                verify_export(changed(text, change), beside=False)


@pytest.mark.parametrize("index", range(9))
def test_a_missing_entry_is_noticed(text: str, index: int) -> None:
    with pytest.raises(ExportError, match=r"does not follow|missing"):
        verify_export(changed(text, lambda written: written["entries"].pop(index)), beside=False)


def test_a_foreign_seal_is_noticed_where_the_key_is_known(text: str) -> None:
    forged = rehashed(text, lambda entries: None)
    assert not verify_export(forged).sealed
    with pytest.raises(ExportError, match="seal"):
        verify_export(forged, key=KEY)


def _less_noise(entries: list[dict[str, Any]]) -> None:
    entries[3]["body"]["run"]["noise_multiplier"] /= 2


def _dropped_charge(entries: list[dict[str, Any]]) -> None:
    del entries[-1]


def _over_the_limit(entries: list[dict[str, Any]]) -> None:
    entries[1]["body"]["budget"]["epsilon"] = 1.0


def _over_the_period(entries: list[dict[str, Any]]) -> None:
    entries[1]["body"]["budget"]["period_epsilon"] = 1.0


def _over_the_share(entries: list[dict[str, Any]]) -> None:
    entries[1]["body"]["budget"]["caller_epsilon"] = 1.0


def _over_the_total(entries: list[dict[str, Any]]) -> None:
    entries[1]["body"]["budget"]["total_epsilon"] = 1.0


def _overdrawn(entries: list[dict[str, Any]]) -> None:
    entries[4]["body"]["steps"] = 11


def _negative_draw(entries: list[dict[str, Any]]) -> None:
    entries[4]["body"]["steps"] = -5


def _closed_twice(entries: list[dict[str, Any]]) -> None:
    entries.insert(6, json.loads(json.dumps(entries[5])))


def _drawn_after_closing(entries: list[dict[str, Any]]) -> None:
    entries[4], entries[5] = entries[5], entries[4]


def _reserved_twice(entries: list[dict[str, Any]]) -> None:
    entries.insert(4, json.loads(json.dumps(entries[3])))


def _without_budget(entries: list[dict[str, Any]]) -> None:
    del entries[1]


def _other_unit(entries: list[dict[str, Any]]) -> None:
    entries[3]["body"]["run"]["unit"] = "day"


def _no_block(entries: list[dict[str, Any]]) -> None:
    entries[3]["body"]["blocks"] = []


def _unknown_kind(entries: list[dict[str, Any]]) -> None:
    entries[5]["kind"] = "refund"


def _unknown_mechanism(entries: list[dict[str, Any]]) -> None:
    entries[3]["body"]["run"]["event"] = "teleport/1"


def _another_order(entries: list[dict[str, Any]]) -> None:
    entries[3]["body"]["orders"]["block monday"] = 0.5


def _no_such_limit_order(entries: list[dict[str, Any]]) -> None:
    entries[3]["body"]["orders"] = {}


def _moved_order(entries: list[dict[str, Any]]) -> None:
    entries[7]["body"]["orders"] = {"block tuesday": 2.0}


def _sampled_under_replace(entries: list[dict[str, Any]]) -> None:
    entries[1]["body"]["budget"]["neighbours"] = "replace"
    entries[3]["body"]["run"] |= {"neighbours": "replace", "sampling_rate": 0.5}


@pytest.mark.parametrize(
    "change",
    [
        _less_noise,
        _dropped_charge,
        _over_the_limit,
        _over_the_period,
        _over_the_share,
        _over_the_total,
        _overdrawn,
        _negative_draw,
        _closed_twice,
        _drawn_after_closing,
        _reserved_twice,
        _without_budget,
        _other_unit,
        _no_block,
        _unknown_kind,
        _unknown_mechanism,
        _another_order,
        _no_such_limit_order,
        _moved_order,
        _sampled_under_replace,
    ],
)
def test_entries_that_hash_but_do_not_add_up_are_refused(
    text: str, change: Callable[[list[dict[str, Any]]], None]
) -> None:
    with pytest.raises(ExportError) as caught:
        verify_export(rehashed(text, change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "hostile",
    [
        "",
        "null",
        "[]",
        "{}",
        "nonsense",
        '{"format": "ledger_export/2"}',
        '{"format": "ledger_export/1"}',
        '{"format": "ledger_export/1", "entries": 7, "claims": {}, "head": {}}',
        '{"format": "ledger_export/1", "entries": [null], "claims": {}, "head": {}}',
        '{"format": "ledger_export/1", "entries": [], "claims": {}, "head": {"seq": 0, "hash": ""}}',
        '{"format": "ledger_export/1", "format": "ledger_export/1"}',
        '{"format": "ledger_export/1", "x": NaN}',
        '{"format": "ledger_export/1", "x": ' + "9" * 10_000 + "}",
        "[" * 200_000,
        '{"a":' * 100_000,
        "\ud800",
    ],
    ids=str.__len__,
)
def test_hostile_json_is_refused_in_one_line(hostile: str) -> None:
    with pytest.raises(ExportError) as caught:
        verify_export(hostile)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@given(st.data())
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_garbled_export_makes_it_crash(text: str, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(text) - 1))
    length = data.draw(st.integers(0, 40))
    garbled = text[:position] + data.draw(st.text(max_size=8)) + text[position + length :]
    with suppress(PrivacyError):
        verify_export(garbled, beside=False)


def test_an_export_that_is_too_large_is_not_even_parsed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(verify.text, "MAX_EXPORT_BYTES", 1000)
    with pytest.raises(ExportError, match="larger"):
        verify_export(text)


def test_a_path_that_holds_no_export_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "binary"):
        with pytest.raises(ExportError) as caught:
            verify_file(path)
        assert "\n" not in str(caught.value)


def test_the_verifier_shares_no_accounting_with_the_ledger() -> None:
    imported: set[str] = set()
    files = sorted(Path(verify.__file__).parent.glob("*.py"))
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                imported.add(node.module or "")
            if isinstance(node, ast.Import):
                imported.update(alias.name for alias in node.names)
    others = {name for name in imported if name.startswith("privacy") and not name.startswith("privacy.verify.")}
    assert len(files) == 6
    assert others == {"privacy.errors"}


def test_an_empty_ledger_verifies(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger.db", key=KEY) as ledger:
        assert verify_export(ledger.export(), key=KEY).spent == {}


def _unknown_field(entries: list[dict[str, Any]]) -> None:
    entries[3]["body"]["run"]["halved_by"] = "a newer version"


def _missing_field(entries: list[dict[str, Any]]) -> None:
    del entries[3]["body"]["run"]["clip_norm"]


def _unknown_limit(entries: list[dict[str, Any]]) -> None:
    entries[1]["body"]["budget"]["weekly_epsilon"] = 1.0


def _newer_budget(entries: list[dict[str, Any]]) -> None:
    entries[1]["body"]["budget"]["format"] = "budget/2"


def _half_a_period(entries: list[dict[str, Any]]) -> None:
    entries[1]["body"]["budget"]["period_epsilon"] = None


def _too_many_participations(entries: list[dict[str, Any]]) -> None:
    run = next(entry["body"]["run"] for entry in entries if "matrix" in str(entry["body"].get("run")))
    run["max_participations"] = 10**13


def _rate_that_is_no_number(entries: list[dict[str, Any]]) -> None:
    entries[3]["body"]["run"]["sampling_rate"] = True


def _unknown_unit(entries: list[dict[str, Any]]) -> None:
    entries[2]["body"]["budget"]["unit"] = "person"


def _large_delta(entries: list[dict[str, Any]]) -> None:
    entries[2]["body"]["budget"]["delta"] = 1e-3


def _endless_period(entries: list[dict[str, Any]]) -> None:
    entries[1]["body"]["budget"]["period_days"] = 10**6


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (_unknown_field, "cannot be verified"),
        (_missing_field, "cannot be verified"),
        (_unknown_limit, "unknown format"),
        (_newer_budget, "unknown format"),
        (_half_a_period, "half a period"),
        (_endless_period, "endless"),
        (_too_many_participations, "count belongs"),
        (_rate_that_is_no_number, "amount belongs"),
        (_unknown_unit, "unknown unit"),
        (_large_delta, "amount belongs"),
    ],
)
def test_what_the_ledger_could_not_read_is_not_skipped_but_refused(
    text: str, change: Callable[[list[dict[str, Any]]], None], line: str
) -> None:
    with pytest.raises(ExportError, match=line):
        verify_export(rehashed(text, change), beside=False)


def test_a_name_that_stands_twice_inside_an_entry_is_refused(text: str) -> None:
    written = json.loads(text)
    written["entries"][3]["body"] = written["entries"][3]["body"].replace('"steps":10', '"steps":20,"steps":10')
    previous = "0" * 64
    for entry in written["entries"]:
        entry["previous"] = previous
        fields = [entry[name] for name in ("seq", "at", "kind", "scope", "caller", "receipt", "body", "previous")]
        previous = hashlib.sha256(json.dumps(fields, separators=(",", ":")).encode()).hexdigest()
        entry["hash"] = previous
    written["head"]["hash"] = previous
    with pytest.raises(ExportError):
        verify_export(canonical(written), beside=False)


@pytest.mark.parametrize(
    "runs",
    [
        [DpSgdRun(noise_multiplier=4 + index / 100, sampling_rate=0.01, steps=3) for index in range(300)],
        [LaplaceRelease(scale=1e6, count=2_000_000)],
        [DpSgdRun(noise_multiplier=0.02, sampling_rate=1e-7, steps=1)],
    ],
    ids=["300 mechanisms", "2 million uses", "hardly any noise"],
)
def test_where_the_ledger_states_the_enforced_bound_beside_the_verifier_expects_it(
    tmp_path: Path, runs: list[Event]
) -> None:
    with opened(tmp_path, epsilon=5000.0) as ledger:
        for run in runs:
            ledger.reserve(run, blocks=["b"])
        verdict = verify_export(ledger.export())
        assert verdict.spent_beside == verdict.spent == {"experience": ledger.spent(accountant="pld")}
