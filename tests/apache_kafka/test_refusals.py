"""Records that Kafka refuses permanently are cut, left out and counted, or reported with what to change; there is no
restart loop."""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping
from pathlib import Path

from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ConfigResource,
    ConfigResourceType,
    KafkaAdminClient,
    ResourcePattern,
    ResourceType,
)

from detector.contracts.codecs import decode, encode
from detector.contracts.findings import Action, Command, DeadLetter
from tests.brokers.node import KafkaNode
from tests.conftest import Broker
from tests.e2e.service import Service, running_service
from tests.e2e.test_service import until

_ACLS = """\
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=true
"""


def _alter(service: Service, topic: str, settings: Mapping[str, str]) -> None:
    admin = KafkaAdminClient(**service.kafka.client_arguments())
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, dict(settings))])
    admin.close()


def _metrics(service: Service) -> str:
    with urllib.request.urlopen(f"{service.worker.url}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def test_a_letter_that_its_topic_refuses_is_cut_and_a_record_for_people_is_left_out_and_counted(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    with running_service(broker, prefix, tmp_path) as service:
        _alter(service, service.topics.dead_letters, {"max.message.bytes": "20000"})
        _alter(service, service.topics.audit, {"max.message.bytes": "100"})
        bad = b'{"features": [' + b"0," * 50_000
        service.producer.send(service.topics.queries, bad, partition=0).get(30)
        (letter,) = service.read(service.topics.dead_letters, lambda found: len(found) >= 1)
        assert 0 < len(letter.value) < 20_000
        assert bad.startswith(letter.value)
        assert decode(DeadLetter, dict(letter.headers)["weirguard.dead-letter"]).size == len(bad)
        word = Command("c", "add", 1.7e9, "eve", "m", "p", "x" * 500, Action("refuse"), None, 60.0)
        service.producer.send(service.topics.commands, encode(word), partition=0).get(30)
        until(lambda: 'weirguard_refused_messages_total{topic="audit"}' in _metrics(service))
        service.read(service.topics.decisions, lambda found: len(found) >= 1)
        assert "weirguard_restarts_total 0.0" in _metrics(service)


def test_a_right_that_is_missing_is_named_and_not_asked_for_at_once_again(prefix: str, tmp_path: Path) -> None:
    with KafkaNode(tmp_path / "node", extra=_ACLS + "super.users=User:nobody") as node:
        broker = Broker(node.bootstrap, embedded=False, process=node)
        with running_service(broker, prefix, tmp_path) as service:
            admin = KafkaAdminClient(**service.kafka.client_arguments())
            pattern = ResourcePattern(ResourceType.TOPIC, service.topics.dead_letters)
            admin.create_acls([ACL("User:ANONYMOUS", "*", ACLOperation.WRITE, ACLPermissionType.DENY, pattern)])
            admin.close()
            service.producer.send(service.topics.queries, b"{", partition=0).get(30)
            until(lambda: "restart_in_seconds" in service.worker.log.read_text())
            log = service.worker.log.read_text()
            assert f"may not write to {service.topics.dead_letters}: grant it Write there" in log
            assert '"exit": 79, "restart_in_seconds": 30.0' in log
