"""``weirguard gate serve`` behind nginx under load: decisions are applied, and the loss of the broker stops no
request."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from detector.cli.gate import state
from detector.contracts.topics import Topics
from detector.replay.topics import read_gates
from detector.runtime.broker import EmbeddedBroker, dying_with_parent, free_port
from detector.runtime.sections import KafkaSettings
from detector.serving import Connection
from tests.gateway.nginx import PROGRAM, nginx
from tests.gateway.stage import model_server
from tests.serving.arrivals import LATER, PARTITIONS, create_topics, tell, until
from tests.serving.doubles import decision

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="nginx is not installed")

STALE_SECONDS = 2.0
OPEN, CLOSED = "/v1/models/digits:predict", "/v1/models/credit:predict"


@contextmanager
def gate_service(connection: Connection, log: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """``weirguard gate serve`` in a process of its own: credit is closed without current decisions, all else open."""
    port = free_port()
    settings = {
        "KAFKA__BOOTSTRAP_SERVERS": connection.bootstrap_servers,
        "KAFKA__PREFIX": connection.topics.prefix,
        "GATE__PORT": str(port),
        "GATE__KSERVE": "true",
        "GATE__PRINCIPAL": '["header:x-account"]',
        "GATE__MAX_STALENESS_SECONDS": str(STALE_SECONDS),
        "GATE__WHEN_STALE": json.dumps({"credit": "refuse"}),
        "GATE__REPORT_SECONDS": "0.5",
    }
    environment = os.environ | {f"WEIRGUARD_{name}": value for name, value in settings.items()}
    command = dying_with_parent([sys.executable, "-m", "detector.cli.main", "gate", "serve"])
    with log.open("wb") as errors, subprocess.Popen(command, env=environment, stderr=errors) as process:
        try:
            assert until(lambda: _page(port, "/livez") == "ok\n"), log.read_text("utf-8")
            yield port, process
        finally:
            process.kill()


def _page(port: int, path: str) -> str:
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}{path}")
    except httpx.HTTPError:
        return ""
    return answer.text if answer.status_code == 200 else ""


class Load:
    """An honest client that queries both models without a pause, and counts the answers by model and status."""

    def __init__(self, address: str) -> None:
        self.seen: Counter[tuple[str, int]] = Counter()
        self._address = address
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(20)

    def _run(self) -> None:
        with httpx.Client() as client:
            while not self._over.is_set():
                for path in (OPEN, CLOSED):
                    self.seen[path, ask(self._address, path, "honest", client)] += 1


def ask(address: str, path: str, account: str, client: httpx.Client | None = None) -> int:
    """The status; 0 where the connection fails."""
    try:
        return (client or httpx).post(f"{address}{path}", json={}, headers={"x-account": account}).status_code
    except httpx.HTTPError:
        return 0


def test_decisions_are_obeyed_and_the_loss_of_the_broker_stops_nobody(prefix: str, tmp_path: Path) -> None:
    with (
        EmbeddedBroker() as broker,
        model_server() as model,
        gate_service(connection := _ready(broker, prefix), tmp_path / "gate.log") as (port, process),
        nginx(tmp_path, port, model) as address,
        Load(address) as load,
    ):
        assert until(lambda: _page(port, "/readyz") == "ok\n")
        for model_name in ("digits", "credit"):
            tell(connection, decision("refuse", model=model_name, expires_at=LATER))
        assert until(lambda: [ask(address, path, "thief") for path in (OPEN, CLOSED)] == [429, 429])
        load.seen.clear()
        broker.kill()
        assert until(lambda: ask(address, CLOSED, "honest") == 503), "credit is closed without current decisions"
        assert _age(port) > STALE_SECONDS
        assert [ask(address, path, "thief") for path in (OPEN, CLOSED)] == [200, 503]
        assert load.seen[OPEN, 200] > 0
        assert {status for (path, status) in load.seen if path == OPEN} == {200}
        assert {status for (path, status) in load.seen if path == CLOSED} <= {200, 503}
        broker.start()
        create_topics(connection)
        tell(connection, decision("refuse", epoch=(2, 1), expires_at=LATER))
        assert until(lambda: ask(address, OPEN, "thief") == 429)
        assert until(lambda: ask(address, CLOSED, "honest") == 200)
        assert until(lambda: _age(port) < STALE_SECONDS)
        assert {status for (path, status) in load.seen if path == OPEN} == {200}
        kafka = KafkaSettings(bootstrap_servers=broker.bootstrap, embedded=True, prefix=prefix, partitions=PARTITIONS)
        assert until(lambda: any(one.counts["stale_refused"] for one in read_gates(kafka)))
        process.terminate()
        assert process.wait(20) == 0
        (report,) = read_gates(kafka)
        assert state(report, report.occurred_at) == "closed"
        assert report.counts["refused"] > 0
        assert ask(address, OPEN, "thief") == 200, "the file of deploy/nginx is open while no service answers"


def _ready(broker: EmbeddedBroker, prefix: str) -> Connection:
    connection = Connection(broker.bootstrap, Topics(prefix))
    create_topics(connection)
    return connection


def _age(port: int) -> float:
    lines = _page(port, "/metrics").splitlines()
    return float(next(line for line in lines if line.startswith("weirguard_sdk_gate_age_seconds ")).split()[1])
