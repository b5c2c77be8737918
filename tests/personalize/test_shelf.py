"""The adapters of a home: the one in use is always a whole one, the old or the new."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from personalize.adapter import Adapter
from personalize.errors import AdapterError, BaseMismatchError, HomeError
from personalize.home import Home
from personalize.retention import AdmittedAdapter, admit
from personalize.shelf import DEFAULT, KEPT, MAX_LINES, Shelf, count_gate_use, gate_uses, lines_of
from tests.forked import KILLED, kill_myself, needs_fork, run_forked
from tests.nights import DIGEST, tiny_base, warm_adapter

BASE = tiny_base()


def admitted(seed: int = 1) -> AdmittedAdapter:
    bare = BASE.bare()
    candidate = warm_adapter(BASE.model, size=0.003, seed=seed)
    _, passed = admit(BASE.model, current=bare, candidate=candidate, base=bare, probes=BASE.gate())
    assert passed is not None
    return passed


ONE, OTHER = admitted(1), admitted(2)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(tmp_path / "home")


def in_use(home: Home) -> Adapter:
    adapter = Shelf(home).load(base_digest=DIGEST)
    assert adapter is not None
    return adapter


def is_that(adapter: Adapter, made: AdmittedAdapter) -> bool:
    return all(torch.equal(value, made.adapter.b[site]) for site, value in adapter.b.items())


def test_a_new_home_has_no_adapter(home: Home) -> None:
    shelf = Shelf(home)
    assert (shelf.in_use, shelf.load(base_digest=DIGEST), shelf.label()) == (None, None, None)
    with pytest.raises(AdapterError, match="no adapter is in use, so there is nothing to roll back; learn first"):
        shelf.roll_back()


def test_what_was_put_is_in_use_also_after_a_restart(home: Home) -> None:
    Shelf(home).put(ONE, "night-1", {"night": {"epsilon": 2.0}})
    shelf = Shelf(Home.open(home.path))
    assert shelf.in_use == "night-1"
    assert is_that(in_use(home), ONE)
    assert shelf.label() == {"format": "label/1", "adapter": "night-1", "night": {"epsilon": 2.0}}


def test_rolling_back_walks_to_the_adapter_before_and_to_the_bare_base(home: Home) -> None:
    shelf = Shelf(home)
    shelf.put(ONE, "night-1", {})
    shelf.put(OTHER, "night-2", {})
    assert is_that(in_use(home), OTHER)
    assert shelf.roll_back() == "night-1"
    assert is_that(in_use(home), ONE)
    assert shelf.roll_back() is None
    assert shelf.load(base_digest=DIGEST) is None
    with pytest.raises(AdapterError):
        shelf.roll_back()


def test_only_the_newest_adapters_are_kept(home: Home) -> None:
    shelf = Shelf(home)
    for night in range(KEPT + 3):
        shelf.put(ONE, f"night-{night}", {})
    shelf.put(OTHER, "night-last", {})
    names = {folder.name for folder in home.adapters.iterdir()}
    assert len(names) <= KEPT + 1  # The one that fell off last goes with the next sweep.
    for _ in range(KEPT - 1):
        shelf.roll_back()
    assert is_that(in_use(home), ONE)


def test_an_adapter_that_was_not_admitted_has_no_place(home: Home) -> None:
    with pytest.raises(AttributeError):
        Shelf(home).put(ONE.adapter, "night-1", {})  # type: ignore[arg-type]
    assert Shelf(home).in_use is None


@pytest.mark.parametrize("name", ["../else", "a/b", "", "-", ".hidden", "night 1"])
def test_a_name_that_could_lead_out_of_the_home_is_refused(home: Home, name: str) -> None:
    with pytest.raises(AdapterError, match=r"is not one that this home gave; restore state\.json"):
        Shelf(home).put(ONE, name, {})
    assert list(home.adapters.iterdir()) == []


def test_a_state_that_names_another_folder_is_refused(home: Home) -> None:
    Shelf(home).put(ONE, "night-1", {})
    home.update_state(lines={"default": ["../../elsewhere"]})
    with pytest.raises(AdapterError, match="is not one that this home gave"):
        Shelf(home).load(base_digest=DIGEST)


def test_an_adapter_of_another_base_is_refused_and_stays(home: Home) -> None:
    Shelf(home).put(ONE, "night-1", {})
    with pytest.raises(BaseMismatchError):
        Shelf(home).load(base_digest="sha256:" + "0" * 64)
    assert is_that(in_use(home), ONE)


def test_a_damaged_label_is_one_line(home: Home) -> None:
    Shelf(home).put(ONE, "night-1", {})
    (home.adapters / "night-1" / "label.json").write_text("{")
    with pytest.raises(AdapterError, match="the label of adapter night-1 cannot be read; roll back or learn again"):
        Shelf(home).label()


def test_no_room_leaves_the_adapter_before_in_use(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    Shelf(home).put(ONE, "night-1", {})

    def full(self: Path, *args: object, **more: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(AdapterError, match="free some space"):
        Shelf(home).put(OTHER, "night-2", {})
    monkeypatch.undo()
    assert Shelf(home).in_use == "night-1"
    assert [folder.name for folder in home.adapters.iterdir()] == ["night-1"]


def test_no_room_for_the_state_leaves_the_adapter_before_in_use(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    Shelf(home).put(ONE, "night-1", {})

    def full(*args: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tempfile.mkstemp", full)
        with pytest.raises(HomeError):
            Shelf(home).put(OTHER, "night-2", {})
    assert Shelf(home).in_use == "night-1"
    Shelf(home).put(OTHER, "night-3", {})
    assert {folder.name for folder in home.adapters.iterdir()} == {"night-1", "night-3"}


# Lines


def test_each_line_has_an_adapter_of_its_own_and_no_sweep_takes_one_of_another(home: Home) -> None:
    Shelf(home, "work").put(ONE, "night-1", {"night": 1})
    Shelf(home).put(OTHER, "night-2", {"night": 2})
    Shelf(home, "work").put(ONE, "night-3", {})
    assert lines_of(home) == {"work": ("night-1", "night-3"), DEFAULT: ("night-2",)}
    assert is_that(in_use(home), OTHER)
    work = Shelf(home, "work")
    assert work.roll_back() == "night-1"
    assert work.label() == {"format": "label/1", "adapter": "night-1", "night": 1}
    loaded = work.load(base_digest=DIGEST)
    assert loaded is not None
    assert is_that(loaded, ONE)
    assert Shelf(home).in_use == "night-2"


def test_a_sweep_that_knows_its_own_line_only_is_caught(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def sweep(self: Shelf) -> None:
        for folder in self._home.adapters.iterdir():
            if folder.name not in self.history:
                shutil.rmtree(folder)

    monkeypatch.setattr(Shelf, "sweep", sweep)
    with pytest.raises((AssertionError, AdapterError)):
        test_each_line_has_an_adapter_of_its_own_and_no_sweep_takes_one_of_another(home)


def test_the_chosen_line_is_that_of_whoever_names_none(home: Home) -> None:
    Shelf(home, "work").put(ONE, "night-1", {})
    assert Shelf(home).in_use is None
    Shelf(home, "work").select()
    assert (Shelf(Home.open(home.path)).name, Shelf(home).in_use) == ("work", "night-1")
    assert Shelf(home, DEFAULT).in_use is None


def test_a_home_from_before_there_were_lines_keeps_its_adapters(home: Home) -> None:
    Shelf(home).put(ONE, "night-1", {})
    Shelf(home).put(OTHER, "night-2", {})
    state = {"format": "home/1", "adapter": "night-2", "adapters": ["night-1", "night-2"]}
    (home.path / "state.json").write_text(json.dumps(state))
    assert lines_of(home) == {DEFAULT: ("night-1", "night-2")}
    assert is_that(in_use(home), OTHER)
    Shelf(home, "work").put(OTHER, "night-3", {})
    assert Shelf(home).roll_back() == "night-1"
    assert is_that(in_use(home), ONE)
    assert home.state()["adapters"] is None, "a state must not say two things"


@pytest.mark.parametrize("name", ["", "Work", "a b", "-a", "a-", "../a", "a/b", "a" * 33, "ä", "a\n"])
def test_a_line_has_a_plain_name(home: Home, name: str) -> None:
    with pytest.raises(AdapterError, match="is no name for a line of adapters; use 1 to 32 small letters"):
        Shelf(home, name)


@pytest.mark.parametrize("lines", [["night-1"], {"default": 3}, {"default": [3]}, {"default": None}, "x"])
def test_a_state_with_something_else_in_place_of_lines_is_refused(home: Home, lines: object) -> None:
    home.update_state(lines=lines)
    with pytest.raises(AdapterError, match=r"are not lists of names; restore state\.json"):
        lines_of(home)


def test_a_home_has_a_limit_of_lines(home: Home) -> None:
    home.update_state(lines={f"line-{number}": [] for number in range(MAX_LINES)})
    with pytest.raises(AdapterError, match=f"this home has {MAX_LINES} lines of adapters"):
        Shelf(home, "one-more").put(ONE, "night-1", {})
    Shelf(home, "line-0").put(ONE, "night-1", {})


def test_the_bare_base_takes_its_turn_and_can_be_rolled_back(home: Home) -> None:
    shelf = Shelf(home)
    shelf.put(ONE, "night-1", {})
    shelf.put_bare()
    assert (shelf.in_use, shelf.load(base_digest=DIGEST), shelf.label()) == (None, None, None)
    shelf.put(OTHER, "night-2", {})
    assert shelf.history == ("night-1", None, "night-2")
    assert shelf.roll_back() is None
    assert shelf.roll_back() == "night-1"
    assert is_that(in_use(home), ONE)


def test_undoing_deletes_an_adapter_and_all_that_came_after_it(home: Home) -> None:
    shelf = Shelf(home)
    for night in range(4):
        shelf.put(ONE, f"night-{night}", {})
    assert shelf.undo("night-2") == ["night-2", "night-3"]
    assert shelf.history == ("night-0", "night-1")
    assert {folder.name for folder in home.adapters.iterdir()} == {"night-0", "night-1"}
    with pytest.raises(AdapterError, match="line default has no adapter night-2"):
        shelf.undo("night-2")


def test_what_came_from_another_device_is_said_by_all_that_goes_on_from_it(home: Home) -> None:
    shelf, charge = Shelf(home), {"from": "a", "epsilon": 2.0}
    shelf.put(ONE, "import-1", {"carried": [charge]})
    shelf.put(OTHER, "night-1", {"night": 1})
    label = shelf.label()
    assert label is not None
    assert label["carried"] == [charge]
    shelf.put(ONE, "import-2", {"carried": []})
    shelf.put(OTHER, "night-2", {})
    assert "carried" not in (shelf.label() or {})


def test_uses_of_the_gate_outside_nights_are_counted_and_kept(home: Home) -> None:
    assert (gate_uses(home), count_gate_use(home), count_gate_use(home)) == (0, 1, 2)
    assert gate_uses(Home.open(home.path)) == 2


@needs_fork
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("pathlib.Path", "rename"),
        ("pathlib.Path", "replace"),
        ("pathlib.Path", "write_text"),
        ("os", "fsync"),
        ("tempfile", "mkstemp"),
        ("shutil", "rmtree"),
    ],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_a_step_the_adapter_in_use_is_the_old_or_the_new(
    home: Home, module: str, name: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Shelf(home).put(ONE, "night-1", {})
    (home.adapters / "left-by-a-crash").mkdir()
    owner: object = __import__(module.split(".")[0])
    for part in module.split(".")[1:]:
        owner = getattr(owner, part)
    real: Callable[..., object] = getattr(owner, name)

    def deadly(*args: object, **more: object) -> object:
        if when == "after":
            real(*args, **more)
        kill_myself()
        raise AssertionError("unreachable")

    def put_and_die() -> None:
        setattr(owner, name, deadly)
        Shelf(home).put(OTHER, "night-2", {})

    assert run_forked(put_and_die) == KILLED
    again = Home.open(home.path)
    assert Shelf(again).in_use in ("night-1", "night-2")
    assert is_that(in_use(again), ONE if Shelf(again).in_use == "night-1" else OTHER)
    Shelf(again).put(OTHER, "night-3", {})
    assert {folder.name for folder in home.adapters.iterdir()} <= {"night-1", "night-2", "night-3"}
    assert is_that(in_use(again), OTHER)
