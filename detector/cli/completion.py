"""``weirguard completion``: lets a shell complete commands, options and their values."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from detector.cli.screen import say


class Shell(StrEnum):
    """The shells that there is a script for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


_SCRIPTS = {
    Shell.BASH: """\
_weirguard() {
    local IFS=$'\\n'
    COMPREPLY=($(weirguard completion bash -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o bashdefault -o default -F _weirguard weirguard""",
    Shell.ZSH: """\
#compdef weirguard
_weirguard() {
    local -a found
    found=(${(f)"$(weirguard completion zsh -- "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( ${#found} )); then compadd -a found; else _files; fi
}
compdef _weirguard weirguard""",
    Shell.FISH: """\
function __weirguard
    set -l words (commandline -opc) (commandline -ct)
    weirguard completion fish -- $words[2..-1] 2>/dev/null
end
complete -c weirguard -a '(__weirguard)'""",
}


def completion(
    shell: Annotated[Shell, typer.Argument(help="Whose script.", show_default=False)],
    words: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
) -> None:
    """Print the script that lets SHELL complete weirguard's commands: source <(weirguard completion bash)."""
    say(*(script(shell).split("\n") if words is None else proposals(words)))


def script(shell: Shell) -> str:
    """Returns the lines for a shell's start file."""
    return _SCRIPTS[shell]


def proposals(words: Sequence[str]) -> list[str]:
    """Returns what the last of ``words``, those after ``weirguard``, may become; nothing for a file or free text.

    Imports only the module of the command that is named.
    """
    from detector.cli.main import COMMANDS, command_of

    name, *arguments = words
    if not arguments:
        return [own for own in (*COMMANDS, "--help", "--version") if own.startswith(name)]
    if name not in COMMANDS:
        return []
    from typer._completion_classes import BashComplete

    complete = BashComplete(command_of(name), {}, name, "")
    return [own.value for own in complete.get_completions(arguments[:-1], arguments[-1]) if own.type == "plain"]
