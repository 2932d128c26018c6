"""Compiled loops: when there is machine code, when it is used, and what runs without it."""

from __future__ import annotations

import importlib
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from detector.core.loops import compiled as module
from detector.core.loops import machine_code
from detector.core.loops.compiled import SWITCH, Loop, approximate, compiled, listen
from detector.core.loops.machine_code import FOLDER

OFFSET = 1.0
NAME = f"{__name__}._total"


def _inner(value: float) -> float:
    """Twice."""
    return 2.0 * value


def _other(value: float) -> float:
    return 3.0 * value


_doubled = compiled(_inner)


def _total(values: Any) -> float:
    total = OFFSET
    for value in values:
        total += _doubled(value)
    return total


def _of_a_set(values: Any) -> float:
    return float(len({str(value) for value in values}))


VALUES = np.array([1.0, 2.0, 4.0])


class Heard:
    """What was told."""

    def __init__(self) -> None:
        self.compiled: list[str] = []
        self.troubles: list[str] = []

    def compiling(self, name: str) -> None:
        self.compiled.append(name)

    def slow(self, why: str) -> None:
        self.troubles.append(why)

    not_kept = slow

    def forget(self) -> None:
        """Listens as in a new process."""
        self.compiled.clear()
        self.troubles.clear()
        module._events._seen.clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Heard]:
    monkeypatch.setattr(module, "_events", module._Events())
    listener = Heard()
    listen(listener)
    yield listener
    listen(None)


def _run() -> float:
    """Runs ``_total`` as the next process would."""
    return float(compiled(_total)(VALUES))


def test_the_next_process_finds_the_machine_code(heard: Heard) -> None:
    assert _run() == 15.0
    assert NAME in heard.compiled
    heard.forget()
    assert _run() == 15.0
    assert heard.compiled == []
    assert heard.troubles == []


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def _one_bit_flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _removed(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [_truncated, _one_bit_flipped, _emptied, _removed])
@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_damaged_files_are_replaced(damage: Callable[[Path], None], kind: str, heard: Heard, folder: Path) -> None:
    _run()
    for path in folder.glob(f"*.{kind}"):
        damage(path)
    heard.forget()
    assert _run() == 15.0
    assert heard.compiled == [NAME]
    heard.forget()
    assert _run() == 15.0
    assert heard.compiled == []


def test_files_that_cannot_be_read_or_replaced_are_no_obstacle(heard: Heard, folder: Path) -> None:
    _run()
    for path in list(folder.iterdir()):
        path.unlink()
        path.mkdir()
    assert _run() == 15.0
    assert len(heard.troubles) == 1


def test_another_constant_another_callee_and_another_processor_have_their_own(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run()
    with monkeypatch.context() as changed:
        changed.setitem(_total.__globals__, "OFFSET", 5.0)
        assert _run() == 19.0
    with monkeypatch.context() as changed:
        changed.setitem(_total.__globals__, "_doubled", compiled(_other))
        assert _run() == 22.0
    heard.forget()
    with monkeypatch.context() as changed:
        changed.setattr(numba.config, "CPU_NAME", "generic")
        _run()
    assert NAME in heard.compiled


def test_a_change_of_a_file_that_is_called_is_seen(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    _run()
    heard.forget()
    monkeypatch.setattr(machine_code, "_digest_of", lambda path: b"edited" if path == __file__ else b"")
    _run()
    assert NAME in heard.compiled


def test_where_nothing_can_be_written_it_is_said_once(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, "/proc/sys/none")
    assert (_run(), _run()) == (15.0, 15.0)
    assert len(heard.troubles) == 1
    assert "/proc/sys/none" in heard.troubles[0]
    assert FOLDER in heard.troubles[0]


def test_a_full_disk_is_no_obstacle(heard: Heard) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        assert _run() == 15.0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in heard.troubles[0]


def test_the_next_folder_is_taken_where_the_first_cannot_be_written(
    heard: Heard, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_code, "folders", lambda: [Path("/proc/sys/none"), folder])
    _run()
    assert heard.troubles == []
    assert list(folder.glob("*.nbc"))


def test_the_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    beside = Path(machine_code.__file__).parent / "__pycache__" / "loops"
    assert machine_code.folders() == [beside, tmp_path / "weirguard"]
    (tmp_path / "weirguard").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: -1)
    assert machine_code.folders() == [beside], "a folder of somebody else's"
    monkeypatch.setenv(FOLDER, "/named")
    assert machine_code.folders() == [Path("/named")]


def test_what_numba_refuses_runs_as_plain_source(heard: Heard) -> None:
    assert compiled(_of_a_set)(VALUES) == 3.0
    assert len(heard.troubles) == 1
    assert f"{__name__}._of_a_set" in heard.troubles[0]


def test_what_is_told_before_anybody_listens_is_told_then(heard: Heard) -> None:
    listen(None)
    compiled(_of_a_set)(VALUES)
    assert heard.troubles == []
    listen(heard)
    assert len(heard.troubles) == 1


def test_switched_off_it_is_the_function_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "off")
    assert compiled(_total) is _total
    assert approximate(_total) is _total


def test_a_loop_is_known_by_its_source() -> None:
    assert isinstance(_doubled, Loop)
    assert _doubled.py_func is _inner
    assert _doubled.__doc__ == _inner.__doc__


RUN = "from tests.core.test_compiled import _run; print(_run())"
WITHOUT = "import sys; sys.modules['numba'] = None\n"


def _process(source: str, **variables: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", source], env=os.environ | variables, stdout=pipe, stderr=pipe, text=True
    )


def test_two_processes_that_compile_at_once_do_not_disturb_each_other(folder: Path, heard: Heard) -> None:
    both = [_process(RUN), _process(RUN)]
    assert [one.communicate(timeout=120)[0] for one in both] == ["15.0\n"] * 2
    assert _run() == 15.0
    assert heard.compiled == []


def test_without_numba_the_plain_source_runs_and_a_command_says_so(tmp_path: Path) -> None:
    source = f"{WITHOUT}from detector.cli.main import main; main(['warm'])"
    process = _process(source)
    assert "pip install 'weirguard[service]'" in process.communicate(timeout=120)[1]
    assert process.returncode == 2


def _makes_arrays(function: Callable[..., Any]) -> bool:
    return any(word in function.__code__.co_names for word in ("empty", "zeros", "full", "argsort", "flatnonzero"))


def test_only_what_counts_references_gets_arrays_that_a_callee_made() -> None:
    """Such an array would never be freed: nothing counts who holds it."""
    for_all = [importlib.import_module(name) for name in ("detector.core.engine", "detector.groups.accounts")]
    assert for_all
    strict = [loop for loop in module.loops() if not loop.counted and loop.__module__.startswith("detector.")]
    assert len(strict) > 50
    for loop in strict:
        assert not _makes_arrays(loop.py_func), loop.__qualname__
        for name, callee in machine_code.reached([loop.py_func]).items():
            returned = str(callee.__annotations__["return"])
            assert not _makes_arrays(callee) or returned in ("None", "int", "float", "bool"), (
                f"{loop.__qualname__}: {name}"
            )
