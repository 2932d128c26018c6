"""Whether a worker is live and ready, and the HTTP port that says so."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol, Self

from detector.contracts.errors import ConfigurationError
from detector.runtime.metrics import CONTENT_TYPE, Metrics

Fact = float | int | str | dict[str, str] | list[str] | None


@dataclass(frozen=True, slots=True)
class Probe:
    """The answer to a probe: ``ok``, or why not."""

    ok: bool
    why: str
    facts: dict[str, Fact]


class Probed(Protocol):
    """A process that says whether it is live and ready."""

    def live(self) -> Probe: ...

    def ready(self) -> Probe: ...


QUIET_SECONDS = 15.0
"""A worker whose brokers have not answered for this long is not ready."""


@dataclass(slots=True)
class Health:
    """The state of a worker. ``clock`` returns seconds and never goes back.

    ``stall_seconds``: after this long without progress, while there is work, the worker counts as dead. A silent broker
    does not count: ``behind`` counts only while it is refreshed. ``profiles``: the hash of the profile of each model
    version. ``uncalibrated``: model versions that were seen and are judged without a profile.
    """

    clock: Callable[[], float]
    stall_seconds: float = 60.0
    partitions_assigned: int | None = None
    partitions_recovered: int = 0
    event_time: float | None = None
    records_behind: int = 0
    profiles: Mapping[str, str] = field(default_factory=dict)
    uncalibrated: set[str] = field(default_factory=set)
    stop_reason: str | None = None
    _moved_at: float = field(init=False)
    _behind_since: float | None = field(init=False, default=None)
    _behind_at: float = field(init=False)
    _answered_at: float = field(init=False)
    _cut_off_since: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._moved_at = self._behind_at = self._answered_at = self.clock()

    def assigned(self, partitions: int) -> None:
        """Notes that the group assigned ``partitions`` to this worker; their state is not restored yet."""
        self.partitions_assigned, self.partitions_recovered = partitions, 0
        self._moved_at = self._answered_at = self.clock()

    def absorbed(self) -> None:
        """Notes that a record of the state log was read back."""
        self._moved_at = self._answered_at = self.clock()

    def contacted(self, answered: bool, connected: bool) -> None:
        """Notes whether a broker has ``answered`` since the last call, and whether any is connected."""
        if answered:
            self._answered_at = self.clock()
        if connected:
            self._cut_off_since = None
        elif self._cut_off_since is None:
            self._cut_off_since = self.clock()

    def cut_off_seconds(self) -> float:
        """Returns the seconds without a known connection to any broker; 0 while there is one."""
        return 0.0 if self._cut_off_since is None else self.clock() - self._cut_off_since

    def silent_seconds(self) -> float:
        """Returns the seconds since a broker answered."""
        return self.clock() - self._answered_at

    def brokers_answer(self) -> bool:
        """Returns whether brokers answer, or did so within ``QUIET_SECONDS``."""
        return self.silent_seconds() < QUIET_SECONDS

    def recovered(self, partitions: int) -> None:
        """Notes that the state of ``partitions`` is restored."""
        self.partitions_recovered = partitions
        self._moved_at = self.clock()

    def applied(self, event_time: float) -> None:
        """Notes that a micro-batch is done; ``event_time`` is its newest Kafka timestamp."""
        self.event_time = max(event_time, self.event_time or event_time)
        self._moved_at = self.clock()

    def behind(self, records: int) -> None:
        """Notes that the broker reports ``records`` waiting."""
        self.records_behind = records
        self._behind_at = self.clock()
        if records == 0:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = self._behind_at

    def stopped(self, why: str) -> None:
        """Notes that the worker has stopped."""
        self.stop_reason = why

    def still_seconds(self) -> float:
        """Returns the seconds since anything moved."""
        return self.clock() - self._moved_at

    def live(self) -> Probe:
        """Returns not live if stopped, or still for ``stall_seconds`` while restoring state or while records wait."""
        still = self.still_seconds()
        stalled = still >= self.stall_seconds
        return self._probe(
            (self.stop_reason is not None, f"stopped: {self.stop_reason}"),
            (stalled and self._recovering(), f"state is not restored and nothing was read for {still:.0f} s"),
            (stalled and self._starved(), f"{self.records_behind} records wait and none was applied for {still:.0f} s"),
        )

    def ready(self) -> Probe:
        """Returns ready if assigned, all state is restored and brokers answer. A worker without partitions is ready."""
        restored = f"state of {self.partitions_recovered} of {self.partitions_assigned} partitions restored"
        silent = f"the brokers that this worker knows have not answered for {self.silent_seconds():.0f} s"
        return self._probe(
            (self.stop_reason is not None, f"stopped: {self.stop_reason}"),
            (self.partitions_assigned is None, "no assignment yet"),
            (self._recovering(), restored),
            (not self.brokers_answer(), silent),
        )

    def _recovering(self) -> bool:
        return self.partitions_recovered < (self.partitions_assigned or 0)

    def _starved(self) -> bool:
        """Returns whether records have waited for ``stall_seconds``, as far as the broker still reports."""
        now = self.clock()
        long_enough = self._behind_since is not None and now - self._behind_since >= self.stall_seconds
        return long_enough and now - self._behind_at < self.stall_seconds

    def _probe(self, *troubles: tuple[bool, str]) -> Probe:
        """Returns the probe with the first problem that applies."""
        why = next((why for holds, why in troubles if holds), None)
        facts: dict[str, Fact] = {
            "partitions_assigned": self.partitions_assigned,
            "partitions_recovered": self.partitions_recovered,
            "event_time": self.event_time,
            "records_behind": self.records_behind,
            "still_seconds": round(self.still_seconds(), 3),
            "silent_seconds": round(self.silent_seconds(), 3),
            "profiles": dict(self.profiles),
            "uncalibrated": sorted(self.uncalibrated),
        }
        return Probe(why is None, why or "ok", facts)


class ProbeServer(ThreadingHTTPServer):
    """Serves /metrics, /livez and /readyz on ``host`` and ``port``, 0 for any, in its own threads: it answers while the
    stream is busy. ``failed`` is called with each error of an answer; the server continues. Raises ConfigurationError
    when the port is not available.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        metrics: Metrics,
        health: Probed,
        host: str,
        port: int,
        failed: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self.failed = failed
        self.pages: dict[str, Callable[[], tuple[int, str, bytes]]] = {
            "/metrics": lambda: (HTTPStatus.OK, CONTENT_TYPE, metrics.render()),
            "/livez": lambda: _answer(health.live()),
            "/readyz": lambda: _answer(health.ready()),
        }
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _ProbeHandler)
        except (OSError, OverflowError) as error:
            raise ConfigurationError(f"metrics.host, metrics.port: cannot listen on {host}:{port}: {error}") from error
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="probes", daemon=True)

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        return int(self.server_address[1])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Closes the port."""
        self._stopping = True
        self.shutdown()
        self.server_close()
        self._thread.join()

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores a client that leaves."""
        error = sys.exc_info()[1]
        if isinstance(error, Exception) and not isinstance(error, ConnectionError | TimeoutError):
            self.failed(error)

    def _serve(self) -> None:
        while not self._stopping:
            try:
                self.serve_forever(0.05)
            except Exception as error:  # noqa: BLE001 - without probes the worker would be killed
                self.failed(error)


class _ProbeHandler(BaseHTTPRequestHandler):
    server: ProbeServer
    timeout = 5.0
    server_version = "weirguard"
    sys_version = ""

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        try:
            status, kind, body = page()
        except Exception as error:  # noqa: BLE001 - answered and counted
            self.server.failed(error)
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)
            return
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Logs nothing: there is a probe each second."""


def _answer(probe: Probe) -> tuple[int, str, bytes]:
    status = HTTPStatus.OK if probe.ok else HTTPStatus.SERVICE_UNAVAILABLE
    body = json.dumps({"ok": probe.ok, "why": probe.why, **probe.facts}).encode()
    return status, "application/json", body + b"\n"
