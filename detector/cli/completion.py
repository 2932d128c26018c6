"""``weirguard completion``: lets a shell complete commands, options and their values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from detector.cli.screen import say


class Shell(StrEnum):
    """What there is a script for."""

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
    """The lines for a shell's start file."""
    return _SCRIPTS[shell]


def proposals(words: Sequence[str]) -> list[str]:
    """What the last of ``words``, those after ``weirguard``, may become; nothing where it is a file or free text.

    Only the module of the command that is named is imported.
    """
    from detector.cli.main import COMMANDS

    *before, begun = words
    if not before:
        return _beginning(begun, [*COMMANDS, "--help", "--version"])
    return _beginning(begun, _choices(before, begun)) if before[0] in COMMANDS else []


def _choices(before: Sequence[str], begun: str) -> Iterator[str]:
    from detector.cli.main import command_of

    command, last = command_of(before[0]), before[-1]
    for word in before[1:]:
        command = getattr(command, "commands", {}).get(word, command)
    valued = [own for own in command.params if last in own.opts and not getattr(own, "is_flag", False)]
    if valued:
        yield from _values(command, valued[0], begun)
    elif begun.startswith("-"):
        yield from _options(command)
    else:
        yield from getattr(command, "commands", ())
        for own in command.params:
            if own.param_type_name == "argument":
                yield from _values(command, own, begun)


def _values(command: Any, parameter: Any, begun: str) -> Iterator[str]:
    """Those that it may have, where they are a few words; the shell itself completes files."""
    with command.make_context("weirguard", [], resilient_parsing=True) as context:
        yield from (item.value for item in parameter.shell_complete(context, begun) if item.type == "plain")


def _options(command: Any) -> Iterator[str]:
    for own in command.params:
        if own.param_type_name == "option" and not own.hidden:
            yield from (name for name in (*own.opts, *own.secondary_opts) if name.startswith("--"))
    yield "--help"


def _beginning(begun: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(begun)]
