"""The supervisor: starts again, waits longer each time, and knows when not to."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from detector.runtime.broker import EmbeddedBroker, free_port
from detector.stream.exit_codes import FINAL, Exit, meaning
from detector.stream.supervisor import HEALTHY_SECONDS, Backoff

SCRIPT = """
import sys
from detector.stream.supervisor import Backoff, Supervisor
worker = [sys.executable, "-c", {worker!r}]
sys.exit(Supervisor(worker, [{server!r}], Backoff(0.01, 0.02), patience=0.3).run())
"""


def supervise(worker: str, server: str) -> subprocess.Popen[str]:
    script = SCRIPT.format(worker=worker, server=server)
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with EmbeddedBroker() as broker:
        yield broker.bootstrap


def test_a_worker_that_does_not_stop_is_killed(server: str) -> None:
    worker = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    process = supervise(worker, server)
    assert process.stdout is not None
    while "up" not in process.stdout.readline():
        assert process.poll() is None
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "is killed" in output


def test_waits_double_up_to_a_limit_and_a_healthy_run_earns_a_short_one() -> None:
    backoff = Backoff(0.5, 3.0)
    assert [backoff.after(1.0) for _ in range(4)] == [0.5, 1.0, 2.0, 3.0]
    assert [backoff.after(HEALTHY_SECONDS), backoff.after(1.0)] == [0.5, 1.0]


def test_a_worker_that_stops_on_doubt_is_started_again_and_told_how_often(server: str, tmp_path: Path) -> None:
    mark = tmp_path / "starts"
    worker = (
        f"import os, sys; open({str(mark)!r}, 'a').write(os.environ['WEIRGUARD_RESTARTS']);"
        f"sys.exit({int(Exit.CLEAN)} if os.environ['WEIRGUARD_RESTARTS'] == '3' else {int(Exit.SOURCE_GAP)})"
    )
    process = supervise(worker, server)
    output, _ = process.communicate(timeout=60)
    assert mark.read_text() == "0123"
    assert output.count(Exit.SOURCE_GAP.meaning) == 3


def test_a_worker_gets_settings_of_the_allocator_and_those_of_the_operator_come_first(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "7")
    worker = "import os; print([os.environ[name] for name in ('MALLOC_ARENA_MAX', 'MALLOC_MMAP_THRESHOLD_')])"
    output, _ = supervise(worker, server).communicate(timeout=60)
    assert "['7', '4194304']" in output


def test_the_thread_that_judges_searches_without_further_threads(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    worker = (
        "import faiss, threading;"
        "threading.Thread(target=lambda: print('threads:', faiss.omp_get_max_threads(), flush=True)).start()"
    )
    output, _ = supervise(worker, server).communicate(timeout=60)
    assert "threads: 1\n" in output


@pytest.mark.parametrize("code", sorted(FINAL - {Exit.CLEAN}))
def test_what_a_restart_cannot_mend_ends_the_supervisor_with_its_code(server: str, code: Exit) -> None:
    process = supervise(f"raise SystemExit({int(code)})", server)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert code.meaning in output


def test_sigterm_stops_the_worker_and_ends_well(server: str, tmp_path: Path) -> None:
    mark = tmp_path / "worker"
    worker = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0));"
        f"open({str(mark)!r}, 'w').close(); time.sleep(60)"
    )
    process = supervise(worker, server)
    while not mark.exists():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert process.stdout is not None
    process.stdout.close()


def test_no_worker_is_started_while_the_broker_is_away(tmp_path: Path) -> None:
    mark = tmp_path / "worker"
    process = supervise(f"open({str(mark)!r}, 'w').close()", f"127.0.0.1:{free_port()}")
    assert process.stdout is not None
    assert "waiting for the broker" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    process.stdout.close()
    assert not mark.exists()


def test_every_exit_has_a_meaning() -> None:
    assert all(code.meaning for code in Exit)
    assert meaning(-9) == "killed by signal 9"
    assert meaning(123) == "exit status 123"


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("sys.exit(76)", True),
        ("os.kill(os.getpid(), 9)", True),
        (f"sys.exit({int(Exit.BROKER)})", False),
        (f"sys.exit({int(Exit.OWNERSHIP_LOST)})", False),
        (f"sys.exit({int(Exit.STATE_NOT_WRITTEN)})", False),
        (f"sys.exit({int(Exit.SOURCE_GAP)})", False),
    ],
)
def test_a_worker_that_ends_twice_at_the_same_offsets_is_followed_by_one_that_is_told(
    end: str, said: bool, server: str, tmp_path: Path
) -> None:
    mark = tmp_path / "caution"
    worker = (
        "import os, sys; from detector.stream.poison import *; from detector.stream.exit_codes import Exit;"
        f"found = Quarantine.from_environment(os.environ); open({str(mark)!r}, 'a').write(str(int(bool(found))));"
        "InFlightNote.from_environment(os.environ).begin([OffsetRange('queries', 0, 5, 9)]);"
        f"sys.exit(0) if os.environ['WEIRGUARD_RESTARTS'] == '3' else {end}"
    )
    supervise(worker, server).communicate(timeout=60)
    assert mark.read_text() == ("0011" if said else "0000")


def test_what_a_restart_cannot_help_is_tried_again_after_the_longest_wait() -> None:
    backoff = Backoff(0.5, 30.0)
    assert backoff.after(1.0, Exit.REFUSED) == 30.0
    assert backoff.after(1.0, Exit.BROKER) == 0.5
