"""The service as a process: of a container, with a signal at any moment, without a disk to write to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import pytest

from detector.runtime.broker import free_port
from tests.conftest import Broker
from tests.e2e.service import running_service

ROOT = Path(__file__).parents[2]

SIGNALLED = """
import os, signal, sys

class Signal:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, Signal())
from detector.cli.main import main
main()
"""
"""Sends SIGTERM to itself as ``module`` is about to be loaded."""

READ_ONLY = 'mount --make-rprivate / && mount -o remount,bind,ro / && cd / && exec "$@"'


def _unshares(*options: str) -> bool:
    return subprocess.run(["unshare", *options, "true"], capture_output=True, check=False).returncode == 0


needs_namespaces = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or not _unshares("-m", "-p", "-f"),
    reason="needs root and the right to make namespaces",
)


def _environment(**variables: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WEIRGUARD_", "TMP", "TEMP"))}
    return clean | {"PYTHONPATH": str(ROOT)} | variables


def _settings_for(broker: Broker, prefix: str) -> dict[str, str]:
    return {
        "WEIRGUARD_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap,
        "WEIRGUARD_KAFKA__EMBEDDED": str(broker.embedded).lower(),
        "WEIRGUARD_KAFKA__PREFIX": prefix,
        "WEIRGUARD_KAFKA__PARTITIONS": "2",
        "WEIRGUARD_METRICS__PORT": str(free_port()),
    }


def _run(command: Sequence[str], **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=_environment(**variables), check=False
    )


AS_PROCESS_ONE = ["unshare", "-p", "-f", "--kill-child", sys.executable, "-c"]
NOWHERE = "127.0.0.1:1"
LOADED = ["detector.cli.ending", "detector.cli.screen", "typer", "detector.runtime.settings", "pydantic"]


@needs_namespaces
@pytest.mark.parametrize(
    ("name", "module", "status"),
    [
        *(
            ("run", module, 0)
            for module in (*LOADED, "detector.cli.service", "structlog", "detector.stream.supervisor")
        ),
        *(("alerts", module, 128 + signal.SIGTERM) for module in (*LOADED, "detector.cli.principals")),
    ],
)
def test_process_one_stops_at_a_signal_whatever_it_is_loading(name: str, module: str, status: int) -> None:
    command = [*AS_PROCESS_ONE, SIGNALLED.format(module=module), name]
    done = _run(command, WEIRGUARD_KAFKA__BOOTSTRAP_SERVERS=NOWHERE)
    assert (done.returncode, done.stderr) == (status, "")


def test_nothing_is_loaded_before_the_handler_is_set() -> None:
    source = "import sys; before = {*sys.modules}; import detector.cli.main; print(*{*sys.modules} - before)"
    done = _run([sys.executable, "-S", "-c", f"import os, signal, __future__; {source}"])
    assert {*done.stdout.split()} <= {"detector", "detector.cli", "detector.cli.main"}


@needs_namespaces
def test_process_one_stops_at_a_signal_while_it_waits_for_the_broker() -> None:
    command = [*AS_PROCESS_ONE, "from detector.cli.main import main; main()", "run"]
    variables = _environment(WEIRGUARD_KAFKA__BOOTSTRAP_SERVERS=f"127.0.0.1:{free_port()}")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=variables) as process:
        assert process.stderr is not None
        assert "waiting for the broker" in process.stderr.readline()
        [child] = _children(process.pid)
        os.kill(child, signal.SIGTERM)
        assert process.wait(60) == 0


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]


@needs_namespaces
def test_a_worker_needs_no_folder_that_it_can_write_to(broker: Broker, prefix: str, tmp_path: Path) -> None:
    variables = _environment(**_settings_for(broker, prefix), TMPDIR=str(tmp_path / "gone"))
    port = int(variables["WEIRGUARD_METRICS__PORT"])
    command = ["unshare", "-m", "sh", "-c", READ_ONLY, "sh", sys.executable, "-m", "detector.cli.main", "run"]
    log = tmp_path / "log"
    with log.open("wb") as output, subprocess.Popen(command, stderr=output, env=variables) as process:
        try:
            while not _answers(port):
                said = log.read_text(encoding="utf-8")
                assert process.poll() is None, said
                assert "worker stopped" not in said, said
                time.sleep(0.1)
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert "Traceback" not in log.read_text(encoding="utf-8")
    assert not (tmp_path / "gone").exists()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as reply:
            return bool(reply.status == 200)
    except (OSError, urllib.error.URLError):
        return False


@needs_namespaces
@pytest.mark.parametrize(
    "arguments",
    [["replay", "{log}", "--out", "/here"], ["replay", "{log}", "--out", "{root}/here"], ["demo"], ["config", "check"]],
    ids=" ".join,
)
def test_other_commands_end_in_one_line_on_a_disk_that_cannot_be_written_to(
    arguments: list[str], tmp_path: Path
) -> None:
    log = tmp_path / "log.jsonl"
    log.touch()
    filled = [one.format(log=log, root=ROOT) for one in arguments]
    done = _run(["unshare", "-m", "sh", "-c", READ_ONLY, "sh", sys.executable, "-m", "detector.cli.main", *filled])
    assert "Traceback" not in done.stderr
    assert done.returncode == (0 if filled[0] == "config" else 2)
    assert len(done.stderr.splitlines()) == (0 if filled[0] == "config" else 1), done.stderr


@pytest.mark.parametrize("there", [False, True])
def test_the_multiprocess_mode_of_prometheus_is_not_the_workers(
    broker: Broker, prefix: str, tmp_path: Path, there: bool
) -> None:
    folder = tmp_path / "multiprocess"
    if there:
        folder.mkdir()
    with (
        running_service(broker, prefix, tmp_path, PROMETHEUS_MULTIPROC_DIR=str(folder)) as service,
        urllib.request.urlopen(f"{service.worker.url}/metrics", timeout=10) as reply,
    ):
        page = reply.read().decode()
    assert "weirguard_partitions_assigned" in page
    assert not folder.exists() or not list(folder.iterdir())


def test_ctrl_c_at_the_terminal_is_for_the_supervisor_alone(broker: Broker, prefix: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-m", "detector.cli.main", "run"]
    variables = _environment(**_settings_for(broker, prefix))
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stderr=output, env=variables, start_new_session=True) as run,
    ):
        try:
            # A child is there a moment before it is in a group of its own.
            deadline = time.monotonic() + 60
            while not any(os.getpgid(worker) != run.pid for worker in _children(run.pid)):
                assert run.poll() is None, log.read_text(encoding="utf-8")
                assert time.monotonic() < deadline, "the worker is in the group of the supervisor"
            os.killpg(run.pid, signal.SIGINT)
            assert run.wait(60) == 0
        finally:
            run.kill()
    assert "Traceback" not in log.read_text(encoding="utf-8")
