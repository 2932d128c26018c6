"""State records far above the limit of their topic, and workers killed between their parts."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from detector.contracts.codecs import PACKED_CONTENT_TYPE, encode_packed
from detector.contracts.topics import partition_of
from detector.core.state.arrays import unpack
from detector.stream.state_log import RecordPart, decode
from tests.conftest import Broker
from tests.contracts.batches import make_batch
from tests.e2e.marked_worker import KILL_AFTER_PART, SUPERVISE
from tests.e2e.service import PARTITIONS, Service, running_service
from tests.e2e.test_service import recovered

LIMIT = 65_536
SETTINGS = {
    "WEIRGUARD_KAFKA__STATE_RECORD_BYTES": str(LIMIT),
    "WEIRGUARD_KAFKA__QUERY_RECORD_BYTES": "16384",
    "WEIRGUARD_WORKER__MICROBATCH_BYTES": str(LIMIT),
    KILL_AFTER_PART: "2",
}
NEWCOMERS = 2_000
HEADERS = [("content-type", PACKED_CONTENT_TYPE.encode())]


def _send_newcomers(service: Service, number: int) -> list[str]:
    """One packed record whose principals, all of partition 0, need a state record of several parts."""
    found = (f"n{number}-{at}" for at in range(NEWCOMERS * 8))
    names = [name for name in found if partition_of(name, PARTITIONS) == 0][:NEWCOMERS]
    index = np.arange(len(names), dtype=np.int32)
    batch = make_batch(rows=len(names), seed=number, principals=names, principal_index=index)
    service.producer.send(service.topics.queries, encode_packed(batch), None, HEADERS, partition=0).get(30)
    return names


def _halves(log: list[Any]) -> int:
    """Records that a dead owner left incomplete."""
    decoded = [decode(record.value) for record in log if record.partition == 0]
    return sum(
        isinstance(one, RecordPart) and one.number + 1 < one.count and not isinstance(two, RecordPart)
        for one, two in pairwise(decoded)
    )


def test_workers_killed_between_the_parts_of_a_record_lose_and_repeat_nothing(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    with running_service(broker, prefix, tmp_path, SUPERVISE, **SETTINGS) as service:
        names = [name for number in range(3) for name in _send_newcomers(service, number)]
        log = service.read(
            service.topics.state_log, lambda found: recovered(found, 0).applied.get("queries", -1) == 2, 120.0
        )
        assert _halves(log) == 2
        assert all(len(record.value) < LIMIT for record in log)
        successor = recovered(log, 0)
        assert {key.principal for key in successor.detector.engine.keys()} == set(names)
        section = unpack(successor.detector.engine.dump(successor.detector.engine.keys())["engine"][1])
        assert section["queries"].tolist() == [1] * len(names)
        assert "poison" not in service.worker.log.read_text()
