"""Who may do what: each role with the rights that docs/enforcement.md lists for it, and no others."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaProducer
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    KafkaAdminClient,
    ResourcePattern,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from kafka.errors import TopicAuthorizationFailedError

from detector.cli.operator import carry_out, write_record
from detector.contracts.codecs import KILL_SWITCH_KEY, encode
from detector.contracts.errors import BrokerError
from detector.contracts.findings import Action, Command
from detector.contracts.topics import Topics
from detector.replay.topics import read_decisions
from detector.runtime.sections import KafkaSettings
from detector.serving import Connection, Gate, QueryLogger
from tests.brokers.node import HOST, KafkaNode
from tests.conftest import Broker
from tests.e2e.service import PARTITIONS, Service, running_service
from tests.e2e.test_service import until
from tests.serving.arrivals import LATER
from tests.serving.doubles import decision

PAGE = Path(__file__).parents[2] / "docs" / "enforcement.md"
PASSWORD = "correct horse"
ROLES = ("detector", "serving", "operator", "reader")
_PROPERTIES = """\
listener.name.sasl_plaintext.sasl.enabled.mechanisms=SCRAM-SHA-256
listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
super.users=User:ANONYMOUS
"""


def rights(role: str, topics: Topics) -> Iterator[tuple[ResourcePattern, ACLOperation]]:
    """Those of the row of ``role``."""
    (row,) = re.findall(rf"^\| {role}\b(.*) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    _, read, write, besides = (cell.strip() for cell in row.split("|"))
    everything = "everything" in read
    for operation, cell in ((ACLOperation.READ, read), (ACLOperation.WRITE, write)):
        for name in re.findall(r"`([a-z-]+)`", cell):
            yield ResourcePattern(ResourceType.TOPIC, f"{topics.prefix}.{name}"), operation
    if not everything:
        return
    named = [getattr(ACLOperation, _constant(word)) for word in re.findall(r"\b(?:Create|Delete|Alter\w*)\b", besides)]
    for operation in (ACLOperation.READ, ACLOperation.WRITE, *named):
        yield ResourcePattern(ResourceType.TOPIC, topics.prefix, ACLResourcePatternType.PREFIXED), operation
    assert "Read of consumer groups" in besides
    yield ResourcePattern(ResourceType.GROUP, topics.prefix, ACLResourcePatternType.PREFIXED), ACLOperation.READ


def _constant(word: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", word).upper()


@pytest.fixture(scope="module")
def topics() -> Topics:
    return Topics(f"roles-{secrets.token_hex(4)}")


@pytest.fixture(scope="module")
def kafka(topics: Topics, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, KafkaSettings]]:
    """How each role reaches the node."""
    folder = tmp_path_factory.mktemp("roles")
    with KafkaNode(folder, extra=_PROPERTIES, secured=("SASL_PLAINTEXT",)) as node:
        with KafkaAdminClient(bootstrap_servers=node.bootstrap) as admin:
            admin.alter_user_scram_credentials(
                [UserScramCredentialUpsertion(role, ScramMechanism.SCRAM_SHA_256, PASSWORD) for role in ROLES]
            )
            admin.create_acls(
                [
                    ACL(f"User:{role}", "*", operation, ACLPermissionType.ALLOW, pattern)
                    for role in ROLES
                    for pattern, operation in rights(role, topics)
                ]
            )
        address = f"{HOST}:{node.ports['SASL_PLAINTEXT']}"
        yield {role: _settings(address, role, topics) for role in ROLES}


def _login(role: str) -> dict[str, str]:
    return {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_plain_username": role,
        "sasl_plain_password": PASSWORD,
    }


def _settings(address: str, role: str, topics: Topics) -> KafkaSettings:
    known = {"bootstrap_servers": address, "prefix": topics.prefix, "partitions": PARTITIONS, **_login(role)}
    return KafkaSettings.model_validate(known)


@pytest.fixture(scope="module")
def service(
    kafka: dict[str, KafkaSettings], topics: Topics, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    address = kafka["detector"].bootstrap_servers
    broker = Broker(address, embedded=False, process=None, security=_login("detector"))  # type: ignore[arg-type]
    with running_service(broker, topics.prefix, tmp_path_factory.mktemp("service")) as running:
        yield running


def ban(name: str) -> Command:
    return Command(f"c-{name}", "add", time.time(), "ana", "m", name, "ticket 1", Action("refuse"), "enforce", 600.0)


def test_what_an_operator_decides_is_obeyed_by_who_serves(service: Service, kafka: dict[str, KafkaSettings]) -> None:
    own = kafka["serving"]
    connection = Connection(own.bootstrap_servers, own.topics, own.client_arguments())
    with QueryLogger(connection) as logger, Gate(connection, report_seconds=1.0) as gate:
        logger.log("p", "m", "1", [1.0, 2.0], [0.5, 0.5])
        assert carry_out(kafka["operator"], ban("p"), 60.0).kind == "command"
        until(lambda: not gate.check("m", "p").allowed)
        switch = encode(decision("none", model="*", principal="*", expires_at=LATER))
        write_record(kafka["operator"], own.topics.decisions, key=KILL_SWITCH_KEY, value=switch, partition=0)
        until(lambda: gate.check("m", "p").allowed)
        write_record(kafka["operator"], own.topics.decisions, key=KILL_SWITCH_KEY, value=None, partition=0)
        until(lambda: logger.snapshot()["sent"] == 1 and gate.snapshot()["reported"] > 0)
    assert ("m", "p") in read_decisions(kafka["reader"], time.time()).current
    assert gate.snapshot()["failures"] == gate.snapshot()["unreported"] == 0


@pytest.mark.parametrize("role", ["serving", "reader"])
def test_nobody_else_decides(service: Service, kafka: dict[str, KafkaSettings], role: str) -> None:
    with pytest.raises(BrokerError, match=r"no topic .* for this user; .*grant Describe there"):
        carry_out(kafka[role], ban(role), 5.0)
    with pytest.raises(BrokerError, match=r"(?i)authoriz"):
        write_record(kafka[role], service.topics.decisions, key=KILL_SWITCH_KEY, value=None, partition=0)
    assert ("m", role) not in read_decisions(kafka["reader"], time.time()).current


@pytest.mark.parametrize("role", ["operator", "reader"])
def test_only_who_serves_says_what_was_asked(service: Service, kafka: dict[str, KafkaSettings], role: str) -> None:
    with KafkaProducer(**kafka[role].client_arguments()) as producer:
        for topic in (service.topics.queries, service.topics.judged):
            with pytest.raises(TopicAuthorizationFailedError):
                producer.send(topic, b"{}", partition=0).get(timeout=30)
