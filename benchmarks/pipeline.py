"""The whole pipeline, from records on Kafka to the decisions that follow: queries per second, packed and single.

A worker takes some queries, so that it has learned, and leaves. A backlog gathers; the worker comes back, and is timed
from the first state record that covers a part of it to the last, and by the CPU time of its process. d=64, 1,000
principals and ten thieves. ``profile`` is packed with a profile of 50 of the honest principals, and ``groups`` the same
with a profile that has a crowd, so that groups are watched too: until their judged queries are applied as well.
Run: python -m benchmarks.pipeline [--broker embedded|apache]
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from kafka import KafkaProducer

from benchmarks._service import Service, brokers_to_measure, service, wait_until
from detector.contracts.codecs.packed_queries import PACKED_CONTENT_TYPE
from detector.core.calibration.calibrate import calibrate
from detector.core.calibration.traffic import accounts_of
from detector.groups.calibration import crowd_of
from detector.runtime.sections import DetectionSettings
from tests.chaos.audit import Counted, Names, counted_records
from tests.chaos.load import records
from tests.chaos.population import Population
from tests.chaos.stage import applied_offset
from tests.chaos.tail import Tail

PRINCIPALS = 1_000
DIMENSION = 64
_PARTITIONS = 4
_SIZES = {"packed": (200_000, 0.0), "single": (30_000, 1.0), "profile": (200_000, 0.0), "groups": (200_000, 0.0)}
_CALIBRATING = 20_000
_ROWS_AT_ONCE = 800


def measure(broker: str, kind: str) -> None:
    """Print one line of the table."""
    queries, json_share = _SIZES[kind]
    population = Population(11, honest=PRINCIPALS, thieves=10, queries_to_next_thief=queries // 20, dimension=DIMENSION)
    with TemporaryDirectory() as folder, service(broker, _PARTITIONS, detection=_detection(kind, folder)) as running:
        kafka = running.settings.kafka
        with Tail(kafka.bootstrap_servers, kafka.prefix, embedded=kafka.embedded) as tail:
            prelude = _fill(running, population, _ROWS_AT_ONCE, json_share)
            _work(running, tail, prelude)
            last = _fill(running, population, queries, json_share)
            cpu = _work(running, tail, last)
            logs, _ = tail.snapshot()
    counted = (one for number in last for one in counted_records(logs, kafka.prefix, number))
    deltas = [one for one in counted if one.header["rows"] and one.header["source"][1] > prelude[one.entry.partition]]
    _print(broker, kind, deltas, cpu)


def _detection(kind: str, folder: str) -> DetectionSettings:
    if kind not in ("profile", "groups"):
        return DetectionSettings()
    accounts = accounts_of([Population(11, honest=50, thieves=0, dimension=DIMENSION).draw(_CALIBRATING)])
    calibration = calibrate(accounts, 0.01)
    crowd = crowd_of(calibration, accounts) if kind == "groups" else None
    path = Path(folder) / "digits.profile"
    path.write_bytes(replace(calibration.profile, crowd=crowd).to_bytes())
    return DetectionSettings(profiles=(path,))


def _work(running: Service, tail: Tail, last: dict[int, int]) -> float:
    """Have the worker apply everything up to ``last``, then leave; the CPU seconds that took once it was ready."""
    names = Names(running.settings.kafka.prefix)

    def done() -> bool:
        logs, _ = tail.snapshot()
        if any(applied_offset(logs, names, number) < end for number, end in last.items()):
            return False
        sent = running.ends(running.settings.kafka.topics.judged)
        return all(applied_offset(logs, names, number, "judged") >= end - 1 for number, end in sent.items())

    running.worker.start()
    running.wait_ready()
    before = running.cpu_seconds
    wait_until("the backlog applied", done, every=1.0)
    cpu = running.cpu_seconds - before
    running.worker.leave()
    return cpu


def _print(broker: str, kind: str, deltas: list[Counted], cpu: float) -> None:
    first = min(one.entry.at for one in deltas)
    seconds = (max(one.entry.at for one in deltas) - first) / 1000
    rows = sum(one.header["rows"] for one in deltas)
    timed = sum(one.header["rows"] for one in deltas if one.entry.at > first)
    nbytes = sum(len(one.entry.value or b"") for one in deltas)
    rates = f"{timed / seconds:12,.0f} {rows / cpu:14,.0f}"
    print(f"{broker:9} {kind:7} {rows:8,} {rates} {rows / len(deltas):10.0f} {nbytes / rows:10.0f}", flush=True)


def _fill(running: Service, population: Population, queries: int, json_share: float) -> dict[int, int]:
    """Put ``queries`` on the topic; by partition the offset of the last record."""
    kafka = running.settings.kafka
    header = [("content-type", PACKED_CONTENT_TYPE.encode())]
    last: dict[int, int] = {}
    with KafkaProducer(
        bootstrap_servers=kafka.bootstrap_servers, acks="all", linger_ms=20, batch_size=500_000
    ) as producer:
        for _ in range(queries // _ROWS_AT_ONCE):
            batch = replace(population.draw(_ROWS_AT_ONCE), occurred_at=np.full(_ROWS_AT_ONCE, time.time()))
            for one in records(batch, kafka.partitions, json_share):
                headers = header if one.packed else None
                sent = producer.send(kafka.topics.queries, one.value, one.key, headers, partition=one.partition)
                sent.add_callback(lambda at: last.__setitem__(at.partition, max(at.offset, last.get(at.partition, -1))))
        producer.flush()
    return last


def main() -> None:
    columns = ("broker", "records", "queries", "queries/s", "queries/CPU s", "rows/step", "bytes/q")
    print("{:9} {:7} {:>8} {:>12} {:>14} {:>10} {:>10}".format(*columns))
    for broker in brokers_to_measure(__doc__):
        for kind in _SIZES:
            measure(broker, kind)


if __name__ == "__main__":
    main()
