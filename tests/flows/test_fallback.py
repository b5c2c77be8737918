"""A question goes to the cloud by real processes: nothing on the way knows both who asks and what is asked."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from personalize import Home
from sdk.cli.app import cli
from sdk.confidence import FEATURES, Calibration, Head
from sdk.device.cloud import Cloud, CloudAnswer
from sdk.device.handoff.consent import Consent, Permission, Preview, canonical
from sdk.device.oblivious import client as client_module
from sdk.device.oblivious import key_file
from sdk.device.oblivious.binary_http import encode
from sdk.device.oblivious.encapsulation import REQUEST_TYPE, Sealed, seal_request
from sdk.device.oblivious.key_configurations import KeyConfiguration, serialise
from sdk.device.oblivious.key_source import KeySource
from sdk.device.oblivious.relay import nginx_configuration
from sdk.device.oblivious.suites import Algorithm
from sdk.errors import CloudGarbledError, CloudRefusedError, KeyConfigurationError, ObliviousError
from tests import endpoint
from tests.relays import CLIENT, Recorder, gateway_process, nginx_relay, recorded, small_relay
from tests.tiny import tiny_bundle

SECRET = "where do I hide a blue heron in Ravensburg"
ANSWER = "in the reeds behind the old mill"
BELONGS = {b"host", b"connection", b"content-length", b"content-type", b"accept"}
"""All that a relay may say to a gateway."""


def permission(cloud: Cloud, messages: list[dict[str, str]], home: Path) -> Permission:
    consent = Consent.open(Home.open(home))
    given = consent.asked(Preview(kind="question", host=cloud.host, content=canonical(messages)), lambda shown: True)
    assert given
    return given


def asked(cloud: Cloud, home: Path, text: str = SECRET) -> CloudAnswer:
    messages = [{"role": "user", "content": text}]
    return cloud.ask(messages, permission(cloud, messages, home))


@dataclass
class House:
    """What stays up for all tests: a cloud, a gateway that holds its key, and a small relay."""

    cloud: endpoint.Service
    keys: Path
    gateway: str
    line: Recorder
    """From any relay to the gateway."""
    small_relay: str

    @property
    def pin(self) -> str:
        """Of the newest key."""
        return key_file.read_keys(self.keys)[0].key.configuration.pin


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    keys, held = folder / "keys.json", folder / "cloud.key"
    key_file.rotate(keys, overlap=timedelta(0), now=datetime.now(UTC))
    held.write_text("sk-of-the-operator\n")
    held.chmod(0o600)
    with ExitStack() as up:
        cloud = up.enter_context(endpoint.serving())
        cloud.usual = endpoint.chat(ANSWER)
        gateway = up.enter_context(gateway_process(keys, cloud.url, "--key-file", str(held)))
        line = up.enter_context(recorded(gateway))
        small = up.enter_context(small_relay(line.url))
        yield House(cloud=cloud, keys=keys, gateway=gateway, line=line, small_relay=f"{small}/")


@dataclass
class Way:
    """A relay before the house's gateway, and a recorder before the relay."""

    house: House
    relay: str
    to_relay: Recorder
    """What the relay, and the network before it, can see."""
    before: tuple[int, int]
    """Connections to the gateway, and questions to the cloud, of tests before."""

    @property
    def to_gateway(self) -> Recorder:
        """What the gateway, and the network before it, can see."""
        return self.house.line.since(self.before[0])

    @property
    def asked(self) -> list[str]:
        """What reached the cloud."""
        return [one["messages"][0]["content"] for one in self.house.cloud.requests[self.before[1] :]]

    def opened(self, endpoint_url: str = "") -> Cloud:
        source = KeySource(f"{self.relay}keys", pins=[self.house.pin])
        url = endpoint_url or self.house.cloud.url
        return Cloud(url, model="large", relay=self.to_relay.url, keys=source, deadline=60)


@contextmanager
def laid(house: House, nginx: Path | None = None, *, wrong: Sequence[tuple[str, str]] = ()) -> Iterator[Way]:
    """A way by the small relay, or by nginx with its files in a folder."""
    with ExitStack() as way:
        before = len(house.line.there), len(house.cloud.requests)
        relay = way.enter_context(nginx_relay(nginx, house.line.url, wrong=wrong)) if nginx else house.small_relay
        to_relay = way.enter_context(recorded(relay, source=CLIENT))
        yield Way(house=house, relay=relay, to_relay=to_relay, before=before)


def chatty(way: Way) -> None:
    """A client that says of itself what it should not: the relay keeps it."""
    headers = {"Cookie": "id=7", "User-Agent": "Mine/1", "X-Forwarded-For": CLIENT, "Content-Type": REQUEST_TYPE}
    with suppress(urllib.error.HTTPError):
        urllib.request.urlopen(urllib.request.Request(way.to_relay.url, b"x" * 60, headers), timeout=60).close()


def leaks(way: Way) -> list[str]:
    """What somebody on the way could learn that is not theirs to know."""
    found = []
    for place, seen in (("relay", way.to_relay.everything), ("gateway's line", way.to_gateway.everything)):
        for what in (SECRET, ANSWER, "Ravensburg", "chat/completions", "large"):
            if what.encode() in seen:
                found.append(f"the {place} sees {what!r}")
    if CLIENT.encode() in way.to_gateway.everything:
        found.append("the gateway sees the client's address in a header")
    if set(way.to_gateway.peers) & {CLIENT}:
        found.append("the gateway sees the client's address as its peer")
    for request in way.to_gateway.there:
        names = {line.partition(b":")[0].lower() for line in request.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]}
        if names - BELONGS:
            found.append(f"the gateway sees the headers {sorted(names - BELONGS)}")
    for one, seen_by in ((way.to_relay, "relay"), (way.to_gateway, "gateway")):
        sizes = {len(request) for request in one.there if request.startswith(b"POST")}
        if len(sizes) > 1:
            found.append(f"the {seen_by} sees that questions are of different length: {sorted(sizes)}")
    return found


@pytest.mark.parametrize("pinned", [True, False], ids=["the gateway's pin", "another pin"])
def test_ask_goes_by_the_relay_and_says_so(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pinned: bool
) -> None:
    bundle = tiny_bundle(tmp_path)
    monkeypatch.setattr("sdk.build.package.open_base", lambda told, home=None: bundle)
    head = Head(features=FEATURES[:1], lows=(0.0,), highs=(9.0,), weights=(0.1,), intercept=0.0)
    never = Calibration(base_digest=bundle.base_digest, risk=0.05, threshold=1.0, head=head, report={})
    (tmp_path / "router.json").write_bytes(never.to_json())
    Consent.open(Home.open(tmp_path / "home")).with_standing("always")
    with laid(house) as way:
        words = ["--cloud", house.cloud.url, "--cloud-model", "large", "--router", str(tmp_path / "router.json")]
        words += ["--relay", way.to_relay.url, "--pin", house.pin if pinned else "0" * 64, "--cloud-seconds", "60"]
        made = CliRunner().invoke(cli, ["ask", SECRET, "--json", "--tokens", "2", *words])
        told = json.loads(made.stdout)
        assert way.asked == ([SECRET] if pinned else [])
        assert [leak for leak in leaks(way) if "length" not in leak] == []
    assert (told["route"], told["answer"] == ANSWER) == (("cloud", True) if pinned else ("local", False))


@pytest.mark.parametrize("nginx", [True, False], ids=["nginx", "small relay"])
def test_nobody_on_the_way_knows_both_who_asks_and_what(house: House, tmp_path: Path, nginx: bool) -> None:
    with laid(house, tmp_path if nginx else None) as way:
        cloud = way.opened()
        answer = asked(cloud, tmp_path / "home")
        assert (answer.text, answer.oblivious) == (ANSWER, True)
        assert asked(cloud, tmp_path / "home", SECRET + "?" * 900).text == ANSWER
        assert leaks(way) == []
        chatty(way)
        assert [leak for leak in leaks(way) if "length" not in leak] == []
        assert len(way.to_relay.questions) == len(way.to_gateway.questions) == 3
        assert set(way.to_gateway.peers) == {"127.0.0.1"}
        assert way.asked == [SECRET, SECRET + "?" * 900]


@pytest.mark.parametrize(
    ("right", "wrong", "seen"),
    [
        ("Accept message/ohttp-res;", "X-Forwarded-For $remote_addr;", "address in a header"),
        ("proxy_pass_request_headers off;", "proxy_pass_request_headers on;", "b'cookie', b'user-agent'"),
    ],
    ids=["forwards the address", "forwards headers"],
)
def test_a_relay_that_says_too_much_is_seen(house: House, tmp_path: Path, right: str, wrong: str, seen: str) -> None:
    """Seeded mutants: an operator's mistakes in nginx's configuration."""
    with laid(house, tmp_path, wrong=[(right, wrong)]) as way:
        chatty(way)
        assert any(seen in leak for leak in leaks(way)), leaks(way)


def test_unpadded_questions_are_seen(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seeded mutant of the client."""
    monkeypatch.setattr(client_module, "_padded", encode)
    with laid(house) as way:
        for text in (SECRET, SECRET + "?" * 900):
            asked(way.opened(), tmp_path / "home", text)
        assert any("different length" in leak for leak in leaks(way))


def test_a_question_in_the_clear_is_seen(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seeded mutant of the client: sealing does nothing."""
    real = seal_request

    def plain(configuration: KeyConfiguration, algorithm: Algorithm, content: bytes) -> Sealed:
        sealed = real(configuration, algorithm, content)
        sealed.request = sealed.request[:7] + content
        return sealed

    monkeypatch.setattr(client_module, "seal_request", plain)
    with laid(house) as way:
        with pytest.raises(ObliviousError):
            asked(way.opened(), tmp_path / "home")
        assert any("relay sees" in leak for leak in leaks(way))


def test_a_direct_question_tells_the_cloud_who_asks(house: House, tmp_path: Path) -> None:
    """What the relay is for: without it the same recorder sees both."""
    with recorded(house.cloud.url, source=CLIENT) as line:
        answer = asked(Cloud(line.url, model="large", deadline=60), tmp_path / "home")
        assert (answer.text, answer.oblivious) == (ANSWER, False)
        assert SECRET.encode() in line.everything


def test_keys_are_rotated_under_a_running_gateway_and_a_client_notices(house: House, tmp_path: Path) -> None:
    with laid(house) as way:
        pinned = way.opened()
        source = KeySource(f"{way.relay}keys", house.gateway)
        both = Cloud(house.cloud.url, model="large", relay=way.relay, keys=source, deadline=60)
        assert asked(both, tmp_path / "home").text == asked(pinned, tmp_path / "home").text == ANSWER
        key_file.rotate(house.keys, overlap=timedelta(0), now=datetime.now(UTC))  # The old key is dropped at once.
        assert asked(both, tmp_path / "home").text == ANSWER
        assert len(way.to_gateway.questions) == 4  # One of them was not opened.
        with pytest.raises(KeyConfigurationError, match="none of the gateway's keys is pinned"):
            asked(pinned, tmp_path / "home")
        assert way.asked == [SECRET] * 3


def test_a_replayed_question_reaches_the_cloud_once(house: House, tmp_path: Path) -> None:
    with laid(house) as way:
        asked(way.opened(), tmp_path / "home")
        (sent,) = way.to_relay.questions
        content = sent.partition(b"\r\n\r\n")[2]
        again = urllib.request.Request(way.relay, content, {"Content-Type": REQUEST_TYPE})
        with urllib.request.urlopen(again, timeout=60) as reply:
            assert reply.status == 200  # A sealed refusal: a relay that replays learns not even that it failed.
        assert way.asked == [SECRET]


def test_a_relay_with_keys_of_its_own_reads_nothing(house: House, tmp_path: Path) -> None:
    (theirs,) = key_file.rotate(tmp_path / "theirs", overlap=timedelta(0), now=datetime.now(UTC))
    (tmp_path / "collection").write_bytes(serialise([theirs.key.configuration]))
    source = KeySource(file=tmp_path / "collection", pins=[house.pin])
    with laid(house) as way:
        cloud = Cloud(house.cloud.url, model="large", relay=way.to_relay.url, keys=source, deadline=60)
        with pytest.raises(KeyConfigurationError, match="pinned"):
            asked(cloud, tmp_path / "home")
        assert way.to_relay.there == []


def test_the_gateway_asks_nobody_but_its_target(house: House, tmp_path: Path) -> None:
    with laid(house) as way, endpoint.serving() as elsewhere:
        with pytest.raises(CloudRefusedError, match="403: no target of this gateway"):
            asked(way.opened(elsewhere.url), tmp_path / "home")
        assert elsewhere.requests == []


def test_the_gateway_holds_the_key_so_that_no_device_needs_one(house: House, tmp_path: Path) -> None:
    with laid(house) as way:
        asked(way.opened(), tmp_path / "home")
        held = {name.lower(): value for name, value in house.cloud.headers[-1].items()}
        assert held["authorization"] == "Bearer sk-of-the-operator"
        assert b"sk-of-the-operator" not in way.to_relay.everything + way.to_gateway.everything


def test_a_cloud_that_fails_behind_the_gateway_is_one_typed_line(house: House, tmp_path: Path) -> None:
    with laid(house) as way:
        house.cloud.acts += [endpoint.status(500), endpoint.page(), endpoint.hang_up]
        with pytest.raises(CloudRefusedError, match="refuses with 500: busy"):
            asked(way.opened(), tmp_path / "home")
        with pytest.raises(CloudGarbledError, match="HTML"):
            asked(way.opened(), tmp_path / "home")
        with pytest.raises(CloudRefusedError, match="504: the target does not answer"):
            asked(way.opened(), tmp_path / "home")


def test_a_dead_gateway_is_said_by_the_relay_in_one_line(house: House, tmp_path: Path) -> None:
    with nginx_relay(tmp_path, "http://127.0.0.1:9/") as relay:
        (tmp_path / "collection").write_bytes(
            serialise(one.key.configuration for one in key_file.read_keys(house.keys))
        )
        source = KeySource(file=tmp_path / "collection")
        cloud = Cloud(house.cloud.url, model="large", relay=relay, keys=source, deadline=60)
        with pytest.raises(ObliviousError, match="answers 502"):
            asked(cloud, tmp_path / "home")


def test_the_page_for_operators_shows_the_configuration_that_is_tested() -> None:
    page = (Path(__file__).parents[2] / "docs" / "hand_off.md").read_text(encoding="utf-8")
    assert f"```\n{nginx_configuration('https://gateway.example')}```" in page


def test_the_example_hands_off_what_the_device_is_not_sure_of_and_no_name() -> None:
    script = Path(__file__).parents[2] / "examples" / "5_hybrid.py"
    command = [sys.executable, os.fspath(script), "--unsure"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert "  cloud: Could you please send me the file?" in done.stdout
    assert "  cloud: Dear Ana Keller, the grey heron nests there." in done.stdout
    easy, hard = (line for line in done.stdout.splitlines() if line.startswith("[{"))
    assert "Send me the file now." in easy
    assert not [private for private in ("Ana", "Keller", "keller.example", "2671") if private in hard]
