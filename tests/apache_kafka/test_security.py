"""The whole way over listeners with SASL and TLS: the worker, the logger and the gate, each as it is configured."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from kafka.admin import KafkaAdminClient, ScramMechanism, UserScramCredentialUpsertion

from detector.contracts.errors import BrokerError
from detector.runtime.broker import answers_metadata, answers_versions
from detector.runtime.sections import KafkaSettings, tls_context
from detector.serving import Gate, QueryLogger
from detector.stream import topics
from tests.brokers.node import HOST, KafkaNode
from tests.conftest import Broker
from tests.e2e.service import Service, running_service
from tests.e2e.test_service import DELTA, until
from tests.stream.world import queries

USER, PASSWORD = "detector", "correct horse"

_PROPERTIES = f"""\
listener.name.sasl_plaintext.sasl.enabled.mechanisms=SCRAM-SHA-256
listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.sasl.enabled.mechanisms=PLAIN
listener.name.sasl_ssl.plain.sasl.jaas.config=\
org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";
ssl.keystore.location={{store}}
ssl.keystore.type=PKCS12
ssl.keystore.password={PASSWORD}
"""

_LOGIN = {"sasl_plain_username": USER, "sasl_plain_password": PASSWORD}
LISTENERS: Mapping[str, Mapping[str, str]] = {
    "SASL_PLAINTEXT": {"sasl_mechanism": "SCRAM-SHA-256", **_LOGIN},
    "SASL_SSL": {"sasl_mechanism": "PLAIN", **_LOGIN},
    "SSL": {},
}


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A key store with a fresh certificate for the loopback address, and that certificate as PEM; by Java's keytool."""
    store, certificate = folder / "node.p12", folder / "node.pem"
    access = ["-keystore", str(store), "-storepass", PASSWORD, "-alias", "node"]
    name = ["-dname", "CN=node", "-ext", f"san=ip:{HOST}", "-validity", "2"]
    for command in (
        ["-genkeypair", "-keyalg", "RSA", *name],
        ["-exportcert", "-rfc", "-file", str(certificate)],
    ):
        subprocess.run(["keytool", *command, *access], check=True, capture_output=True)
    return store, certificate


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Broker]]:
    """One node by each of its secured listeners."""
    folder = tmp_path_factory.mktemp("secured")
    store, certificate = _certificate(folder)
    with KafkaNode(folder / "node", extra=_PROPERTIES.format(store=store), secured=tuple(LISTENERS)) as node:
        with KafkaAdminClient(bootstrap_servers=node.bootstrap) as admin:
            admin.alter_user_scram_credentials(
                [UserScramCredentialUpsertion(USER, ScramMechanism.SCRAM_SHA_256, PASSWORD)]
            )
        yield {protocol: _listener(node, protocol, certificate) for protocol in LISTENERS}


def _listener(node: KafkaNode, protocol: str, certificate: Path) -> Broker:
    trust = {"ssl_cafile": str(certificate)} if protocol.endswith("SSL") else {}
    security = {"security_protocol": protocol, **LISTENERS[protocol], **trust}
    return Broker(f"{HOST}:{node.ports[protocol]}", embedded=False, process=node, security=security)


def _log(service: Service, logger: QueryLogger, seed: int) -> None:
    batch = queries(300, seed)
    for row in range(len(batch)):
        name = batch.principals[batch.principal_index[row]]
        logger.log(name, batch.model, batch.model_version, batch.features[row], batch.outputs[row])


@pytest.mark.parametrize("protocol", LISTENERS)
def test_a_thief_is_found_and_refused(
    secured: Mapping[str, Broker], protocol: str, prefix: str, tmp_path: Path
) -> None:
    with running_service(secured[protocol], prefix, tmp_path, **DELTA) as service:
        connection = service.connection
        with QueryLogger(connection) as logger, Gate(connection) as gate:
            for seed in range(8):
                _log(service, logger, seed)
            until(lambda: gate.check("m", "thief").action == "refuse")
            assert gate.check("m", "ana").allowed


def _settings(broker: Broker, **other: str) -> KafkaSettings:
    return KafkaSettings.model_validate({"bootstrap_servers": broker.bootstrap, **broker.security, **other})


def test_without_the_right_password_nobody_gets_in(secured: Mapping[str, Broker], prefix: str) -> None:
    with pytest.raises(BrokerError, match="as configured"):
        topics.ensure(_settings(secured["SASL_PLAINTEXT"], sasl_plain_password="wrong", prefix=prefix))


@pytest.mark.parametrize("protocol", LISTENERS)
def test_the_watchdog_sees_that_a_secured_broker_is_there(secured: Mapping[str, Broker], protocol: str) -> None:
    settings = _settings(secured[protocol])
    host, _, port = settings.servers[0].rpartition(":")
    assert answers_versions(host, int(port), tls_context(settings))
    assert not answers_metadata(host, int(port)), "plain text gets no answer here"
