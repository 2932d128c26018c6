"""The parts of the demo: broker, worker, model server, and their observers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from detector.contracts.errors import WeirguardError
from detector.contracts.findings import Mode
from detector.contracts.topics import Topics
from detector.core.profile.profile import Profile
from detector.lab.demo.observer import Observer
from detector.lab.demo.processes import Child
from detector.lab.demo.watch import GateWatch
from detector.lab.server import HEALTH
from detector.runtime.broker import EmbeddedBroker, answers_metadata, free_port
from detector.serving import Connection, Gate

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
