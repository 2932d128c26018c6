"""The demo's child processes: started with a log, awaited, and stopped whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from detector.contracts.errors import WeirguardError
from detector.runtime.broker import dying_with_parent

_PREFIX = "WEIRGUARD_"
_LOG_LINES = 30
_STOP_SECONDS = 10.0


class Child:
    """``weirguard COMMAND`` in a process of its own, its output in ``folder``.

    It sees ``settings`` and none of the caller's own WEIRGUARD_ variables. It is in a session of its own, so
    that Ctrl-C reaches the demo alone, which then stops its children in order.
    """

    def __init__(self, command: Sequence[str], settings: Mapping[str, str], folder: Path) -> None:
        self.name = command[0]
        self._command = [sys.executable, "-m", "detector.cli.main", *command]
        self._environment = _environment(settings)
        self._log = folder / f"{self.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                dying_with_parent(self._command),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def check(self) -> None:
        """Raises WeirguardError with the end of its log when the process is no more."""
        assert self._process is not None
        code = self._process.poll()
        if code is not None:
            raise WeirguardError(f"'weirguard {self.name}' ended with exit status {code}; {self.last_words()}")

    def wait_until(self, url: str, seconds: float) -> None:
        """Returns once GET ``url`` answers 200. Raises WeirguardError when that takes longer, or the process ends."""
        deadline = time.monotonic() + seconds
        while not _answers(url):
            self.check()
            if time.monotonic() > deadline:
                raise WeirguardError(
                    f"'weirguard {self.name}' was not ready within {seconds:.0f} seconds ({url}); {self.last_words()}"
                )
            time.sleep(0.1)

    def last_words(self) -> str:
        """The last lines of its log, as the end of a sentence."""
        lines = self._log.read_text("utf-8", "replace").splitlines()[-_LOG_LINES:]
        return "its last lines:\n" + "\n".join(f"    {line}" for line in lines) if lines else "it said nothing"


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith(_PREFIX)}
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**inherited, **threads, **settings}


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).is_success
    except httpx.HTTPError:
        return False
