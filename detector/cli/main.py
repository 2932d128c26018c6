"""``weirguard``: finds the command and runs it. A command's module is imported only when the command is asked for."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import NoReturn

import detector
from detector.contracts.errors import WeirguardError

_FAILED = 2


@dataclass(frozen=True, slots=True)
class CommandEntry:
    """A command: where it is (``module:attribute``, a function or a typer app), what it needs, what it does."""

    path: str
    extra: str
    summary: str


COMMANDS = {
    "demo": CommandEntry("demo:demo", "lab", "Watch a model thief being found and stopped, here and now."),
    "run": CommandEntry("run:run", "service", "Run the detector."),
    "replay": CommandEntry("replay:replay", "service", "Judge recorded queries from files, without Kafka."),
    "calibrate": CommandEntry("calibrate:calibrate", "service", "Learn from honest traffic what is ordinary."),
    "evaluate": CommandEntry("evaluate:evaluate", "lab", "Say which attacks are caught, when, and what the thief got."),
    "model": CommandEntry("model:app", "service", "Bring your model into a form that the detector reads."),
    "explain": CommandEntry("explain:explain", "service", "Say why a principal is a suspect, or is not, and draw it."),
    "decisions": CommandEntry("decisions:app", "service", "List, add and delete decisions."),
    "principals": CommandEntry("principals:app", "service", "Look at principals, and forget one."),
    "alerts": CommandEntry("alerts:app", "service", "Follow the alerts."),
    "config": CommandEntry("config:app", "service", "Check and show the settings."),
    "serve-demo": CommandEntry("serve_demo:serve_demo", "lab", "Serve the demo's model, guarded by the SDK."),
    "traffic": CommandEntry("traffic:traffic", "lab", "Send honest and thieving queries to a model server."),
    "redteam": CommandEntry("redteam:redteam", "lab", "Attack a model of yours, and keep the log of it."),
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0, what the command says, or 2 when something is wrong that we can name."""
    name, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    if name in ("--help", "-h"):
        print(usage())
    elif name == "--version":
        print(f"weirguard {detector.__version__}")
    elif name in COMMANDS:
        _run(name, rest)
    else:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        _fail(
            f"there is no command {name!r}" + (f"; did you mean {close[0]!r}?" if close else "; try weirguard --help")
        )
    sys.exit(0)


def usage() -> str:
    """What ``weirguard --help`` says."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{entry.summary}" for name, entry in COMMANDS.items()]
    head = ["Usage: weirguard COMMAND [OPTIONS]", "", "Finds model theft in the query logs of prediction APIs.", ""]
    tail = ["", "weirguard COMMAND --help tells more; weirguard --version says which version this is."]
    return "\n".join([*head, "Commands:", *lines, *tail])


def _run(name: str, arguments: list[str]) -> None:
    entry = COMMANDS[name]
    try:
        _execute(name, entry, arguments)
    except WeirguardError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("detector.") and error.name != "detector.lab":  # the image has no lab
            raise
        _fail(f"{name} needs the module {error.name}, which is not installed: pip install 'weirguard[{entry.extra}]'")


def _execute(name: str, entry: CommandEntry, arguments: list[str]) -> None:
    import typer
    from typer.main import get_command, get_group

    module, _, attribute = entry.path.partition(":")
    target = getattr(import_module(f"detector.cli.{module}"), attribute)
    if isinstance(target, typer.Typer):
        get_group(target)(args=arguments, prog_name=f"weirguard {name}")  # raises SystemExit
    app = typer.Typer(add_completion=False)
    app.command(name)(target)
    get_command(app)(args=arguments, prog_name=f"weirguard {name}")


def _fail(message: str) -> NoReturn:
    print(f"weirguard: {message}", file=sys.stderr)
    sys.exit(_FAILED)


if __name__ == "__main__":
    main()
