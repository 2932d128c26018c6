"""``weirguard``: finds the command and runs it. Imports only the module of the command that is run. This module loads
almost nothing, because its first action cannot wait: see ``_end_at_sigterm``.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself takes a while to load
    from collections.abc import Sequence
    from typing import Any, NoReturn


class CommandEntry:
    """``path``: where the command is, ``module:attribute``, a function or a typer app. ``extra``: the optional
    dependencies that it needs. ``summary``: what it does."""

    __slots__ = ("extra", "path", "summary")

    def __init__(self, path: str, extra: str, summary: str) -> None:
        self.path = path
        self.extra = extra
        self.summary = summary


COMMANDS = {
    "demo": CommandEntry("lab:demo", "lab", "Watch model thieves being found and stopped."),
    "run": CommandEntry("service:run", "service", "Run the detector."),
    "scan": CommandEntry("scan:scan", "service", "Find the accounts of a query log that stand out."),
    "replay": CommandEntry("replay:replay", "service", "Judge recorded queries from files, without Kafka."),
    "calibrate": CommandEntry("calibrate:calibrate", "service", "Make a profile from honest traffic."),
    "evaluate": CommandEntry(
        "evaluate:evaluate", "lab", "Report which attacks are caught, when, and what the thief got."
    ),
    "model": CommandEntry("model:app", "service", "Bring your model into a form that the detector reads."),
    "explain": CommandEntry(
        "explain:explain", "service", "Explain why a principal is a suspect, or is not, with plots."
    ),
    "decisions": CommandEntry("decisions:app", "service", "List, add and delete decisions."),
    "allowlist": CommandEntry("allowlist:app", "service", "Exempt principals from automatic decisions."),
    "shadow-report": CommandEntry("shadow:shadow_report", "service", "Report what enforcing would have done."),
    "gate": CommandEntry("gate:app", "service", "Serve a gate to NGINX and Envoy; list all gates."),
    "principals": CommandEntry("principals:app", "service", "Show principals, and clear one."),
    "groups": CommandEntry("groups:app", "service", "Show groups of accounts that share one theft."),
    "alerts": CommandEntry("principals:alerts", "service", "Follow the alerts."),
    "notify": CommandEntry("service:notify", "service", "Send alerts to webhooks, Alertmanager, syslog or a SIEM."),
    "config": CommandEntry("service:app", "service", "Check and show the settings."),
    "serve-demo": CommandEntry("lab:serve_demo", "lab", "Serve the demo's model, guarded by the SDK."),
    "traffic": CommandEntry("lab:traffic", "lab", "Send queries of honest users and of a thief to a model server."),
    "redteam": CommandEntry("lab:redteam", "lab", "Attack a model of yours, and write the labelled log."),
    "warm": CommandEntry("service:warm", "service", "Compile the loops for this machine before the first start."),
    "completion": CommandEntry("completion:completion", "service", "Let your shell complete commands and options."),
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and exits: with 0, the command's own status, 130 when interrupted, or 2 after an error."""
    name, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    _end_at_sigterm(name)
    from detector.cli.ending import status_of

    sys.exit(status_of(lambda: _run(name, rest)))


def _end_at_sigterm(name: str) -> None:
    """Makes SIGTERM end the process until the command has its own handler.

    For process 1, as in a container, the kernel ignores signals without a handler: a SIGTERM that arrives while a
    command loads would be lost, and the container would run until it is killed.
    """
    if name == "run":
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # nothing has begun
    elif os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))


def _run(name: str, arguments: list[str]) -> None:
    from detector.cli.screen import CompilationMessages, print_lines
    from detector.contracts.errors import ConfigurationError

    if name in ("--help", "-h"):
        print_lines(*_usage())
        return
    if name in ("--version", "-V"):
        import detector

        print_lines(f"weirguard {detector.__version__}")
        return
    if name not in COMMANDS:
        import difflib

        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "try weirguard --help"
        raise ConfigurationError(f"there is no command {name!r}; {hint}")
    from detector.core.loops.compiled import listen

    listen(CompilationMessages())
    try:
        command = command_of(name)
        with command.make_context(f"weirguard {name}", arguments) as context:
            command.invoke(context)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("detector.") and error.name != "detector.lab":  # the image has no lab
            raise
        needs = f"pip install 'weirguard[{COMMANDS[name].extra}]'"
        raise ConfigurationError(f"{name} needs the module {error.name}, which is not installed: {needs}") from None


def _usage() -> list[str]:
    """Returns the lines of ``weirguard --help``, for which typer need not be loaded."""
    width = max(map(len, COMMANDS)) + 2
    return [
        "Usage: weirguard COMMAND [OPTIONS]",
        "",
        "Finds model theft in the query logs of prediction APIs.",
        "",
        "Commands:",
        *(f"  {name:<{width}}{entry.summary}" for name, entry in COMMANDS.items()),
        "",
        "weirguard COMMAND --help describes a command; weirguard --version prints the version.",
    ]


def command_of(name: str) -> Any:
    """Returns typer's command ``name`` without typer's error handling, which has other statuses and prints several
    lines."""
    from importlib import import_module

    import typer
    from typer.main import get_command, get_group

    module, _, attribute = COMMANDS[name].path.partition(":")
    target = getattr(import_module(f"detector.cli.{module}"), attribute)
    if isinstance(target, typer.Typer):
        return get_group(target)
    app = typer.Typer(add_completion=False)
    app.command(name)(target)
    return get_command(app)


if __name__ == "__main__":
    main()
