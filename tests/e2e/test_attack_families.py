"""A thief of each family at work over HTTP: what he asked passes middleware, Kafka and detector without loss."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray

from detector.contracts.codecs.queries_packed import decode_packed
from detector.contracts.partitioning import partition_of
from detector.contracts.queries import QueryBatch
from detector.core.arrays import unpack
from detector.lab.answers import Victim
from detector.lab.experiment import Plan, victim_of
from detector.lab.mappings import mapping_of
from detector.lab.over_http import conduct_over_http
from detector.lab.population import THIEF
from detector.lab.server import PREDICT, create_app, guard
from tests.conftest import Broker
from tests.e2e.service import PARTITIONS, Service, running_service
from tests.e2e.test_service import recovered

BUDGET = 60
FAMILIES = {
    ("breast cancer", "logistic regression"): ("equation solving", "lowd-meek", "adaptive retraining"),
    ("breast cancer", "decision tree"): ("path finding bottom-up",),
    ("digits", "multilayer perceptron"): (
        "jbda",
        "knockoff adaptive",
        "copycat",
        "cloudleak pgd",
        "uncertainty",
        "data-free",
        "model inversion",
        "boundary walk",
    ),
}


@contextmanager
def serving(service: Service, victim: Victim, dimension: int) -> Iterator[str]:
    """A guarded model server of ``victim``; the URL that predicts."""
    app = guard(create_app(victim, dimension), service.kafka)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}{PREDICT}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize(("dataset", "victim"), FAMILIES)
def test_what_a_thief_asks_over_http_is_what_the_detector_counts(
    broker: Broker, prefix: str, tmp_path: Path, dataset: str, victim: str
) -> None:
    data, model = victim_of(dataset, victim)
    with running_service(broker, prefix, tmp_path, WEIRGUARD_POLICY__MODE="observe") as service:
        with serving(service, model, data.dimension) as url:
            plans = [Plan(attack, url, dataset, budget=BUDGET, pause=1e-6) for attack in FAMILIES[dataset, victim]]
            logs = [conduct_over_http(plan, mapping_of("kserve-v1")) for plan in plans]
        asked = np.concatenate([log.queries.features for log in logs])
        assert all(0 < len(log.queries) <= BUDGET for log in logs)
        records = service.read(service.topics.queries, lambda found: len(of_mallory(found)) >= len(asked))
        np.testing.assert_array_equal(of_mallory(records), asked)
        log = service.read(service.topics.state_log, lambda found: counted(found) >= len(asked))
        assert counted(log) == len(asked)


def counted(log: list[Any]) -> int:
    """How many of the thief's queries the state holds."""
    owner = recovered(log, partition_of(THIEF, PARTITIONS))
    engine = owner.judge.engine
    thief = [key for key in engine.keys() if key.principal == THIEF]
    return int(unpack(engine.dump(thief)["engine"][1])["queries"][0]) if thief else 0


def batches_of(records: list[Any]) -> list[QueryBatch]:
    return [batch for record in records if (batch := decode_packed(record.value).batch) is not None]


def of_mallory(records: list[Any]) -> NDArray[np.float32]:
    """What the thief asked, as it lies on Kafka."""
    rows = [
        batch.features[np.asarray(batch.principals)[batch.principal_index] == THIEF] for batch in batches_of(records)
    ]
    return np.concatenate(rows) if rows else np.empty((0, 0), np.float32)
