"""The detector is killed under load over HTTP: open models are served as before, and what was decided holds until it
ends; models that are to be closed without a detector close."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from detector.contracts.codecs.records import HEARTBEAT_SECONDS, encode
from detector.contracts.findings import Action, Command
from detector.contracts.topics import partition_of
from detector.serving import Gate
from tests.chaos.workers import Worker
from tests.conftest import Broker
from tests.e2e.guarded import GuardedModel, guarded_model
from tests.e2e.service import PARTITIONS, Service, running_service
from tests.serving.arrivals import until

OPEN, CLOSED = "digits", "credit"
BRIEF_SECONDS = 6.0
"""A decision that ends while the detector is away."""

STALE_SECONDS = 8.0
ACCOUNTS = ("honest", "thief", "brief", "late")

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
            for account in ACCOUNTS:
                for name in (OPEN, CLOSED):
                    seen[account, name, model.ask(account, model=name)[0]] += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join(20)


def _statuses(seen: Seen, account: str, model: str) -> set[int]:
    return {status for who, name, status in seen.copy() if (who, name) == (account, model)}


def test_without_its_detector_open_models_obey_what_was_decided_and_closed_ones_close_until_it_is_back(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    closed = {"when_stale": {CLOSED: "refuse"}, "max_staleness_seconds": STALE_SECONDS}
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
            assert model.gate.snapshot()["stale_refused"] == 0
            assert until(lambda: seen["honest", CLOSED, 503] > 0, 60)
            assert model.gate.gauges()["age_seconds"] > STALE_SECONDS
            assert (silence := model.gate.gauges()["silence_seconds"]) > STALE_SECONDS
            seen.clear()
            assert until(lambda: seen["late", CLOSED, 503] > 20)
            served = {"honest": {200}, "thief": {429}, "brief": {200}, "late": {200}}
            assert {who: _statuses(seen, who, OPEN) for who in ACCOUNTS} == served
            assert {who: _statuses(seen, who, CLOSED) for who in ACCOUNTS} == {who: {503} for who in ACCOUNTS}
            counts = model.gate.snapshot()
            assert (counts["stale_allowed"], counts["failures"]) == (0, 0)
        service.worker.start()
        assert until(service.worker.ready, 60)
        assert until(lambda: [model.ask("late", model=name)[0] for name in (OPEN, CLOSED)] == [429, 429])
        assert until(lambda: model.ask("honest", model=CLOSED)[0] == 200)
        assert until(lambda: service.metric("weirguard_records_behind") == 0)
        assert until(lambda: 0 <= model.gate.gauges()["silence_seconds"] < silence)


def test_workers_of_one_detector_stand_in_for_each_other_and_closed_models_stay_open(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    with (
        running_service(broker, prefix, tmp_path) as service,
        Gate(service.connection, when_stale="refuse", max_staleness_seconds=30.0) as gate,
    ):
        other = replace(service, worker=Worker("other", service.worker.environment, tmp_path / "other.log"))
        other.worker.start()
        try:
            assert until(lambda: _partitions(other) == _partitions(service) == PARTITIONS / 2, 60)
            assert until(lambda: 0 <= _silence(gate) < 2 * HEARTBEAT_SECONDS)
            service.worker.kill_all()
            assert until(lambda: _partitions(other) == PARTITIONS, 60)
            taken_over = time.monotonic()
            assert until(lambda: time.monotonic() - taken_over > 2 * HEARTBEAT_SECONDS)
            assert until(lambda: _silence(gate) < 2 * HEARTBEAT_SECONDS), "the other worker beats for all partitions"
            assert gate.check(CLOSED, "honest").allowed
        finally:
            other.worker.stop()


def _partitions(service: Service) -> float:
    return service.metric("weirguard_partitions_recovered")


def _silence(gate: Gate) -> float:
    return gate.gauges()["silence_seconds"]
