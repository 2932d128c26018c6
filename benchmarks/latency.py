"""From a query logged to the gate that knows the decision it led to: p50 and p99, in milliseconds.

Honest principals and thieves are logged through the SDK at a steady rate; every thief is found once. Timed from the
call that logged the flagged query to the first look-up of a polling gate that knows of it.
Run: python -m benchmarks.latency [--broker embedded|apache]
"""

from __future__ import annotations

import json
import threading
import time

import numpy as np
from kafka import KafkaConsumer, TopicPartition

from benchmarks._service import Service, brokers_to_measure, service
from detector.serving.connection import Connection
from detector.serving.gate import Gate
from detector.serving.logger import QueryLogger
from tests.chaos.population import MODEL, MODEL_VERSION, Population

RATES = (500, 5_000)
THIEVES = 30
_TICK_SECONDS = 0.02
_PARTITIONS = 12
_LOOK_SECONDS = 0.001

Logged = dict[str, list[float]]
"""By principal the times (perf_counter seconds) at which their queries were logged, in order."""


class Watch:
    """Polls a gate about every thief, and notes when it first refuses or slows each."""

    def __init__(self, gate: Gate, names: list[str]) -> None:
        self.seen: dict[str, float] = {}
        self._gate = gate
        self._names = names
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(_LOOK_SECONDS):
            for name in self._names:
                if name not in self.seen and self._gate.check(MODEL, name).decision_id is not None:
                    self.seen[name] = time.perf_counter()


def measure(broker: str, rate: int) -> None:
    """Print one line of the table."""
    population = Population(3, honest=rate // 10, thieves=THIEVES, queries_to_next_thief=rate // 2)
    thieves = population.names[-THIEVES:]
    with service(broker, _PARTITIONS) as running:
        running.worker.start()
        running.wait_ready()
        connection = Connection(running.settings.kafka.bootstrap_servers, running.settings.kafka.topics)
        with Gate(connection) as gate, QueryLogger(connection) as logger:
            gate.wait_until_ready(30)
            watch = Watch(gate, thieves)
            watch.start()
            before = running.cpu_seconds
            logged, seconds, late = _log(population, logger, rate, watch)
            share = (running.cpu_seconds - before) / seconds
            watch.stop()
        known = [(name, index) for name, index in _found(running) if name in watch.seen]
    waits = [(watch.seen[name] - logged[name][index]) * 1000 for name, index in known]
    p50, p99 = np.percentile(waits, [50, 99])
    figures = f"{p50:9.1f} {p99:9.1f} {max(waits):9.1f} {share:10.0%} {late:9.2f}"
    print(f"{broker:9} {rate:6,} {len(waits):8} {figures}", flush=True)


def _log(population: Population, logger: QueryLogger, rate: int, watch: Watch) -> tuple[Logged, float, float]:
    """Log at ``rate`` until all thieves are known; also how long, and how far the sender fell behind, in seconds."""
    logged: Logged = {name: [] for name in population.names}
    started = due = time.perf_counter()
    late = 0.0
    while len(watch.seen) < THIEVES and due - started < 90:
        batch = population.draw(round(rate * _TICK_SECONDS))
        for row, at in enumerate(batch.principal_index.tolist()):
            name = population.names[at]
            logged[name].append(time.perf_counter())
            logger.log(name, MODEL, MODEL_VERSION, batch.features[row], batch.outputs[row])
        due += _TICK_SECONDS
        wait = due - time.perf_counter()
        late = max(late, -wait)
        time.sleep(max(0.0, wait))
    return logged, time.perf_counter() - started, late


def _found(running: Service) -> list[tuple[str, int]]:
    """Each principal with an alert, and the number of the query that it rests on."""
    kafka = running.settings.kafka
    found: dict[str, int] = {}
    with KafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers, group_id=None, enable_auto_commit=False, consumer_timeout_ms=2_000
    ) as consumer:
        consumer.assign([TopicPartition(kafka.topics.alerts, number) for number in range(kafka.partitions)])
        consumer.seek_to_beginning()
        for record in consumer:
            alert = json.loads(record.value)
            found.setdefault(alert["principal"], alert["query_index"])
    return sorted(found.items())


def main() -> None:
    columns = ("broker", "q/s", "thieves", "p50 ms", "p99 ms", "max ms", "worker CPU", "late s")
    print("{:9} {:>6} {:>8} {:>9} {:>9} {:>9} {:>10} {:>9}".format(*columns))
    for broker in brokers_to_measure(__doc__):
        for rate in RATES:
            measure(broker, rate)


if __name__ == "__main__":
    main()
