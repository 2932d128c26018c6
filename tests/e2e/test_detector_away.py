"""The detector is killed under load over HTTP: serving goes on as it was, and what was decided holds until it ends."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detector.contracts.codecs.records import encode
from detector.contracts.findings import Action, Command
from detector.contracts.topics import partition_of
from tests.conftest import Broker
from tests.e2e.guarded import GuardedModel, guarded_model
from tests.e2e.service import PARTITIONS, Service, running_service
from tests.serving.arrivals import until

OPEN, CLOSED = "digits", "credit"
BRIEF_SECONDS = 6.0
"""A decision that ends while the detector is away."""

Seen = Counter[tuple[str, str, int]]


def _refuse(service: Service, account: str, seconds: float) -> None:
    for model in (OPEN, CLOSED):
        command = Command(
            f"{account} {model}",
            "add",
            time.time(),
            "eve",
            model,
            account,
            "a test",
            Action("refuse"),
            "enforce",
            seconds,
        )
        place = partition_of(account, PARTITIONS)
        service.producer.send(service.topics.commands, encode(command), account.encode(), partition=place).get(10)


@contextmanager
def _load(model: GuardedModel) -> Iterator[Seen]:
    """Asks without a pause; how often each model gave each account each status."""
    seen: Seen = Counter()
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            for account in ("honest", "thief", "brief", "late"):
                for name in (OPEN, CLOSED):
                    seen[account, name, model.ask(account, model=name)[0]] += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join(20)


def _statuses(seen: Seen, account: str) -> set[int]:
    return {status for who, _, status in seen.copy() if who == account}


def test_without_its_detector_a_gate_obeys_what_was_decided_and_serving_sees_no_error(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    closed = {"when_stale": {CLOSED: "refuse"}, "max_staleness_seconds": 10.0}
    with (
        running_service(broker, prefix, tmp_path) as service,
        guarded_model(service.connection, (OPEN, CLOSED), **closed) as model,
    ):
        with _load(model) as seen:
            _refuse(service, "thief", 600.0)
            _refuse(service, "brief", BRIEF_SECONDS)
            for account in ("thief", "brief"):
                for name in (OPEN, CLOSED):
                    assert until(lambda at=(account, name, 429): seen[at] > 0), account  # type: ignore[misc]
            service.worker.kill_all()
            assert math.isnan(service.metric("weirguard_records_behind")), "what WeirguardDown fires for"
            _refuse(service, "late", 600.0)
            seen.clear()
            assert until(lambda: seen["brief", OPEN, 200] > 0 and seen["brief", CLOSED, 200] > 0)
            seen.clear()
            assert until(lambda: seen["late", CLOSED, 200] > 20)
            # Kafka answers, so no model is stale, open or closed: those who are not refused are answered.
            assert {who: _statuses(seen, who) for who in ("honest", "thief", "brief", "late")} == {
                "honest": {200},
                "thief": {429},
                "brief": {200},
                "late": {200},
            }
            counts = model.gate.snapshot()
            assert (counts["stale_allowed"], counts["stale_refused"], counts["failures"]) == (0, 0, 0)
            assert model.gate.gauges()["age_seconds"] < 10.0
        service.worker.start()
        assert until(service.worker.ready, 60)
        assert until(lambda: [model.ask("late", model=name)[0] for name in (OPEN, CLOSED)] == [429, 429])
        assert until(lambda: service.metric("weirguard_records_behind") == 0)
