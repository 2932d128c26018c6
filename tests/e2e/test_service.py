"""The whole way over a real broker: queries in, decisions out, commands obeyed, strays brought home."""

from __future__ import annotations

import json
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from detector.contracts.codecs.packed_queries import PACKED_CONTENT_TYPE, excerpt
from detector.contracts.codecs.records import decode, encode
from detector.contracts.findings import Alert, Command, DeadLetter
from detector.contracts.topics import partition_of
from detector.serving import Gate
from detector.stream.partition import Partition
from detector.stream.source_records import ORIGIN
from detector.stream.state_log import StateRecord
from detector.stream.state_log import decode as decode_state
from tests.chaos.load import records
from tests.conftest import Broker
from tests.contracts.malformed import malformed
from tests.contracts.wire import encode_json_query
from tests.e2e.service import PARTITIONS, Service, running_service
from tests.stream.world import new_partition, queries

DELTA = {"WEIRGUARD_DETECTION__PRADA__DELTA": "0.85"}


def gate_of(service: Service) -> Gate:
    return Gate(service.connection)


def send(service: Service, rows: int, seed: int) -> None:
    batch = queries(rows, seed)
    for outgoing in records(batch, PARTITIONS, json_share=0.3):
        headers = [("content-type", PACKED_CONTENT_TYPE.encode())] if outgoing.packed else []
        service.producer.send(
            service.topics.queries, outgoing.value, outgoing.key, headers, partition=outgoing.partition
        )
    service.producer.flush()


def test_a_thief_is_found_and_the_gate_obeys_until_an_operator_clears_him(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    with running_service(broker, prefix, tmp_path, **DELTA) as service, gate_of(service) as gate:
        for seed in range(8):
            send(service, 300, seed)
        alerts = service.read(service.topics.alerts, lambda found: len(found) >= 1)
        records = [decode(Alert, record.value) for record in alerts]
        assert {(alert.principal, alert.calibrated) for alert in records} == {("thief", False)}
        assert len({(alert.id, alert.revision) for alert in records}) == len(records)
        with urllib.request.urlopen(f"{service.worker.url}/readyz", timeout=5) as answer:
            assert json.load(answer)["uncalibrated"] == ["m 1"]
        assert "UNCALIBRATED: m 1 is judged without a profile" in service.worker.log.read_text()
        until(lambda: gate.check("m", "thief").action == "refuse")
        assert gate.check("m", "ana").action == "none"
        service.read(service.topics.state_log, lambda found: _rows(found) >= 8 * 300)
        clear = Command("c1", "clear", time.time(), "eve", "m", "thief", "an agreed test")
        home = partition_of("thief", PARTITIONS)
        service.producer.send(service.topics.commands, encode(clear), b"thief", partition=home)
        service.producer.flush()
        until(lambda: gate.check("m", "thief").action == "none")
        assert "\x1b" not in service.worker.log.read_text()


def test_foreign_partitioning_is_mended_and_every_query_counts_once(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    with running_service(broker, prefix, tmp_path, **DELTA) as service:
        batch = queries(800, seed=3)
        for row in range(len(batch)):
            service.producer.send(service.topics.queries, encode_json_query(batch, row), partition=row % PARTITIONS)
        service.producer.flush()
        log = service.read(service.topics.state_log, lambda found: _rows(found) >= len(batch))
        owners = [recovered(log, number) for number in range(PARTITIONS)]
        homes = {key.principal: owner.number for owner in owners for key in owner.detector.engine.keys()}
        assert homes == {name: partition_of(name, PARTITIONS) for name in batch.principals}
        assert _rows(log) == len(batch)


def test_ten_thousand_bad_records_among_ten_thousand_good_ones(broker: Broker, prefix: str, tmp_path: Path) -> None:
    with running_service(broker, prefix, tmp_path, **DELTA) as service:
        batch = queries(10_000, seed=4)
        home = [partition_of(name, PARTITIONS) for name in batch.principals]
        carried = (wrong for wrong in malformed(seed=1) if len(wrong.value) < 1_000_000)
        bad = list(islice(carried, 10_000))
        before, sent = service.resident_bytes(), []
        for row, wrong in enumerate(bad):
            headers = [("content-type", wrong.content_type.encode())] if wrong.content_type else []
            sent.append(
                service.producer.send(
                    service.topics.queries, wrong.value, wrong.key, headers, partition=row % PARTITIONS
                )
            )
            value, number = encode_json_query(batch, row), home[batch.principal_index[row]]
            service.producer.send(service.topics.queries, value, partition=number)
        service.producer.flush()
        letters = service.read(service.topics.dead_letters, lambda found: len(found) >= len(bad))
        described = [decode(DeadLetter, dict(letter.headers)["weirguard.dead-letter"]) for letter in letters]
        assert Counter(letter.reason for letter in described) == Counter(wrong.reason for wrong in bad)
        places = [(service.topics.queries, future.value.partition, future.value.offset) for future in sent]
        originals = {place: wrong.value for place, wrong in zip(places, bad, strict=True)}
        for letter, told in zip(letters, described, strict=True):
            if told.topic == service.topics.queries:
                original = originals.pop((told.topic, told.partition, told.offset))
                assert letter.value == (excerpt(original, told.rows) if told.rows else original)
        moved = [dict(letter.headers)[ORIGIN] for letter in letters if ORIGIN in dict(letter.headers)]
        assert sorted(moved) == sorted(b"%d:%d" % place[1:] for place in originals), (
            "those of another partition's principal"
        )
        log = service.read(service.topics.state_log, lambda found: _rows(found) >= len(batch))
        assert _rows(log) == len(batch)
        assert service.resident_bytes() - before < 200_000_000


def _rows(log: list[Any]) -> int:
    whole = (decode_state(record.value) for record in log)
    return sum(record.rows for record in whole if isinstance(record, StateRecord))


def recovered(log: list[Any], number: int) -> Partition:
    """What a successor of partition ``number`` would hold."""
    partition = new_partition(number, PARTITIONS)
    for record in log:
        if record.partition == number:
            partition.absorb(record.offset, record.value)
    return partition


def until(condition: Callable[[], bool], seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)
