"""The parts of the demo: broker, worker, model server, and the consumer and the gate that observe them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx

from detector.contracts.codecs.records import KILL_SWITCH_KEY, decode
from detector.contracts.errors import WeirguardError
from detector.contracts.findings import Alert, Decision, GroupAlert, Mode, Score
from detector.contracts.topics import Topics
from detector.core.profile import Profile
from detector.lab.server import HEALTH
from detector.runtime.broker import EmbeddedBroker, answers_metadata, dying_with_parent, free_port
from detector.serving import Connection, Gate

_VARIABLES = "WEIRGUARD_"
_LOG_LINES = 30
_STOP_SECONDS = 10.0
_POLL_MILLISECONDS = 100
_TOPICS = "weirguard-demo"
_PARTITIONS = 4
_READY_SECONDS = 60.0
_BROKER_SECONDS = 5.0
_RELEASE_SECONDS = 30.0
_LOOK_SECONDS = 0.01
_HOST = "127.0.0.1"

_SLOW = {"action": "slow", "parameters": {"queries_per_second": 1}}
_LADDER = [
    {"name": "rings", "signals": ["group"], "rungs": [{"action": "refuse"}]},
    {"name": "default", "rungs": [_SLOW, {"action": "refuse", "after_queries": 50}]},
]
"""Members of groups are refused at once: slowed, each of ten accounts still gets answers. Unlike the default, evidence
of content alone refuses too, as nobody in the demo has a new device."""


class Child:
    """``weirguard COMMAND`` in its own process, its output in ``folder``. A context manager.

    It sees ``settings`` and not the caller's own WEIRGUARD_ variables. It is in its own session, so
    that Ctrl-C reaches the demo alone, which then stops its children in order.
    """

    def __init__(self, command: Sequence[str], settings: Mapping[str, str], folder: Path) -> None:
        self.name = command[0]
        self._command = [sys.executable, "-m", "detector.cli.main", *command]
        inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith(_VARIABLES)}
        threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._environment = {**inherited, **threads, **settings}
        self._log = folder / f"{self.name}.log"

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

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def check(self) -> None:
        """Raises WeirguardError with the end of its log when the process has ended."""
        code = self._process.poll()
        if code is not None:
            raise WeirguardError(f"'weirguard {self.name}' ended with exit status {code}; {self._last_lines()}")

    def wait_until(self, url: str, seconds: float) -> None:
        """Returns once GET ``url`` answers 200. Raises WeirguardError when that takes longer, or the process ends."""
        deadline = time.monotonic() + seconds
        while not _answers(url):
            self.check()
            if time.monotonic() > deadline:
                raise WeirguardError(
                    f"'weirguard {self.name}' was not ready within {seconds:.0f} seconds ({url}); {self._last_lines()}"
                )
            time.sleep(0.1)

    def _last_lines(self) -> str:
        """Returns the end of its log, as the end of a sentence."""
        lines = self._log.read_text("utf-8", "replace").splitlines()[-_LOG_LINES:]
        return "its last lines:\n" + "\n".join(f"    {line}" for line in lines) if lines else "it said nothing"


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).is_success
    except httpx.HTTPError:
        return False


class Observer:
    """Reads scores, alerts, groups and decisions from offset 0 on, as they arrive, as an external consumer does."""

    def __init__(self, connection: Connection) -> None:
        from kafka import TopicPartition

        topics = connection.topics
        self._types: dict[str, Any] = {
            topics.scores: Score,
            topics.alerts: Alert,
            topics.groups: GroupAlert,
            topics.decisions: Decision,
        }
        self._consumer = connection.consumer()
        partitions = [TopicPartition(t, n) for t in self._types for n in self._consumer.partitions_for_topic(t) or ()]
        self._consumer.assign(partitions)
        for partition in partitions:
            self._consumer.seek(partition, 0)

    def read(self) -> list[Score | Alert | Decision | GroupAlert]:
        """Returns the records since the last call; waits for at most 0.1 seconds."""
        from kafka.errors import KafkaError

        try:
            batches = self._consumer.poll(timeout_ms=_POLL_MILLISECONDS)
        except KafkaError:  # if the broker is gone, Stage.check says so
            return []
        return [
            decode(self._types[record.topic], record.value)
            for records in batches.values()
            for record in records
            if record.value is not None and record.key != KILL_SWITCH_KEY
        ]

    def close(self) -> None:
        self._consumer.close()


@dataclass(frozen=True, slots=True)
class Stage:
    """``url``: of the model server. ``broker`` and ``children`` must stay alive. ``gate``: an additional one, like that
    of any serving process. ``settings`` and ``folder``: of the children, and of an operator's commands."""

    url: str
    broker: EmbeddedBroker
    children: Sequence[Child]
    observer: Observer
    gate: Gate
    settings: Mapping[str, str]
    folder: Path

    def release(self, model: str, principal: str) -> float | None:
        """Releases ``principal`` by an operator's command; returns the seconds from its start until a gate obeys, None
        if none does."""
        begun = time.monotonic()
        words = ["decisions", "delete", model, principal, "--issuer", "demo", "--reason", "shows a release"]
        with Child(words, self.settings, self.folder):
            while time.monotonic() < begun + _RELEASE_SECONDS:
                if self.gate.check(model, principal).decision_id is None:
                    return time.monotonic() - begun
                time.sleep(_LOOK_SECONDS)
        return None

    def check(self) -> None:
        """Raises WeirguardError when the broker no longer answers or, with the end of its log, a child has ended."""
        if not answers_metadata(_HOST, self.broker.port, _BROKER_SECONDS):
            raise WeirguardError(
                f"the embedded broker on {self.broker.bootstrap} no longer answers; run the demo again"
            )
        for child in self.children:
            child.check()


@contextmanager
def set_stage(mode: Mode, profile: Profile) -> Iterator[Stage]:
    """Yields a stage that is ready; nothing of it is left afterwards. Raises WeirguardError when a part does not
    start."""
    with tempfile.TemporaryDirectory(prefix="weirguard-demo-") as name, ExitStack() as stack:
        folder = Path(name)
        profile_file = folder / "profile"
        profile_file.write_bytes(profile.to_bytes())
        broker = stack.enter_context(EmbeddedBroker(folder / "broker.log"))
        metrics_port, server_port = free_port(), free_port()
        settings = {
            "WEIRGUARD_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap,
            "WEIRGUARD_KAFKA__EMBEDDED": "true",
            "WEIRGUARD_KAFKA__PREFIX": _TOPICS,
            "WEIRGUARD_KAFKA__PARTITIONS": str(_PARTITIONS),
            "WEIRGUARD_DETECTION__PROFILES": json.dumps([str(profile_file)]),
            "WEIRGUARD_POLICY__MODE": mode,
            "WEIRGUARD_POLICY__LADDER": json.dumps(_LADDER),
            "WEIRGUARD_POLICY__ENFORCE_UNCALIBRATED": "true",
            "WEIRGUARD_METRICS__PORT": str(metrics_port),
        }
        worker = stack.enter_context(Child(["run"], settings, folder))
        server = stack.enter_context(Child(["serve-demo", "--port", str(server_port)], settings, folder))
        worker.wait_until(f"http://{_HOST}:{metrics_port}/readyz", _READY_SECONDS)
        server.wait_until(f"http://{_HOST}:{server_port}{HEALTH}", _READY_SECONDS)
        connection = Connection(broker.bootstrap, Topics(_TOPICS))
        observer = stack.enter_context(closing(Observer(connection)))
        gate = stack.enter_context(Gate(connection))
        if not gate.wait_until_ready(_READY_SECONDS):
            raise WeirguardError("the demo's own gate could not read the decisions topic; see whether the broker runs")
        yield Stage(f"http://{_HOST}:{server_port}", broker, (worker, server), observer, gate, settings, folder)
