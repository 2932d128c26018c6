"""Which broker the end-to-end tests run on, and a topic prefix of each test's own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from detector.runtime.broker import EmbeddedBroker
from tests.brokers.node import KafkaNode


@dataclass(frozen=True, slots=True)
class Broker:
    """A running broker: ``bootstrap`` is its address, ``embedded`` what the worker's setting of that name must be.

    ``security``: the settings that this address needs, named as in KafkaSettings.
    """

    bootstrap: str
    embedded: bool
    process: KafkaNode | EmbeddedBroker
    security: Mapping[str, str] = field(default_factory=dict)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--broker", choices=["embedded", "apache"], default="embedded", help="broker of tests/e2e")


ON_ONE_BROKER = {
    "test_attack_families.py",
    "test_detector_away.py",
    "test_explain.py",
    "test_gate_service.py",
    "test_hostile_client.py",
    "test_inputs.py",
    "test_profile.py",
}
"""Tests of tests/e2e that would find nothing more on a second broker."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """tests/apache_kafka belongs to a run with ``--broker apache`` alone; without Java there is nothing to skip."""
    apache = config.getoption("--broker") == "apache"
    unwanted = collection_path.name in ON_ONE_BROKER if apache else collection_path.name == "apache_kafka"
    return True if unwanted else None


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The broker of this run, shared by its tests; keep to topics under ``prefix``."""
    if request.config.getoption("--broker") == "apache":
        with KafkaNode(tmp_path_factory.mktemp("kafka")) as node:
            yield Broker(node.bootstrap, embedded=False, process=node)
    else:
        with EmbeddedBroker() as embedded:
            yield Broker(embedded.bootstrap, embedded=True, process=embedded)


@pytest.fixture
def prefix() -> str:
    """A topic prefix, and so an application, that no other test uses."""
    return f"test-{secrets.token_hex(4)}"
