"""A thief of each family at work over HTTP: all queries pass middleware, Kafka and detector without loss."""

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
from starlette.types import ASGIApp

from detector.contracts.batches import take
from detector.contracts.codecs.packed_queries import decode_packed
from detector.contracts.queries import QueryBatch
from detector.contracts.topics import partition_of
from detector.core.state.arrays import unpack
from detector.lab.endpoint import conduct_over_http
from detector.lab.experiment import AttackPlan, dataset_of, victim_of
from detector.lab.mappings import mapping_of
from detector.lab.query_log import THIEF, QueryLog
from detector.lab.server import PREDICT, create_app, guard
from detector.lab.victims.neural import perceptron
from detector.lab.victims.tabular import TreeVictim
from tests.conftest import Broker
from tests.e2e.model_servers import tree_server, zoo_server
from tests.e2e.service import PARTITIONS, Service, running_service
from tests.e2e.test_service import recovered
from tests.lab.zoo import Zoo, ZooModel

BUDGET = 60
SWEEP = 89
"""Queries until the sweep has found its cell."""

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
def serving(app: ASGIApp) -> Iterator[str]:
    """The URL that predicts of the guarded model server ``app``."""
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
        with serving(guard(create_app(model, data.dimension), service.kafka)) as url:
            plans = [
                AttackPlan(attack, url, dataset, budget=BUDGET, pause=1e-6) for attack in FAMILIES[dataset, victim]
            ]
            logs = [conduct_over_http(plan, mapping_of("kserve-v1")) for plan in plans]
        assert all(0 < len(log.queries) <= BUDGET for log in logs)
        check_it_arrived(service, logs)


def test_path_finding_with_features_left_out_passes_with_its_masks_and_its_leaves(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    _, tree = victim_of("iris", "decision tree")
    assert isinstance(tree, TreeVictim)
    with running_service(broker, prefix, tmp_path, WEIRGUARD_POLICY__MODE="observe") as service:
        with serving(tree_server(tree, service.kafka)) as url:
            log = conduct_over_http(
                AttackPlan("path finding top-down", url, "iris", budget=BUDGET, pause=1e-6), mapping_of("kserve-v1")
            )
        queries = log.queries
        assert queries.missing is not None and queries.leaf is not None
        assert queries.missing[0].all() and not queries.missing.all()
        np.testing.assert_array_equal(queries.leaf, leaves(tree, queries))
        assert log.run.curve[-1].test == 1.0
        check_it_arrived(service, [log])


def test_a_sweep_of_specifications_passes_with_what_it_requested(broker: Broker, prefix: str, tmp_path: Path) -> None:
    digits = dataset_of("digits")
    zoo = Zoo([ZooModel(perceptron(digits, 0, 6), 0.8, 3.0), ZooModel(perceptron(digits, 0, 24), 0.95, 12.0)])
    with running_service(broker, prefix, tmp_path, WEIRGUARD_POLICY__MODE="observe") as service:
        with serving(zoo_server(zoo, service.kafka)) as url:
            log = conduct_over_http(
                AttackPlan("psml sweep", url, "digits", budget=SWEEP + 60, pause=1e-6), mapping_of("kserve-v2")
            )
        specification = log.queries.specification
        assert specification is not None
        assert set(zoo.chosen(specification)) == {-1, 0, 1}
        assert set(zoo.chosen(specification[SWEEP:])) == {1}
        check_it_arrived(service, [log])


def leaves(tree: TreeVictim, queries: QueryBatch) -> NDArray[np.int64]:
    """The nodes at which ``queries`` end."""
    assert queries.missing is not None
    leaf = tree.answer(np.where(queries.missing, np.float32(np.nan), queries.features)).leaf
    assert leaf is not None
    return leaf


def check_it_arrived(service: Service, logs: list[QueryLog]) -> None:
    """What ``logs`` say lies on Kafka, row by row, and the detector counts as many."""
    asked = sum(len(log.queries) for log in logs)
    records = service.read(service.topics.queries, lambda found: len(of_mallory(found, "features")) >= asked)
    for name in ("features", "missing", "leaf", "specification"):
        np.testing.assert_array_equal(of_mallory(records, name), column([log.queries for log in logs], name))
    log = service.read(service.topics.state_log, lambda found: counted(found) >= asked)
    assert counted(log) == asked


def counted(log: list[Any]) -> int:
    """How many of the thief's queries the state holds."""
    owner = recovered(log, partition_of(THIEF, PARTITIONS))
    engine = owner.detector.engine
    thief = [key for key in engine.keys() if key.principal == THIEF]
    return int(unpack(engine.dump(thief)["engine"][1])["queries"][0]) if thief else 0


def batches_of(records: list[Any]) -> list[QueryBatch]:
    return [batch for record in records if (batch := decode_packed(record.value).batch) is not None]


def of_mallory(records: list[Any], name: str) -> NDArray[Any]:
    """The column called ``name`` of what the thief asked, as it lies on Kafka."""
    batches = batches_of(records)
    own = [np.asarray(batch.principals)[batch.principal_index] == THIEF for batch in batches]
    return column([take(batch, np.flatnonzero(rows)) for batch, rows in zip(batches, own, strict=True)], name)


def column(batches: list[QueryBatch], name: str) -> NDArray[Any]:
    """The column called ``name`` of all ``batches``; a batch without masks has every feature."""
    columns = [getattr(batch, name) for batch in batches if len(batch)]
    if name == "missing":
        whole = [np.zeros(batch.features.shape, np.bool_) for batch in batches if len(batch)]
        columns = [each if mask is None else mask for mask, each in zip(columns, whole, strict=True)]
    there = [each for each in columns if each is not None]
    return np.concatenate(there) if there else np.empty(0)
