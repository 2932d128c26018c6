"""Shell completion: what is proposed, what is loaded for it, and that bash understands its script."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from detector.cli.completion import SCRIPTS, Shell, proposals
from detector.cli.main import COMMANDS


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["de"], ["demo", "decisions"]),
        (["--v"], ["--version"]),
        (["nothing", ""], []),
        (["decisions", ""], ["list", "add", "delete", "kill-switch"]),
        (["decisions", "add", "m", "p", "--act"], ["--action"]),
        (["decisions", "add", "m", "p", "--action", "s"], ["slow", "spec_noise"]),
        (["decisions", "kill-switch", "o"], ["on", "off"]),
        (["replay", "--mode", "com"], ["compatible"]),
        (["replay", "--out", ""], []),
        (["replay", "--merge", "--pro"], ["--profile"]),
        (["completion", "f"], ["fish"]),
    ],
)
def test_what_is_proposed(words: list[str], found: list[str]) -> None:
    assert proposals(words) == found


def test_an_empty_word_may_become_any_command() -> None:
    assert proposals([""]) == [*COMMANDS, "--help", "--version"]


def test_the_names_of_commands_are_completed_without_loading_any() -> None:
    source = (
        "import sys\nfrom detector.cli.main import main\n"
        "try:\n    main(['completion', 'bash', '--', 'prin'])\nexcept SystemExit:\n    pass\n"
        "print('LOADED', *sorted(name.partition('.')[0] for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=True)
    listing, _, loaded = done.stdout.partition("LOADED")
    assert listing == "principals\n"
    assert {"faust", "sklearn", "numpy", "kafka", "msgspec"}.isdisjoint(loaded.split())


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_script_asks_the_command_itself(shell: Shell) -> None:
    assert f"weirguard completion {shell} -- " in SCRIPTS[shell]
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=SCRIPTS[shell], text=True, timeout=20, check=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes(tmp_path: Path) -> None:
    program = tmp_path / "weirguard"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m detector.cli.main "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    asked = 'COMP_WORDS=(weirguard decisions "$1"); COMP_CWORD=2; _weirguard; printf "%s\\n" "${COMPREPLY[@]}"'
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for begun, found in (("de", ["delete"]), ("", ["list", "add", "delete", "kill-switch"])):
        command = ["bash", "--norc", "-c", f"{SCRIPTS['bash']}\n{asked}", "bash", begun]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.split() == found
