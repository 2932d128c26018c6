"""Servers that fork, before or after the first call: each process sends its own queries, once, and has its own gate."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest

from detector.runtime.broker import free_port
from detector.serving import Connection
from tests.serving.arrivals import LATER, received, rows_of, tell, until
from tests.serving.doubles import decision

MODULE = "tests.serving.forked"
ROWS = 20


@pytest.fixture
def environment(connection: Connection) -> dict[str, str]:
    tell(connection, decision("refuse", expires_at=LATER))
    return {**os.environ, "BOOTSTRAP": connection.bootstrap_servers, "PREFIX": connection.topics.prefix}


def _arrived(connection: Connection, least: int) -> list[tuple[str, str]]:
    """Principal and event id of every row."""
    found = []
    for decoded in received(connection, lambda records: rows_of(records) >= least):
        assert decoded.batch is not None
        index = decoded.batch.principal_index.tolist()
        found += [(decoded.batch.principals[at], one) for at, one in zip(index, decoded.batch.event_ids, strict=True)]
    return found


@pytest.mark.parametrize("warm", [0, 1])
@pytest.mark.parametrize("how", ["os.fork", "fork", "spawn"])
def test_every_process_sends_what_it_was_given(
    connection: Connection, environment: dict[str, str], how: str, warm: int
) -> None:
    command = [sys.executable, "-m", MODULE, how]
    warming = {"WARM": "1"} if warm else {}
    run = subprocess.run(command, env=environment | warming, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    said = {line.split()[0]: list(map(int, line.split()[1:])) for line in run.stdout.splitlines()}
    imported_again = warm if how == "spawn" else 0  # the second child logs with what it is handed over
    counted = {"child-0": ROWS + imported_again, "child-1": ROWS, "parent": ROWS + warm}
    assert said == {process: [1, 1, rows, rows] for process, rows in counted.items()}
    expected = Counter({"child-0": ROWS, "child-1": ROWS, "parent": ROWS, "warm": warm * (3 if how == "spawn" else 1)})
    arrived = _arrived(connection, expected.total())
    assert Counter(principal for principal, _ in arrived) == +expected
    assert len({event_id for _, event_id in arrived}) == len(arrived)


@contextmanager
def _serving(command: list[str], environment: dict[str, str], address: str) -> Iterator[None]:
    """The server with its workers, a process group of their own."""
    server = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        assert until(lambda: server.poll() is not None or _answers(address), 60)
        yield
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) in (0, -signal.SIGTERM)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _answers(address: str) -> bool:
    try:
        return httpx.get(address).status_code > 0
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("warm", [0, 1])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("uvicorn", ["--workers", "2", "--log-level", "warning", "--port", "{port}", f"{MODULE}:app"]),
        ("gunicorn", ["--preload", "--workers", "2", "--bind", "127.0.0.1:{port}", f"{MODULE}:wsgi"]),
    ],
)
def test_all_that_the_workers_of_a_server_answered_is_sent(
    connection: Connection, environment: dict[str, str], name: str, arguments: list[str], warm: int
) -> None:
    pytest.importorskip(name)
    port = str(free_port())
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", name, *(argument.format(port=port) for argument in arguments)]
    warming = {"WARM": "1"} if warm else {}
    answered: Counter[str] = Counter()
    with _serving(command, environment | warming, f"{address}/health"):

        def ask() -> bool:
            answered[httpx.post(f"{address}/predict").text] += 1
            return len(answered) > 1 and answered.total() >= 40

        assert until(ask, 60), "one worker answered everything"
        processes = warm * (1 if name == "gunicorn" else 2)  # each worker of uvicorn imports the application
        arrived = _arrived(connection, answered.total() + processes)
    assert Counter(principal for principal, _ in arrived) == +Counter(anonymous=answered.total(), warm=processes)
    assert len({event_id for _, event_id in arrived}) == len(arrived)


_IMPORTS = """
import os, sys
from detector.contracts.topics import Topics
from detector.serving import Connection, Gate, QueryLogger
from detector.serving.isolation import load

load()
before = set(sys.modules)
connection = Connection(os.environ["BOOTSTRAP"], Topics(os.environ["PREFIX"]))
with QueryLogger(connection) as logger, Gate(connection) as gate:
    logger.log("p", "digits", "1", [[1.0, None], [1e39, 2.0]], [[3.0, -4.0], [0.5, 0.5]], event_id="\\ud800")
    logger.log("p", "digits", "1", [[1.0], [2.0, 3.0]], [[1.0], [1.0]], leaf=[1, 2], specification=[[1, 2], [3, 4]])
    logger.refused("p", "digits")
    assert gate.wait_until_ready(30) and not gate.check("digits", "thief").allowed
assert logger.snapshot()["sent"] == 4, logger.snapshot()
sys.exit(str(sorted(set(sys.modules) - before)))
"""


def test_the_threads_import_nothing_once_they_have_loaded(environment: dict[str, str]) -> None:
    """An import that a fork cuts short never ends in the child: what is imported must be so before a fork can come."""
    run = subprocess.run(
        [sys.executable, "-c", _IMPORTS], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.stderr.splitlines()[-1] == "[]", run.stderr


_HELD = """
import os, signal, threading
from detector.serving import decisions
from tests.serving.doubles import FedGate, KeepingLogger, decision

logger, gate = KeepingLogger(), FedGate([decision("slow", rate=1.0)])
logger.log("p", "digits", "1", [1.0], [1.0])
logger.refused("p", "digits")
gate.check("digits", "honest")
owners = [logger, logger._queue, logger._tallies, logger.counters, logger._log, gate, gate.counters]
for lock in [decisions._LOCK, *(owner._lock for owner in owners)]:
    held = threading.Event()
    threading.Thread(target=lambda: (lock.acquire(), held.set(), threading.Event().wait()), daemon=True).start()
    held.wait()
before = logger._prefix
child = os.fork()
if not child:
    signal.alarm(20)
    logger._started = True
    logger.log("q", "digits", "1", [2.0], [1.0])
    logger.log("q", "digits", "1", "no", "no")
    assert [rows.principal for rows in logger.kept()] == ["q"]
    assert [(one.principal, one.kind) for one in logger.counts()] == [("q", "unjudged")]
    assert logger.counters.snapshot()["logged"] == 1
    assert logger._prefix != before
    assert gate.check("digits", "thief").allowed and not gate.check("digits", "thief").allowed
    assert (gate.counters.snapshot()["allowed"], gate.counters.snapshot()["slowed"]) == (1, 1)
    logger._started = False
    logger.start()
    logger.close(0.1)
    os._exit(0)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_lock_that_another_thread_held_and_what_waited_stay_behind_in_the_parent() -> None:
    run = subprocess.run([sys.executable, "-c", _HELD], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
