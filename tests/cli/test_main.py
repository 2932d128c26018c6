"""The command line as its user meets it, in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
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


def test_version() -> None:
    assert _weirguard("--version").stdout == f"weirguard {__version__}\n"


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
