"""The one way to the terminal: whatever comes from outside goes through here and cannot act on it.

Names of principals and models, reasons, messages of brokers and of files are others' text. JSON escapes them by itself.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from detector.runtime.printable import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Cell = str | Sequence[str]
"""The text of a cell, or its lines."""

_WIDE = 1_000


def say(*lines: str) -> None:
    """Print ``lines``, each in one line whatever is in it."""
    for line in lines:
        print(printable(line))


def say_json(value: Any, indent: int | None = 2) -> None:
    """Print ``value`` as JSON, in ASCII."""
    print(json.dumps(value, indent=indent))


def flush() -> None:
    """Let a reader have what was said so far."""
    if sys.stdout is not None:
        sys.stdout.flush()


def note(line: str) -> None:
    """Print ``line`` to standard error: it belongs not to the output."""
    print(printable(line), file=sys.stderr)


def complain(*lines: str) -> None:
    """Print ``lines`` to standard error, as those of this program."""
    for line in lines:
        note(f"weirguard: {line}")


def console(*, stderr: bool = False) -> Console:
    """Where tables and progress bars go; nothing is folded where nobody looks at it, as in a pipe."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    looked_at = stream is not None and stream.isatty()
    return Console(stderr=stderr, width=None if looked_at or stderr else _WIDE)


def table(head: Iterable[str], rows: Iterable[Iterable[Cell]], texts: int | None = None) -> Table:
    """A table of plain text; all but the first ``texts`` columns, if given, hold numbers."""
    from rich.table import Table

    made = Table()
    for at, name in enumerate(head):
        made.add_column(_verbatim(name), justify="left" if texts is None or at < texts else "right")
    for row in rows:
        made.add_row(*map(_verbatim, row))
    return made


def tell(console: Console, sentence: str, style: str | None = None) -> None:
    """Print ``sentence`` on ``console``, wrapped where it ends, and read as nothing but text."""
    console.print(printable(sentence), markup=False, highlight=False, style=style)


def verbatim(text: str) -> str:
    """``text`` for where rich reads markup."""
    from rich.markup import escape

    return escape(printable(text))


def printable_stream(stream: TextIO | None) -> None:
    """Let ``stream`` write what its encoding has no character for as an escape, not as an error."""
    if stream is not None and hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")


def _verbatim(cell: Cell) -> str:
    return "\n".join(map(verbatim, (cell,) if isinstance(cell, str) else cell))
