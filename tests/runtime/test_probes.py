"""The metrics port over real HTTP."""

from __future__ import annotations

import json
import socket
import struct
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

import pytest
from prometheus_client import CollectorRegistry

from detector.contracts.errors import ConfigurationError
from detector.runtime.health import Health, ProbeServer
from detector.runtime.metrics import CONTENT_TYPE, Metrics


@pytest.fixture
def health() -> Health:
    return Health(time.monotonic)


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
