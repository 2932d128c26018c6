"""``weirguard completion``: lets a shell complete commands, options and their values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import typer

from detector.cli.screen import print_lines

Shell = Literal["bash", "zsh", "fish"]

SCRIPTS: dict[Shell, str] = {
    "bash": """\
_weirguard() {
    local IFS=$'\\n'
    COMPREPLY=($(weirguard completion bash -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o bashdefault -o default -F _weirguard weirguard""",
    "zsh": """\
#compdef weirguard
_weirguard() {
    local -a found
    found=(${(f)"$(weirguard completion zsh -- "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( ${#found} )); then compadd -a found; else _files; fi
}
compdef _weirguard weirguard""",
    "fish": """\
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
    print_lines(*(SCRIPTS[shell].split("\n") if words is None else proposals(words)))


def proposals(words: Sequence[str]) -> list[str]:
    """Returns what the last of ``words``, those after ``weirguard``, may become; nothing for a file or free text.

    Imports only the module of the command that is named.
    """
    from detector.cli.main import COMMANDS, command_of

    name, *arguments = words
    if not arguments:
        return [word for word in (*COMMANDS, "--help", "--version") if word.startswith(name)]
    if name not in COMMANDS:
        return []
    from typer._completion_classes import BashComplete

    complete = BashComplete(command_of(name), {}, name, "")
    return [
        completion.value
        for completion in complete.get_completions(arguments[:-1], arguments[-1])
        if completion.type == "plain"
    ]
