"""The broker of this run with topics of each test's own."""

from __future__ import annotations

import pytest

from detector.contracts.topics import Topics
from detector.serving import Connection
from tests.conftest import Broker
from tests.serving.arrivals import create_topics


@pytest.fixture
def connection(broker: Broker, prefix: str) -> Connection:
    made = Connection(broker.bootstrap, Topics(prefix))
    create_topics(made)
    return made
