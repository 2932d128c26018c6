"""Whether a worker lives and is ready, by itself and over real HTTP."""

from __future__ import annotations

import json
import socket
import struct
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

import pytest
from prometheus_client import CollectorRegistry

from detector.contracts.errors import ConfigurationError
from detector.runtime.health import QUIET_SECONDS, Health, ProbeServer
from detector.runtime.metrics import CONTENT_TYPE, Metrics


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(clock, stall_seconds=60)


def _running(health: Health) -> None:
    health.assigned(2)
    health.recovered(2)


def test_not_ready_until_assigned_and_restored(health: Health) -> None:
    assert health.ready().why == "no assignment yet"
    health.assigned(2)
    health.recovered(1)
    assert health.ready().why == "state of 1 of 2 partitions restored"
    health.recovered(2)
    assert health.ready().ok


def test_a_spare_worker_without_partitions_is_ready(health: Health) -> None:
    health.assigned(0)
    assert health.ready().ok


def test_a_rebalance_makes_a_worker_unready_until_restored(health: Health) -> None:
    _running(health)
    health.assigned(2)
    assert not health.ready().ok
    assert health.live().ok


def test_an_idle_worker_lives(health: Health, clock: Clock) -> None:
    _running(health)
    for _ in range(100):
        clock.now += 10
        health.behind(0)
    assert health.live().ok


def test_event_time_that_stands_still_while_records_wait_is_death(health: Health, clock: Clock) -> None:
    _running(health)
    health.applied(5.0)
    for records in range(1, 7):
        assert health.live().ok
        health.behind(records)
        clock.now += 10
    assert health.live().why == "6 records wait and none was applied for 60 s"


def test_progress_however_slow_is_life(health: Health, clock: Clock) -> None:
    _running(health)
    for step in range(100):
        clock.now += 50
        health.behind(1_000_000 + step)
        health.applied(float(step))
        assert health.live().ok


def test_lag_that_begins_late_is_timed_from_its_beginning(health: Health, clock: Clock) -> None:
    _running(health)
    clock.now += 3600
    health.behind(10)
    assert health.live().ok
    clock.now += 59
    health.behind(10)
    assert health.live().ok
    clock.now += 1
    assert not health.live().ok


def test_a_silent_broker_is_no_reason_to_die(health: Health, clock: Clock) -> None:
    _running(health)
    health.behind(10)
    clock.now += 3600
    assert health.live().ok


def test_a_worker_whose_brokers_do_not_answer_is_not_ready_and_lives(health: Health, clock: Clock) -> None:
    _running(health)
    health.behind(7)
    clock.now += QUIET_SECONDS - 1
    assert health.ready().ok
    clock.now += 100
    probe = health.ready()
    assert not probe.ok
    assert probe.why == "the brokers that this worker knows have not answered for 114 s"
    assert health.live().ok, "it is not the worker's fault"
    health.contacted(answered=False, connected=True)
    assert not health.ready().ok
    health.contacted(answered=True, connected=True)
    assert health.ready().ok


def test_a_recovery_that_stands_still_is_death_and_one_that_moves_is_not(health: Health, clock: Clock) -> None:
    health.assigned(1)
    for _ in range(10):
        clock.now += 50
        health.absorbed()
    assert health.live().ok
    clock.now += 60
    assert "not restored" in health.live().why


def test_a_stopped_worker_says_why(health: Health) -> None:
    _running(health)
    health.stopped("state-log-hole")
    assert health.live().why == health.ready().why == "stopped: state-log-hole"
    assert not health.live().ok


def test_event_time_never_goes_back(health: Health) -> None:
    health.applied(9.0)
    health.applied(3.0)
    assert health.event_time == 9.0


@pytest.fixture
def server(health: Health) -> Iterator[ProbeServer]:
    with ProbeServer(Metrics(CollectorRegistry()), health, "127.0.0.1", 0) as server:
        yield server


def _get(server: ProbeServer, path: str) -> tuple[int, str, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=10) as reply:
            return reply.status, reply.headers["Content-Type"], reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read()


def test_metrics_are_served_as_text(server: ProbeServer) -> None:
    status, kind, body = _get(server, "/metrics")
    assert (status, kind) == (200, CONTENT_TYPE)
    assert b"weirguard_build_info{" in body


def test_probes_answer_with_status_and_reason(server: ProbeServer, health: Health) -> None:
    status, _, body = _get(server, "/readyz")
    assert status == 503
    assert json.loads(body)["why"] == "no assignment yet"
    health.assigned(0)
    assert _get(server, "/readyz?verbose")[0] == 200
    assert _get(server, "/livez")[0] == 200
    health.stopped("asked to")
    status, kind, body = _get(server, "/livez")
    assert (status, kind) == (503, "application/json")
    assert json.loads(body)["ok"] is False


def test_other_paths_are_not_found(server: ProbeServer) -> None:
    assert _get(server, "/")[0] == 404


def test_a_taken_port_is_a_configuration_error(server: ProbeServer, health: Health) -> None:
    with pytest.raises(ConfigurationError, match=f"metrics.port: cannot listen on 127.0.0.1:{server.port}"):
        ProbeServer(Metrics(CollectorRegistry()), health, "127.0.0.1", server.port)


def test_a_page_that_fails_is_counted_and_the_next_is_served(monkeypatch: pytest.MonkeyPatch, health: Health) -> None:
    failures: list[Exception] = []
    with ProbeServer(Metrics(CollectorRegistry()), health, "127.0.0.1", 0, failures.append) as server:
        with monkeypatch.context() as broken:
            broken.setattr(Health, "live", lambda _: 1 / 0)
            assert _get(server, "/livez")[0] == 500
        assert _get(server, "/livez")[0] == 200
    assert [type(failure) for failure in failures] == [ZeroDivisionError]


def test_the_thread_of_the_probes_survives_what_goes_wrong_in_it(
    monkeypatch: pytest.MonkeyPatch, health: Health
) -> None:
    failures: list[Exception] = []
    serve = ThreadingHTTPServer.serve_forever

    def failing(self: ThreadingHTTPServer, interval: float) -> None:
        if not failures:
            raise OSError("no descriptors left")
        serve(self, interval)

    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", failing)
    with ProbeServer(Metrics(CollectorRegistry()), health, "127.0.0.1", 0, failures.append) as server:
        assert _get(server, "/livez")[0] == 200
    assert [type(failure) for failure in failures] == [OSError]


def test_an_asker_who_leaves_is_no_error(health: Health) -> None:
    failures: list[Exception] = []
    with ProbeServer(Metrics(CollectorRegistry()), health, "127.0.0.1", 0, failures.append) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as asker:
            asker.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            asker.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert _get(server, "/livez")[0] == 200
    assert failures == []
