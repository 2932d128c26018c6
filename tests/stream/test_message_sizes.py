"""The largest record of each kind that policy can make fits its topic, with all that Kafka adds."""

from __future__ import annotations

import pytest

from detector.contracts.codecs.limits import TEXT_CHARACTERS
from detector.contracts.codecs.records import encode
from detector.contracts.findings import Action, Command
from detector.contracts.principals import NAME_CHARACTERS
from detector.policy.config import Policy
from detector.policy.ledger import Ledger
from detector.policy.principal import MOST_CAUSES
from detector.runtime.sections import KafkaSettings
from detector.stream.commit_unit import Outbox
from detector.stream.state_log import Message
from detector.stream.topics import shapes
from tests.stream.world import TOPICS

CONTROL, WIDE = "\x01", "\U0001f9ff"
"""Six bytes a character in JSON, and four."""


def _taken(topic: str) -> int:
    kafka = KafkaSettings(prefix="test")
    return next(int(shape.config["max.message.bytes"]) for shape in shapes(kafka) if shape.name == topic)


@pytest.mark.parametrize("filler", [CONTROL, WIDE, '"'])
def test_decisions_with_every_cause_and_their_audits_fit(filler: str) -> None:
    ledger, outbox = Ledger(Policy(mode="enforce", enforce_uncalibrated=True), "test"), Outbox(TOPICS, 0)
    name = WIDE * NAME_CHARACTERS
    published: list[Message] = []
    for at in range(MOST_CAUSES + 1):
        issuer = f"{at:03}" + WIDE * (NAME_CHARACTERS - len("operator:") - 3)
        reason, number = filler * TEXT_CHARACTERS, f"{at:03}" + WIDE * (NAME_CHARACTERS - 3)
        word = Command(number, "add", 1.7e9, issuer, name, name, reason, Action("refuse"), None, 60.0)
        encode(word)
        published += outbox.messages(ledger.command(word, 1.7e9), (2**62, 2**62))
    assert {message.topic for message in published} == {TOPICS.decisions, TOPICS.audit}
    assert max(message.nbytes for message in published) > 300_000
    assert all(message.nbytes <= _taken(message.topic) for message in published)
