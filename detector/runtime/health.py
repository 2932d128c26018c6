"""Whether a worker lives and is ready, and the HTTP port that answers so."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self, cast

from detector.contracts.errors import ConfigurationError
from detector.runtime.metrics import CONTENT_TYPE, Metrics

Fact = float | int | str | dict[str, str] | list[str] | None


@dataclass(frozen=True, slots=True)
class Probe:
    """The answer to a probe: ``ok``, or why not."""

    ok: bool
    why: str
    facts: dict[str, Fact]


QUIET_SECONDS = 15.0
"""A worker that has heard nothing from its brokers for this long is not ready."""


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
    _told_at: float = field(init=False)
    _heard_at: float = field(init=False)
    _cut_off_since: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._moved_at = self._told_at = self._heard_at = self.clock()

    def assigned(self, partitions: int) -> None:
        """The group assigned ``partitions`` to this worker; their state is to be restored."""
        self.partitions_assigned, self.partitions_recovered = partitions, 0
        self._moved_at = self._heard_at = self.clock()

    def absorbed(self) -> None:
        """A record of the state log was read back."""
        self._moved_at = self._heard_at = self.clock()

    def heard(self, answered: bool, connected: bool) -> None:
        """Whether a broker has ``answered`` since the last call, and whether there is a connection to any."""
        if answered:
            self._heard_at = self.clock()
        if connected:
            self._cut_off_since = None
        elif self._cut_off_since is None:
            self._cut_off_since = self.clock()

    def cut_off_seconds(self) -> float:
        """Seconds since there is no connection to any broker, as far as is known; 0 while there is one."""
        return 0.0 if self._cut_off_since is None else self.clock() - self._cut_off_since

    def silent_seconds(self) -> float:
        """Seconds since a broker answered."""
        return self.clock() - self._heard_at

    def hears(self) -> bool:
        """Whether brokers answer, or did a moment ago."""
        return self.silent_seconds() < QUIET_SECONDS

    def recovered(self, partitions: int) -> None:
        """The state of ``partitions`` is restored."""
        self.partitions_recovered = partitions
        self._moved_at = self.clock()

    def applied(self, event_time: float) -> None:
        """A micro-batch is done; ``event_time`` is its newest Kafka timestamp."""
        self.event_time = max(event_time, self.event_time or event_time)
        self._moved_at = self.clock()

    def behind(self, records: int) -> None:
        """The broker reports that ``records`` wait."""
        self.records_behind = records
        self._told_at = self.clock()
        if records == 0:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = self._told_at

    def stopped(self, why: str) -> None:
        """The worker gave up."""
        self.stop_reason = why

    def still_seconds(self) -> float:
        """Seconds since anything moved."""
        return self.clock() - self._moved_at

    def live(self) -> Probe:
        """Not live: stopped, or still for ``stall_seconds`` while restoring state or while records wait."""
        if self.stop_reason is not None:
            return self._probe(f"stopped: {self.stop_reason}")
        still = self.still_seconds()
        if still >= self.stall_seconds and self._recovering():
            return self._probe(f"state is not restored and nothing was read for {still:.0f} s")
        if still >= self.stall_seconds and self._starved():
            return self._probe(f"{self.records_behind} records wait and none was applied for {still:.0f} s")
        return self._probe(None)

    def ready(self) -> Probe:
        """Ready: assigned, all state restored, brokers answer. A spare worker, assigned no partition, is ready."""
        if self.stop_reason is not None:
            return self._probe(f"stopped: {self.stop_reason}")
        if self.partitions_assigned is None:
            return self._probe("no assignment yet")
        if self._recovering():
            return self._probe(
                f"state of {self.partitions_recovered} of {self.partitions_assigned} partitions restored"
            )
        if not self.hears():
            return self._probe(
                f"the brokers that this worker knows have not answered for {self.silent_seconds():.0f} s"
            )
        return self._probe(None)

    def _recovering(self) -> bool:
        return self.partitions_recovered < (self.partitions_assigned or 0)

    def _starved(self) -> bool:
        """Whether records have waited for ``stall_seconds``, as the broker still says."""
        now = self.clock()
        long_enough = self._behind_since is not None and now - self._behind_since >= self.stall_seconds
        return long_enough and now - self._told_at < self.stall_seconds

    def _probe(self, trouble: str | None) -> Probe:
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
        return Probe(trouble is None, trouble or "ok", facts)


_Answer = tuple[HTTPStatus, str, bytes]


def _ignore(_: Exception) -> None:
    return None


class ProbeServer:
    """Serves ``metrics`` and ``health`` on ``host`` and ``port``, 0 for any, until stopped.

    ``failed`` is called with each error of an answer; the server goes on. Raises ConfigurationError when the port is
    not available.
    """

    def __init__(
        self, metrics: Metrics, health: Health, host: str, port: int, failed: Callable[[Exception], None] = _ignore
    ) -> None:
        pages = {
            "/metrics": lambda: (HTTPStatus.OK, CONTENT_TYPE, metrics.render()),
            "/livez": lambda: _answer(health.live()),
            "/readyz": lambda: _answer(health.ready()),
        }
        try:
            self._server = _Server((host, port), _handler(pages))
        except (OSError, OverflowError) as error:
            raise ConfigurationError(f"metrics.host, metrics.port: cannot listen on {host}:{port}: {error}") from error
        self._server.failed = failed
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="probes", daemon=True)

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts to answer."""
        self._thread.start()

    def _serve(self) -> None:
        while not self._stopping:
            try:
                self._server.serve_forever(0.05)
            except Exception as error:  # noqa: BLE001 - probes that are silent have the worker killed
                self._server.failed(error)

    def stop(self) -> None:
        """Closes the port."""
        self._stopping = True
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    failed: Callable[[Exception], None] = staticmethod(_ignore)
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores a client that leaves."""
        error = sys.exc_info()[1]
        if isinstance(error, Exception) and not isinstance(error, ConnectionError | TimeoutError):
            self.failed(error)


def _answer(probe: Probe) -> _Answer:
    status = HTTPStatus.OK if probe.ok else HTTPStatus.SERVICE_UNAVAILABLE
    body = json.dumps({"ok": probe.ok, "why": probe.why, **probe.facts}).encode()
    return status, "application/json", body + b"\n"


def _handler(pages: dict[str, Callable[[], _Answer]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 5.0
        server_version = "weirguard"
        sys_version = ""

        def do_GET(self) -> None:
            server = cast(_Server, self.server)
            page = pages.get(self.path.partition("?")[0])
            if page is None:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            try:
                status, kind, body = page()
            except Exception as error:  # noqa: BLE001 - answered and counted
                server.failed(error)
                self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)
                return
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Logs nothing: there is a probe each second."""

    return Handler
