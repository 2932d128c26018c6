"""Output to the terminal: all text from outside passes through here, so that it cannot control the terminal.

Names of principals and models, reasons, and messages of brokers and files come from outside. JSON escapes its texts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from detector.runtime.text import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Cell = str | Sequence[str]
"""The text of a cell, or its lines."""

_WIDE = 1_000


def say(*lines: str) -> None:
    """Prints each of ``lines`` on one line, with control characters escaped."""
    for line in lines:
        print(printable(line))


def say_json(value: Any, indent: int | None = 2) -> None:
    """Prints ``value`` as JSON, in ASCII."""
    print(json.dumps(value, indent=indent))


def flush() -> None:
    """Flushes the output, so that a reader gets it now."""
    if sys.stdout is not None:
        sys.stdout.flush()


def note(line: str) -> None:
    """Prints ``line`` to standard error: it is not part of the output."""
    print(printable(line), file=sys.stderr)


def console(*, stderr: bool = False) -> Console:
    """The console for tables and progress bars; lines are not wrapped if the output is no terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    is_terminal = stream is not None and stream.isatty()
    return Console(stderr=stderr, width=None if is_terminal or stderr else _WIDE)


def table(head: Iterable[str], rows: Iterable[Iterable[Cell]], texts: int | None = None) -> Table:
    """A table of plain text; all but the first ``texts`` columns, if given, hold numbers."""
    from rich.table import Table

    result = Table()
    for at, name in enumerate(head):
        result.add_column(_verbatim(name), justify="left" if texts is None or at < texts else "right")
    for row in rows:
        result.add_row(*map(_verbatim, row))
    return result


def tell(console: Console, sentence: str, style: str | None = None) -> None:
    """Prints ``sentence`` on ``console`` as plain text, wrapped to its width."""
    console.print(printable(sentence), markup=False, highlight=False, style=style)


def verbatim(text: str) -> str:
    """``text``, escaped for places where rich reads markup."""
    from rich.markup import escape

    return escape(printable(text))


def printable_stream(stream: TextIO | None) -> None:
    """Makes ``stream`` escape characters that its encoding does not have, instead of raising an error."""
    if stream is not None and hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")


def _verbatim(cell: Cell) -> str:
    return "\n".join(map(verbatim, (cell,) if isinstance(cell, str) else cell))
