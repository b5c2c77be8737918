"""What would leave is the request, redacted, and nothing of what the person taught or what learned from it."""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from personalize import Experience, Home
from personalize.learner import Learner
from sdk.device.handoff.outgoing import Outgoing, prepared
from sdk.errors import RedactionError

SECRETS = ("the blue heron flies at dusk", "my sister's surprise party is in the barn")
ADAPTER = bytes(range(64)) * 4
MESSAGES = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Write to Ana Kos at ana@kos.example about lunch."},
)


@pytest.fixture
def planted(tmp_path: Path) -> Home:
    """A home with records in its store and bytes where an adapter stands."""
    home = Home.open(tmp_path / "home")
    learner = Learner(home, None)
    try:
        learner.remember([Experience(prompt="say", answer=text, at=datetime.now(UTC)) for text in SECRETS])
    finally:
        learner.close()
    (home.adapters / "night-1.safetensors").write_bytes(ADAPTER)
    return home


def leaks(outgoing: Outgoing) -> list[str]:
    """What of the planted things stands in what would leave, as bytes, as text or as base 16 and 64."""
    content = outgoing.preview.content
    encoded = [ADAPTER[:24], ADAPTER[:24].hex().encode(), b64encode(ADAPTER[:24])]
    found = [text for text in SECRETS if text.encode() in content]
    return found + [str(one) for one in encoded if one in content]


def test_nothing_of_the_store_or_an_adapter_leaves(planted: Home) -> None:
    outgoing = prepared(MESSAGES, kind="reply", host="big.example", names=["Ana Kos"])
    assert leaks(outgoing) == []
    assert json.loads(outgoing.preview.content) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Write to [PERSON_1] at [EMAIL_1] about lunch."},
    ]
    assert outgoing.preview.replaced == ("[PERSON_1]", "[EMAIL_1]")


def test_an_app_that_passes_more_fields_sends_none_of_them(planted: Home) -> None:
    extra: Sequence[Mapping[str, Any]] = [
        message | {"adapter": ADAPTER.hex(), "store": SECRETS[0]} for message in MESSAGES
    ]
    assert leaks(prepared(extra, kind="reply", host="big.example")) == []


def test_a_hand_off_that_took_the_store_along_would_be_caught(planted: Home) -> None:
    with_memory = [*MESSAGES, {"role": "system", "content": f"Known: {SECRETS[0]} {ADAPTER[:24].hex()}"}]
    assert len(leaks(prepared(with_memory, kind="reply", host="big.example"))) == 2


@pytest.mark.parametrize(
    "message", [{"role": "tool", "content": "x"}, {"role": "user"}, {"role": "user", "content": [{"text": "x"}]}, {}]
)
def test_a_message_of_another_shape_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(RedactionError, match="nothing left"):
        prepared([message], kind="reply", host="h")
