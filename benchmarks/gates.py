"""How soon gates obey, and what the loss of the broker or the detector does to those who ask them.

From a record sent to obeyed by each of 8 gate processes: a decision, its release, and the kill switch. Then a gate
service with a client that asks without a pause, before the broker is killed, while it is away, and after its return;
and the same with a detector.
Run: python -m benchmarks.gates
"""

from __future__ import annotations

import multiprocessing
import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks._service import wait_until
from detector.contracts.codecs import KILL_SWITCH_KEY
from detector.contracts.codecs.records import HEARTBEAT_SECONDS
from detector.contracts.findings import ActionName
from detector.contracts.topics import Topics, partition_of
from detector.runtime.broker import EmbeddedBroker
from detector.serving import Connection, Gate
from tests.conftest import Broker
from tests.e2e.service import running_service
from tests.e2e.test_gate_service import CLOSED, OPEN, STALE_SECONDS, gate_service
from tests.serving.arrivals import LATER, PARTITIONS, create_topics, tell
from tests.serving.doubles import decision, record

PROCESSES = 8
ROUNDS = 50
PHASE_SECONDS = 10.0
GOAL_MILLISECONDS = 200.0
_LOOK_SECONDS = 0.001

Step = tuple[str, bool]
"""What is published, and whether the principal is allowed then."""

STEPS: tuple[Step, ...] = (("decision", False), ("kill switch", True), ("kill switch off", False), ("release", True))


def watch(connection: Connection, ready: Any, times: Any) -> None:
    """A gate process: notes when it obeys each step of each round."""
    with Gate(connection) as gate:
        assert gate.wait_until_ready(60)
        ready.put(True)
        for number in range(ROUNDS):
            for _, allowed in STEPS:
                while gate.check("digits", f"p{number}").allowed != allowed:
                    time.sleep(_LOOK_SECONDS)
                times.put(time.time())


def propagation(connection: Connection) -> dict[str, list[float]]:
    """Milliseconds from a record sent to obeyed, by step, over all rounds and processes."""
    context = multiprocessing.get_context("spawn")
    ready, times = context.Queue(), context.Queue()
    watchers = [context.Process(target=watch, args=(connection, ready, times), daemon=True) for _ in range(PROCESSES)]
    for one in watchers:
        one.start()
    for _ in watchers:
        ready.get(timeout=120)
    spent: dict[str, list[float]] = {name: [] for name, _ in STEPS}
    producer = connection.producer()
    for number in range(ROUNDS):
        for name, key, value, partition in _records(number):
            begun = time.time()
            producer.send(connection.topics.decisions, value, key=key, partition=partition)
            spent[name] += [1_000 * (times.get(timeout=60) - begun) for _ in watchers]
            time.sleep(0.02 * secrets.randbelow(10))  # no step with the gates' own polling
    producer.close()
    for one in watchers:
        one.join(30)
    return spent


def _records(number: int) -> list[tuple[str, bytes, bytes | None, int]]:
    principal, place = f"p{number}", partition_of(f"p{number}", PARTITIONS)

    def about(action: ActionName, sequence: int) -> tuple[bytes, bytes]:
        return record(decision(action, principal=principal, epoch=(1, sequence), expires_at=LATER))

    everyone = record(decision("none", model="*", principal="*", expires_at=LATER))
    return [
        ("decision", *about("refuse", 1), place),
        ("kill switch", *everyone, 0),
        ("kill switch off", KILL_SWITCH_KEY, None, 0),
        ("release", *about("none", 2), place),
    ]


def asked(port: int, seconds: float) -> tuple[np.ndarray, dict[str, list[int]]]:
    """Milliseconds of each request of an honest client to the gate service, and the statuses by path."""
    spent: list[float] = []
    seen: dict[str, set[int]] = {OPEN: set(), CLOSED: set()}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"x-account": "honest"}) as client:
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends:
            for path, statuses in seen.items():
                begun = time.perf_counter()
                statuses.add(client.post(f"/envoy{path}").status_code)
                spent.append(1_000 * (time.perf_counter() - begun))
    return np.array(spent), {path: sorted(statuses) for path, statuses in seen.items()}


def outage(broker: EmbeddedBroker, connection: Connection) -> None:
    """What the loss of ``broker`` does."""

    def back() -> None:
        broker.start()
        create_topics(connection)
        tell(connection, decision("refuse", epoch=(2, 1), expires_at=LATER))
        time.sleep(2 * STALE_SECONDS)

    def away() -> None:
        broker.kill()
        time.sleep(2 * STALE_SECONDS)

    phases: Sequence[tuple[str, Callable[[], object]]] = (("before", lambda: None), ("away", away), ("back", back))
    with tempfile.TemporaryDirectory() as folder:
        print_phases("broker", connection, Path(folder), phases)


def detector_outage(broker: EmbeddedBroker) -> None:
    """The same for a detector."""

    def away() -> None:
        service.worker.kill_all()
        time.sleep(STALE_SECONDS + 4 * HEARTBEAT_SECONDS)

    def back() -> None:
        service.worker.start()
        wait_until("the worker ready", service.worker.ready)
        time.sleep(STALE_SECONDS)

    named = Broker(broker.bootstrap, embedded=True, process=broker)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_service(named, f"bench-{secrets.token_hex(4)}", Path(folder)) as service,
    ):
        phases = (("before", lambda: None), ("away", away), ("back", back))
        print_phases("detector", service.connection, Path(folder), phases)


def print_phases(
    what: str, connection: Connection, folder: Path, phases: Sequence[tuple[str, Callable[[], object]]]
) -> None:
    """Prints a line for each phase: what changed then, and how a gate service answers after that."""
    print(f"\n{what:8} {'requests':>9} {'p50 ms':>7} {'p99 ms':>7} {'max ms':>7}  open model, closed model")
    with gate_service(connection, folder / "log") as (port, _):
        asked(port, 2.0)
        for name, change in phases:
            change()
            spent, statuses = asked(port, PHASE_SECONDS)
            p50, p99 = np.percentile(spent, [50, 99])
            print(f"{name:8} {len(spent):9,} {p50:7.2f} {p99:7.2f} {spent.max():7.1f}  {[*statuses.values()]}")


def main() -> None:
    with EmbeddedBroker() as broker:
        connection = Connection(broker.bootstrap, Topics(f"bench-{secrets.token_hex(4)}"))
        create_topics(connection)
        print(
            f"from sent to obeyed by {PROCESSES} gate processes, {ROUNDS} rounds; goal p99 < {GOAL_MILLISECONDS:g} ms"
        )
        print(f"{'':16} {'p50 ms':>7} {'p99 ms':>7} {'max ms':>7}")
        for name, spent in propagation(connection).items():
            p50, p99 = np.percentile(spent, [50, 99])
            print(f"{name:16} {p50:7.1f} {p99:7.1f} {max(spent):7.1f}", flush=True)
        detector_outage(broker)
        outage(broker, connection)


if __name__ == "__main__":
    main()
