"""Detector workers as an operator starts them, and what can befall them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from detector.runtime.broker import dying_with_parent, free_port

WEIRGUARD_RUN = (sys.executable, "-m", "detector.cli.main", "run")
_LEAVE_SECONDS = 30.0


class Worker:
    """``weirguard run``: a supervisor and the worker process under it. ``log`` receives what both write;
    ``command`` stands for it in tests of what ends workers."""

    def __init__(
        self, name: str, environment: Mapping[str, str], log: Path, command: Sequence[str] = WEIRGUARD_RUN
    ) -> None:
        self.name = name
        self._command = list(command)
        self.log = log
        self._port = free_port()
        self.environment = dict(os.environ) | dict(environment) | {"WEIRGUARD_METRICS__PORT": str(self._port)}
        self._supervisor: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = dying_with_parent(self._command)
        with self.log.open("ab") as output:
            self._supervisor = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self.environment
            )

    @property
    def running(self) -> bool:
        return self._supervisor is not None and self._supervisor.poll() is None

    @property
    def url(self) -> str:
        """Where it serves metrics and health."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def working(self) -> bool:
        """Whether the supervisor has a worker process now."""
        return bool(self.processes())

    def ready(self) -> bool:
        """What /readyz says."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=1.0) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> bool:
        """kill -9 of the worker process; its supervisor starts another. Whether there was one to kill."""
        return self._signal(signal.SIGKILL)

    def freeze(self) -> bool:
        """SIGSTOP of the worker process. Whether there was one."""
        return self._signal(signal.SIGSTOP)

    def thaw(self) -> bool:
        """SIGCONT of the worker process."""
        return self._signal(signal.SIGCONT)

    def kill_all(self) -> None:
        """kill -9 of the supervisor, with which its worker dies."""
        if self._supervisor is not None:
            self._supervisor.kill()
            self._supervisor.wait()
            self._supervisor = None

    def leave(self) -> float:
        """Sends SIGTERM; returns the seconds until it ended. Raises unless it ended cleanly."""
        assert self._supervisor is not None, f"{self.name} does not run"
        started = time.monotonic()
        self._supervisor.terminate()
        code = self._supervisor.wait(_LEAVE_SECONDS)
        self._supervisor = None
        if code != 0:
            raise RuntimeError(f"{self.name} left with exit status {code}; see {self.log}")
        return time.monotonic() - started

    def stop(self) -> None:
        """Leave, by force if need be: for the end of a run."""
        if self._supervisor is not None:
            self.thaw()
            self._supervisor.terminate()
            try:
                self._supervisor.wait(_LEAVE_SECONDS)
            except subprocess.TimeoutExpired:
                self._supervisor.kill()
                self._supervisor.wait()
            self._supervisor = None

    def _signal(self, number: signal.Signals) -> bool:
        found = self.processes()
        for process in found:
            process.send_signal(number)
        return bool(found)

    def processes(self) -> list[psutil.Process]:
        """The worker process under the supervisor; none between two lives."""
        try:
            return [] if self._supervisor is None else psutil.Process(self._supervisor.pid).children()
        except psutil.NoSuchProcess:
            return []
