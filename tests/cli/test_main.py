"""The command line as its user meets it, in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

from detector import __version__
from detector.cli.main import COMMANDS

PROGRAM = "from detector.cli.main import main; main()"


def _weirguard(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WEIRGUARD_")}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=clean | environment, check=False)


def test_help_names_every_command_without_loading_any() -> None:
    source = (
        "import sys\nfrom detector.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print('LOADED', *sorted(name.partition('.')[0] for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=True)
    listing, _, loaded = done.stdout.partition("LOADED")
    assert all(f"  {name} " in listing for name in COMMANDS)
    assert {"faust", "sklearn", "numpy", "kafka", "pydantic", "typer"}.isdisjoint(loaded.split())


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version(option: str) -> None:
    assert _weirguard(option).stdout == f"weirguard {__version__}\n"


def test_the_wheel_says_that_it_is_typed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, timeout=120, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "detector/py.typed" in names
    assert not [name for name in names if name.startswith("tests")]


def test_an_unknown_command_is_answered_with_the_nearest() -> None:
    done = _weirguard("dem")
    assert done.returncode == 2
    assert done.stderr == "weirguard: there is no command 'dem'; did you mean 'demo'?\n"


def test_a_wrong_setting_is_one_line_and_no_traceback() -> None:
    done = _weirguard("config", "check", WEIRGUARD_POLICY__MODE="shout")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("weirguard: policy.mode = 'shout'")
    assert len(done.stderr.splitlines()) == 1


def test_what_is_not_installed_is_named_with_its_extra(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError('gone', name='typer')")
    done = _weirguard("config", "check", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "pip install 'weirguard[service]'" in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_where_the_table_says(name: str) -> None:
    module, _, attribute = COMMANDS[name].path.partition(":")
    assert hasattr(import_module(f"detector.cli.{module}"), attribute)
