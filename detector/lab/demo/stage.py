"""The parts of the demo: broker, worker, model server, and their observers."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from detector.contracts.codecs.records import KILL_SWITCH_KEY, decode
from detector.contracts.errors import WeirguardError
from detector.contracts.findings import Alert, Decision, Mode, Score
from detector.contracts.topics import Topics
from detector.core.profile.profile import Profile
from detector.lab.demo.board import ReadRecord
from detector.lab.query_log import THIEF
from detector.lab.server import HEALTH
from detector.runtime.broker import EmbeddedBroker, answers_metadata, dying_with_parent, free_port
from detector.serving import Connection, Gate

_LAST_SECONDS = 5.0


class Background(ABC):
    """``work`` in a thread called ``name``; it returns soon after ``stop`` is set, at the end of the with block."""

    def __init__(self, name: str) -> None:
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self.work, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop.set()
        self._thread.join(_LAST_SECONDS)

    @abstractmethod
    def work(self) -> None:
        """What the thread does."""


_VARIABLES = "WEIRGUARD_"
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
        self._environment = _child_environment(settings)
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


def _child_environment(settings: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith(_VARIABLES)}
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**inherited, **threads, **settings}


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).is_success
    except httpx.HTTPError:
        return False


_POLL_MILLISECONDS = 100


class Observer(Background):
    """All records of the three topics from offset 0 on, in the order of arrival."""

    def __init__(self, connection: Connection) -> None:
        super().__init__("demo-observer")
        topics = connection.topics
        self._decoders: dict[str, Callable[[bytes], Score | Alert | Decision]] = {
            topics.scores: partial(decode, Score),
            topics.alerts: partial(decode, Alert),
            topics.decisions: partial(decode, Decision),
        }
        self._connection = connection
        self._seen: queue.SimpleQueue[ReadRecord] = queue.SimpleQueue()

    def drain(self) -> Iterator[ReadRecord]:
        """Yields the records read since the last call."""
        while not self._seen.empty():
            yield self._seen.get()

    def work(self) -> None:
        from kafka.errors import KafkaError

        consumer = self._connection.consumer()
        try:
            self._assign(consumer)
            while not self.stop.is_set():
                for records in consumer.poll(timeout_ms=_POLL_MILLISECONDS).values():
                    self._take(records)
        except KafkaError:
            if not self.stop.is_set():
                raise
        finally:
            consumer.close()

    def _assign(self, consumer: Any) -> None:
        from kafka import TopicPartition

        partitions = [TopicPartition(t, n) for t in self._decoders for n in consumer.partitions_for_topic(t) or ()]
        consumer.assign(partitions)
        for partition in partitions:
            consumer.seek(partition, 0)

    def _take(self, records: list[Any]) -> None:
        for record in records:
            if record.value is not None and record.key != KILL_SWITCH_KEY:
                self._seen.put(ReadRecord(self._decoders[record.topic](record.value), time.time()))


_LOOK_SECONDS = 0.005


class GateWatch(Background):
    """``obeyed_at``: the wall-clock second at which ``gate`` first knew of a decision about the thief of ``model``;
    ``refused_at``: of a decision to refuse. Observed and enforced decisions both count. None until then."""

    def __init__(self, gate: Gate, model: str) -> None:
        super().__init__(f"demo-gate-watch-{model}")
        self.obeyed_at: float | None = None
        self.refused_at: float | None = None
        self._gate = gate
        self._model = model

    def work(self) -> None:
        while self.refused_at is None and not self.stop.wait(_LOOK_SECONDS):
            verdict = self._gate.check(self._model, THIEF)
            if verdict.decision_id is not None and self.obeyed_at is None:
                self.obeyed_at = time.time()
            if "refuse" in (verdict.action, verdict.would_have):
                self.refused_at = time.time()


_PREFIX = "weirguard-demo"
_PARTITIONS = 4
_READY_SECONDS = 60.0
_BROKER_SECONDS = 5.0
_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Stage:
    """``url``: of the model server. ``broker`` and ``children`` must stay alive. ``watches``: by model."""

    url: str
    broker: EmbeddedBroker
    children: Sequence[Child]
    observer: Observer
    watches: Mapping[str, GateWatch]

    def check(self) -> None:
        """Raises WeirguardError when the broker no longer answers or, with the end of its log, a child has ended."""
        if not answers_metadata(_HOST, self.broker.port, _BROKER_SECONDS):
            raise WeirguardError(
                f"the embedded broker on {self.broker.bootstrap} no longer answers; run the demo again"
            )
        for child in self.children:
            child.check()


@contextmanager
def set_stage(mode: Mode, profile: Profile, models: Sequence[str]) -> Iterator[Stage]:
    """Yields a stage that is ready, with a watch on the thief of each of ``models``; nothing of it is left afterwards.
    Raises WeirguardError when a part does not start."""
    with tempfile.TemporaryDirectory(prefix="weirguard-demo-") as name, ExitStack() as stack:
        folder = Path(name)
        kept = folder / "profile"
        kept.write_bytes(profile.to_bytes())
        broker = stack.enter_context(EmbeddedBroker(folder / "broker.log"))
        metrics_port, server_port = free_port(), free_port()
        settings = _settings(mode, broker.bootstrap, metrics_port, kept)
        worker = stack.enter_context(Child(["run"], settings, folder))
        server = stack.enter_context(Child(["serve-demo", "--port", str(server_port)], settings, folder))
        worker.wait_until(f"http://{_HOST}:{metrics_port}/readyz", _READY_SECONDS)
        server.wait_until(f"http://{_HOST}:{server_port}{HEALTH}", _READY_SECONDS)
        connection = Connection(broker.bootstrap, Topics(_PREFIX))
        observer = stack.enter_context(Observer(connection))
        gate = _ready_gate(stack, connection)
        watches = {model: stack.enter_context(GateWatch(gate, model)) for model in models}
        yield Stage(f"http://{_HOST}:{server_port}", broker, (worker, server), observer, watches)


def _ready_gate(stack: ExitStack, connection: Connection) -> Gate:
    gate = stack.enter_context(Gate(connection))
    if not gate.wait_until_ready(_READY_SECONDS):
        raise WeirguardError("the demo's own gate could not read the decisions topic; see whether the broker runs")
    return gate


def _settings(mode: Mode, bootstrap: str, metrics_port: int, profile: Path) -> dict[str, str]:
    return {
        "WEIRGUARD_KAFKA__BOOTSTRAP_SERVERS": bootstrap,
        "WEIRGUARD_KAFKA__EMBEDDED": "true",
        "WEIRGUARD_KAFKA__PREFIX": _PREFIX,
        "WEIRGUARD_KAFKA__PARTITIONS": str(_PARTITIONS),
        "WEIRGUARD_DETECTION__PROFILES": json.dumps([str(profile)]),
        "WEIRGUARD_POLICY__MODE": mode,
        "WEIRGUARD_METRICS__PORT": str(metrics_port),
    }
