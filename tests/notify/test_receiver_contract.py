"""The contract of every kind of receiver, tested with real ones: processes that listen, stop and come back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from detector.contracts.errors import ReceiverAway
from detector.notify.receivers import RECEIVERS, new_receiver
from detector.notify.receivers.base import Receiver, Surroundings
from detector.runtime.receivers import KINDS, ReceiverSettings
from tests.notify.alerts import group_notification, notification
from tests.notify.stands import ALERTMANAGER, STANDS, AlertmanagerStand, Stand

ODD = "x\"\\]<b>'&{{ 1 }}ü😀" + "y" * 200


@pytest.fixture(params=STANDS)
def stand(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stand]:
    with STANDS[request.param](tmp_path) as standing:
        yield standing


@pytest.fixture
def receiver(stand: Stand) -> Receiver:
    return new_receiver(ReceiverSettings.model_validate(stand.settings), Surroundings("one", time.time, "host.example"))


def test_each_kind_of_the_settings_has_a_receiver_and_a_stand(tmp_path: Path) -> None:
    assert RECEIVERS.keys() == KINDS
    assert {next(iter(stand(tmp_path).settings)) for stand in STANDS.values()} == KINDS


def test_what_is_sent_is_there_when_send_returns(stand: Stand, receiver: Receiver) -> None:
    answer = receiver.send(notification("one"))
    assert stand.received() == ["one"]
    assert answer
    receiver.send(notification("two"))
    assert sorted(stand.received()) == ["one", "two"]


def test_a_receiver_that_is_away_says_so_and_takes_it_later(stand: Stand, receiver: Receiver) -> None:
    stand.kill()
    with pytest.raises(ReceiverAway) as caught:
        receiver.send(notification("one"))
    assert "SECRET" not in str(caught.value)
    stand.start()
    receiver.send(notification("one"))
    assert stand.received() == ["one"]


def test_one_that_dies_between_two_takes_the_second_when_it_is_back(stand: Stand, receiver: Receiver) -> None:
    receiver.send(notification("one"))
    stand.kill()
    stand.start()
    receiver.send(notification("two"))
    receiver.refresh()
    assert "two" in stand.received()


def test_a_repeat_and_a_revision_have_the_same_id(stand: Stand, receiver: Receiver) -> None:
    receiver.send(notification("one"))
    receiver.send(notification("one"))
    receiver.send(notification("one", revision=2, severity="high", score=1.9))
    assert set(stand.received()) == {"one"}
    assert len(stand.received()) == (1 if isinstance(stand, AlertmanagerStand) and _merges(stand) else 3)


def _merges(stand: AlertmanagerStand) -> bool:
    return len(stand.alerts()) == 1


def test_a_group_arrives_and_can_be_dismissed(stand: Stand, receiver: Receiver) -> None:
    receiver.send(group_notification("g1"))
    assert stand.received() == ["g1"]
    receiver.send(group_notification("g1", revision=2, dismissed_by="alice"))
    if isinstance(stand, AlertmanagerStand) and ALERTMANAGER:
        assert stand.received() == []  # it lists what fires
        return
    assert set(stand.received()) == {"g1"}
    assert "Dismissed by alice" in _texts(stand) or isinstance(stand, AlertmanagerStand)


def test_a_released_alert_is_resolved(stand: Stand, receiver: Receiver) -> None:
    receiver.send(notification("one"))
    ahead = time.time() + 0.2  # by the broker's clock
    receiver.send(notification("one", revision=2, released_by="alice", occurred_at=ahead))
    if isinstance(stand, AlertmanagerStand) and ALERTMANAGER:
        assert stand.received() == []  # it lists what fires
        return
    assert stand.received() == ["one", "one"]
    assert "Released by alice" in _texts(stand) or isinstance(stand, AlertmanagerStand)


def test_odd_names_arrive_as_they_are(stand: Stand, receiver: Receiver) -> None:
    receiver.send(notification("one", principal=ODD))
    assert stand.received() == ["one"]
    assert ODD in _texts(stand)


def _texts(stand: Stand) -> str:
    """All texts that it holds, without the escapes of its format."""
    if isinstance(stand, AlertmanagerStand):
        return "\n".join(text for alert in stand.alerts() for text in alert["labels"].values())
    held: Any = getattr(stand, "findings", stand.entries)()
    texts = [entry.get("message") or "\n".join(_strings(entry)) for entry in held]
    return "\n".join(texts)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
    elif isinstance(value, str):
        yield value
        if value.startswith("{"):
            yield from _strings(json.loads(value))


def test_nothing_shows_a_secret(stand: Stand, receiver: Receiver) -> None:
    assert "SECRET" not in f"{receiver!r} {receiver}"
