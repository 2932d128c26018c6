"""Every command ends in one line and with a proper status, whatever is wrong around it.

``CASES`` has a row for each command of the registry; a new command without one fails.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog

from detector.cli.ending import FAILED, INTERRUPTED, TRACEBACK_VARIABLE, status_of
from detector.cli.files import NOTHING
from detector.cli.main import COMMANDS, main
from detector.contracts.errors import ConfigurationError
from detector.core.warm import warm_all
from detector.groups.warm import warm_groups
from detector.replay import topics
from tests.core.honest import honest
from tests.lab.labelled import traffic, write_traffic
from tests.sources.logs import write_jsonl

ROOT = Path(__file__).parents[2]
NOWHERE = "127.0.0.1:1"
SETTINGS = "WEIRGUARD_CONFIG"


@dataclass(frozen=True)
class Case:
    """How a command is run; in ``arguments`` stand {log} for a good log, {out} and {input} for what is tried.

    ``out``: whether {out} is a folder or a file; ``input``: the suffix of what {input} must look like. ``blocks``: the
    module and function that a command is in when it is interrupted.
    """

    arguments: Sequence[str]
    blocks: str
    out: str | None = None
    out_suffix: str = ""
    input: str | None = None
    interrupted: int = INTERRUPTED
    settings: bool = True
    more: Sequence[Sequence[str]] = field(default=())


BARS = {"replay", "read", "rows", "accounts", "queries", "jbda"}
"""How progress bars begin."""

READS = "detector.replay.topics.Topic.__init__"

CASES: dict[str, Case] = {
    "demo": Case([], "detector.lab.demo.run.run_demo", settings=False),
    "run": Case([], "detector.stream.supervisor._listens", interrupted=0),
    "scan": Case(["{input}", "--out", "{out}"], "detector.replay.scan.scan_log", "folder", input=".jsonl"),
    "replay": Case(["{input}", "--out", "{out}"], "detector.replay.report.replay", "folder", input=".jsonl"),
    "calibrate": Case(
        ["--honest", "{input}", "--out", "{out}"],
        "detector.replay.calibrate.make_profile",
        "file",
        input=".jsonl",
    ),
    "evaluate": Case(
        ["{input}", "--out", "{out}"], "detector.lab.evaluation.judging.judge_once", "folder", input=".parquet"
    ),
    "model": Case(
        ["export", "{input}", "--out", "{out}"], "detector.cli.model._from_file", "file", input=".json", settings=False
    ),
    "explain": Case(
        ["ana", "--log", "{input}", "--out", "{out}"],
        "detector.replay.principal.queries_in_logs",
        "file",
        ".html",
        input=".jsonl",
        more=[["ana"]],
    ),
    "decisions": Case(
        ["list"],
        READS,
        more=[
            ["add", "m", "p", "--action", "refuse", "--reason", "r"],
            ["delete", "m", "p", "--reason", "r"],
            ["kill-switch", "on", "--reason", "r"],
        ],
    ),
    "allowlist": Case(
        ["list"],
        READS,
        more=[
            ["add", "p", "--owner", "o", "--reason", "r"],
            ["remove", "p", "--reason", "r"],
        ],
    ),
    "shadow-report": Case([], READS),
    "principals": Case(["top"], READS, more=[["show", "m", "p"], ["clear", "m", "p", "--reason", "r"]]),
    "groups": Case(["list"], READS, more=[["show", "1f"], ["dismiss", "1f", "--reason", "r"]]),
    "gate": Case(["list"], READS),
    "alerts": Case(["tail"], READS, interrupted=0),
    "notify": Case([], "detector.notify.service.new_receivers", more=[["--test"]]),
    "config": Case(["show"], "detector.runtime.settings.load_settings", more=[["check"]]),
    "serve-demo": Case([], "detector.lab.server.create_demo"),
    "traffic": Case(
        ["--target", f"http://{NOWHERE}/predict", "--seconds", "1"],
        "detector.lab.traffic.honest_accounts",
        settings=False,
    ),
    "redteam": Case(
        ["--attack", "jbda", "--target", "logistic regression", "--data", "iris", "--out", "{out}"],
        "detector.lab.experiment.conduct",
        "file",
        ".parquet",
        settings=False,
    ),
    "warm": Case([], "detector.core.warm.warm_all", settings=False),
    "completion": Case(["bash"], "detector.cli.completion.print_lines", settings=False),
}
WITH_OUT = [name for name, case in CASES.items() if case.out]
WITH_INPUT = [name for name, case in CASES.items() if case.input]
WITH_SETTINGS = [name for name, case in CASES.items() if case.settings]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "log.jsonl", honest("ana", 1))


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Ended]


@pytest.fixture
def weirguard(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs a command here, and leaves signals, logging and environment as they were."""
    root, old = logging.getLogger(), {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    handlers, level = root.handlers[:], root.level
    monkeypatch.setenv("WEIRGUARD_KAFKA__BOOTSTRAP_SERVERS", NOWHERE)
    monkeypatch.setattr(topics, "BOOTSTRAP_MILLISECONDS", 100)

    def run(*arguments: object, **environment: str) -> Ended:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ended(int(stopped.value.code or 0), captured.out, captured.err)

    yield run
    root.handlers[:], root.level = handlers, level
    for number, handler in old.items():
        signal.signal(number, handler)
    structlog.reset_defaults()


def in_a_process(*arguments: object, before: str = "", stdout: Any = subprocess.PIPE) -> Ended:
    """Runs a command in a process of its own, whose output goes to ``stdout``, by the buffer that most have."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    program = f"{before}\nfrom detector.cli.main import main; main()"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(
        command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=120, env=environment, check=False
    )
    return Ended(done.returncode, done.stdout or "", done.stderr)


def ends_in_one_line(done: Ended, status: int = FAILED) -> str:
    """The line, of a command that ended with ``status``."""
    lines = [line for line in done.stderr.splitlines() if line.partition(" ")[0] not in BARS]
    assert "Traceback" not in done.stderr + done.stdout
    assert (done.returncode, len(lines)) == (status, 1), done.stderr
    assert lines[0].startswith("weirguard: ")
    assert "unexpected" not in lines[0]
    return lines[0]


def test_every_command_has_a_row() -> None:
    assert CASES.keys() == COMMANDS.keys()


def test_every_command_of_the_pages_is_one(weirguard: Run) -> None:
    named = set[tuple[str, ...]]()
    for page in (*(ROOT / "docs").glob("*.md"), ROOT / "README.md"):
        text = page.read_text("utf-8")
        found = re.findall(r"(?:`|^)weirguard ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?", text, re.MULTILINE)
        named |= {tuple(word for word in words if word) for words in found}
    assert len(named) > 30
    assert [words for words in sorted(named) if weirguard(*words, "--help").returncode] == []


def _arguments(name: str, log: Path, out: object = None, given: object = None) -> list[str]:
    case = CASES[name]
    return [name, *(one.format(log=log, out=out or "out", input=given or log) for one in case.arguments)]


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _file(path: Path) -> Path:
    path.write_text("kept", encoding="utf-8")
    return path


WRONG_OUT: dict[str, Callable[[Case, Path], Path]] = {
    "a file for a folder, or a folder for a file": lambda case, place: (_file if case.out == "folder" else _folder)(
        place
    ),
    "below a file": lambda _, place: _file(place.with_name("file")) / place.name,
    "below what cannot be written to": lambda _, place: Path("/proc/sys") / place.name,
    "below a loop of links": lambda _, place: _loop(place.with_name("loop")) / place.name,
}


def _loop(path: Path) -> Path:
    path.symlink_to(path)
    return path


@pytest.mark.parametrize("wrong", WRONG_OUT)
@pytest.mark.parametrize("name", WITH_OUT)
def test_an_out_that_cannot_be_written(name: str, wrong: str, log: Path, tmp_path: Path, weirguard: Run) -> None:
    case = CASES[name]
    out = WRONG_OUT[wrong](case, tmp_path / f"x{case.out_suffix}")
    line = ends_in_one_line(weirguard(*_arguments(name, log, out)))
    assert "--out" in line
    if (tmp_path / "file").exists():
        assert (tmp_path / "file").read_text(encoding="utf-8") == "kept"


WRONG_INPUT: dict[str, Callable[[Path], Path]] = {
    "missing": lambda place: place,
    "a folder": _folder,
    "unreadable": lambda place: _link(place, Path("/proc/self/mem")),
    "other content": _file,
    "bytes": lambda place: _holding(place, b"\xff\xfe\x00" * 99),
    "empty": lambda place: _holding(place, b""),
}


def _holding(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _link(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


@pytest.mark.parametrize("wrong", WRONG_INPUT)
@pytest.mark.parametrize("name", WITH_INPUT)
def test_an_input_that_cannot_be_read(name: str, wrong: str, log: Path, tmp_path: Path, weirguard: Run) -> None:
    case = CASES[name]
    given = WRONG_INPUT[wrong](tmp_path / f"given\x1b[2J{case.input}")
    done = weirguard(*_arguments(name, log, tmp_path / f"out{case.out_suffix}", given))
    assert "\x1b[2J" not in done.stderr
    if name == "replay" and wrong in ("other content", "empty"):  # bad rows are what it reports
        assert done.returncode == NOTHING, done.stderr
        return
    ends_in_one_line(done, NOTHING if name == "scan" and wrong in ("other content", "empty") else FAILED)


@pytest.mark.parametrize("wrong", ["missing", "a folder", "unreadable", "other content", "bytes"])
@pytest.mark.parametrize("name", WITH_SETTINGS)
def test_settings_that_cannot_be_read(name: str, wrong: str, log: Path, tmp_path: Path, weirguard: Run) -> None:
    settings = WRONG_INPUT[wrong](tmp_path / "settings.yaml")
    arguments = _arguments(name, log, tmp_path / f"out{CASES[name].out_suffix}")
    assert str(settings) in ends_in_one_line(weirguard(*arguments, **{SETTINGS: str(settings)}))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.blocks == READS])
def test_a_broker_that_is_away(name: str, weirguard: Run) -> None:
    for arguments in (CASES[name].arguments, *CASES[name].more):
        assert NOWHERE in ends_in_one_line(weirguard(name, *arguments))


@pytest.mark.parametrize(
    ("name", "wrong"), [*((name, ["--no\x1b[2J"]) for name in COMMANDS), ("alerts", ["\udcff", "--x"])]
)
def test_wrong_usage(name: str, wrong: list[str], weirguard: Run) -> None:
    line = ends_in_one_line(weirguard(name, *wrong))
    assert line.isprintable()
    assert name in line


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c(name: str, log: Path, tmp_path: Path, weirguard: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes while the command is at what it is for."""
    came: list[str] = []

    def interrupted(*_: object, **__: object) -> bool:
        came.append(name)
        signal.raise_signal(signal.SIGINT)
        return False

    monkeypatch.setattr(CASES[name].blocks, interrupted)
    done = weirguard(*_arguments(name, log, tmp_path / f"out{CASES[name].out_suffix}"))
    assert came == [name]
    assert "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("weirguard: ")]
    assert said == (["weirguard: interrupted"] if CASES[name].interrupted else [])
    assert done.returncode == CASES[name].interrupted


@pytest.mark.parametrize("name", [*COMMANDS, "--help"])
def test_a_closed_pipe_is_quiet(name: str) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = in_a_process(name, *([] if name == "--help" else ["--help"]), stdout=write)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments", [["config", "show"], ["config", "show", "--json"], ["config", "schema"], ["--version"]]
)
def test_a_closed_pipe_is_quiet_for_what_a_command_prints(arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = in_a_process(*arguments, stdout=write)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments", [["config", "show"], ["config", "show", "--json"], ["--help"], ["alerts", "--help"]]
)
def test_a_full_disk_is_told(arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        assert "No space left" in ends_in_one_line(in_a_process(*arguments, stdout=full))


FULL = (
    "import os, resource; os.environ['JOBLIB_MULTIPROCESSING'] = '0'; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
)
"""Not a byte can be written to any file; joblib is not to try, as it warns then."""


@pytest.mark.parametrize("name", WITH_OUT)
def test_a_disk_that_is_full_under_out_is_told_and_what_was_there_is_whole(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = _making_something(name, tmp_path)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / f"out{CASES[name].out_suffix}"
    if CASES[name].out == "file":
        _file(out)
    assert "File too large" in ends_in_one_line(in_a_process(*arguments, "--out", out, before=FULL))
    if CASES[name].out == "file":
        assert out.read_text(encoding="utf-8") == "kept"
        assert [one for one in tmp_path.iterdir() if "partial" in one.name] == []


def _making_something(name: str, folder: Path) -> list[object]:
    """Arguments, all but --out, with which a command comes to write; what it would compile is."""
    warm_all()
    warm_groups()
    log = write_jsonl(folder / "good.jsonl", *(honest(f"a{at}", at) for at in range(9)))
    fit = "from sklearn.tree import DecisionTreeClassifier as C\nmade = C().fit([[0.0], [1.0]], [0, 1])\n"
    (folder / "mine.py").write_text(fit, encoding="utf-8")
    labelled = write_traffic(folder / "labelled.parquet", traffic())
    given: dict[str, list[object]] = {
        "scan": [log],
        "replay": [log],
        "evaluate": [labelled],
        "calibrate": ["--honest", log],
        "explain": ["a1", "--log", log],
        "model": ["export", "mine:made"],
        "redteam": ["--attack", "jbda", "--target", "logistic regression", "--data", "iris", "--budget", "20"],
    }
    return [name, *given[name]]


def test_an_unexpected_error_is_one_line_that_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise ZeroDivisionError("by \x1b[2J\nzero")

    assert status_of(fails) == FAILED
    captured = capsys.readouterr().err
    assert captured.startswith("weirguard: unexpected ZeroDivisionError: by \\x1b[2J\\nzero; ")
    assert len(captured.splitlines()) == 1
    assert TRACEBACK_VARIABLE in captured


def test_a_traceback_is_shown_where_it_is_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise ConfigurationError("\x1b[2Jwrong")

    monkeypatch.setenv(TRACEBACK_VARIABLE, "1")
    assert status_of(fails) == FAILED
    captured = capsys.readouterr().err.splitlines()
    assert "in fails" in "".join(captured)
    assert captured[-1] == "weirguard: \\x1b[2Jwrong"


def test_signals_are_as_python_has_them() -> None:
    assert INTERRUPTED == 128 + signal.SIGINT
