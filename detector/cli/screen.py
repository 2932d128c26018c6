"""Output to the terminal: all text from outside passes through here, so that it cannot control the terminal.

Names of principals and models, reasons, and messages of brokers and files come from outside. JSON escapes its texts.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from detector.contracts.errors import ConfigurationError
from detector.runtime.text import print_error, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Cell = str | Sequence[str]
"""The text of a cell, or its lines."""

_UNWRAPPED_WIDTH = 1_000
QUIET_SECONDS = 2.0
"""Seconds of compilation before a message."""


def print_lines(*lines: str) -> None:
    """Prints each of ``lines`` on one line, with control characters escaped."""
    for line in lines:
        print(printable(line))


def print_json(value: Any, indent: int | None = 2) -> None:
    """Prints ``value`` as JSON, in ASCII."""
    print(json.dumps(value, indent=indent))


def flush() -> None:
    """Flushes the output, so that a reader gets it now."""
    if sys.stdout is not None:
        sys.stdout.flush()


def print_note(line: str) -> None:
    """Prints ``line`` to standard error: it is not part of the output."""
    print(printable(line), file=sys.stderr)


def console(*, stderr: bool = False) -> Console:
    """Returns the console for tables and progress bars; lines are wrapped only on a terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    is_terminal = stream is not None and stream.isatty()
    return Console(stderr=stderr, width=None if is_terminal or stderr else _UNWRAPPED_WIDTH)


def table(head: Iterable[str], rows: Iterable[Iterable[Cell]], texts: int | None = None) -> Table:
    """Returns a table of plain text; all but the first ``texts`` columns, if given, hold numbers."""
    from rich.table import Table

    result = Table()
    for at, name in enumerate(head):
        result.add_column(_verbatim(name), justify="left" if texts is None or at < texts else "right")
    for row in rows:
        result.add_row(*map(_verbatim, row))
    return result


def print_sentence(console: Console, sentence: str, style: str | None = None) -> None:
    """Prints ``sentence`` on ``console`` as plain text, wrapped to its width."""
    console.print(printable(sentence), markup=False, highlight=False, style=style)


def verbatim(text: str) -> str:
    """Returns ``text`` escaped for places where rich reads markup."""
    from rich.markup import escape

    return escape(printable(text))


def _verbatim(cell: Cell) -> str:
    return "\n".join(map(verbatim, (cell,) if isinstance(cell, str) else cell))


class CompilationMessages:
    """Reports on standard error that loops are compiled, once it takes a while, and everything that makes them slow.
    ``strict``: names each function as it is compiled, and raises ConfigurationError where a loop runs uncompiled.
    ``unkept``: why machine code is not kept on disk; empty if it is."""

    def __init__(self, *, strict: bool = False) -> None:
        self.compiled = 0
        self.unkept = ""
        self._strict = strict
        self._since = 0.0
        self._announced = False

    def compiling(self, name: str) -> None:
        now = time.monotonic()
        self._since = self._since or now
        self.compiled += 1
        if now - self._since < QUIET_SECONDS:
            return
        if not self._announced:
            self._announced = True
            print_error("compiling the loops for this machine, once, which takes up to a minute; see weirguard warm")
        if self._strict:
            print_error(f"compiling {name}")

    def slow(self, why: str) -> None:
        if self._strict:
            raise ConfigurationError(why)
        print_error(f"SLOW: loops run uncompiled, a hundred times slower: {why}")

    def not_kept(self, why: str) -> None:
        self.unkept = why
        if not self._strict:
            print_error(f"each command compiles the loops again: {why}")
