"""The embedded broker: starts, answers, dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from detector.contracts.errors import BrokerError
from detector.runtime.broker import EmbeddedBroker, answers_metadata, dying_with_parent, free_port


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while _alive(pid):
        assert time.monotonic() < deadline, f"process {pid} lives on"
        time.sleep(0.02)


def test_answers_once_started_and_is_gone_after_the_with_block(tmp_path: Path) -> None:
    with EmbeddedBroker(log=tmp_path / "broker.log") as broker:
        host, port = broker.bootstrap.split(":")
        pid = broker.pid
        assert answers_metadata(host, int(port))
    assert pid is not None
    assert not _alive(pid)
    assert not answers_metadata(host, int(port))


def test_comes_back_on_its_port_after_kill_and_restart() -> None:
    with EmbeddedBroker() as broker:
        address, first = broker.bootstrap, broker.pid
        broker.kill()
        assert broker.pid is None
        broker.start()
        second = broker.pid
        broker.stop()
        broker.start()
        assert broker.bootstrap == address
        assert len({first, second, broker.pid}) == 3


def test_dies_with_the_process_that_started_it() -> None:
    source = (
        "import os, signal\n"
        "from detector.runtime.broker import EmbeddedBroker\n"
        "broker = EmbeddedBroker(); broker.start(); print(broker.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    child = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr
    _wait_until_gone(int(child.stdout))


def test_a_broker_that_cannot_start_says_where_its_log_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALF_TANSU_BIN", "/bin/false")
    with pytest.raises(BrokerError, match=r"exit status 1.*broker\.log"):
        EmbeddedBroker(log=tmp_path / "broker.log").start()


def test_a_taken_port_is_named_and_not_mistaken_for_a_start() -> None:
    with EmbeddedBroker() as holder:
        second = EmbeddedBroker()
        second.port = holder.port
        with pytest.raises(BrokerError, match=f"{holder.port} is taken"):
            second.start()


def test_starting_twice_is_refused() -> None:
    with EmbeddedBroker() as broker, pytest.raises(BrokerError, match="already runs"):
        broker.start()


def test_a_wrapped_command_keeps_its_arguments_and_exit_status() -> None:
    command = dying_with_parent([sys.executable, "-c", "import sys; sys.exit(len(sys.argv))", "a b", "c"])
    assert subprocess.run(command, check=False).returncode == 3


def test_nobody_listening_is_no_answer() -> None:
    assert not answers_metadata("127.0.0.1", free_port())
