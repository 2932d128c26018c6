"""How a command ends: an exit status and, after an error, one line that says what is wrong.

There is no traceback unless ``WEIRGUARD_TRACEBACK`` is set: most errors are about a file, an address or a setting, and
the line of any other error asks to report it.
"""

from __future__ import annotations

import errno
import os
import select
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

from detector.cli.screen import printable_stream
from detector.contracts.errors import WeirguardError
from detector.runtime.text import complain

TRACEBACK_VARIABLE = "WEIRGUARD_TRACEBACK"
"""Environment variable that shows errors with a traceback."""

FAILED = 2
INTERRUPTED = 130
_LONG = 400
_REPORT = f"this is a fault of Weirguard; please report it with the output under {TRACEBACK_VARIABLE}=1"


def status_of(command: Callable[[], object]) -> int:
    """Runs ``command`` and returns the exit status of the process; an error is one line on standard error.

    A reader that closes the output, as ``head`` does, ends the command without an error.
    """
    for stream in (sys.stdout, sys.stderr):
        printable_stream(stream)
    status = _status(command)
    return _flushed(status)


def end_with_reader() -> None:
    """Ends this process as soon as the reader of its output closes it.

    For a command that may print nothing for hours, and would otherwise notice only then.
    """
    if not hasattr(select, "poll"):
        return
    try:
        output = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return
    reader = select.poll()
    reader.register(output, 0)  # then poll reports only that the reader has closed it

    def wait() -> None:
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in reader.poll()):
            os._exit(0)

    threading.Thread(target=wait, name="weirguard-reader", daemon=True).start()


def _status(command: Callable[[], object]) -> int:
    try:
        command()
    except KeyboardInterrupt:
        return _told("interrupted", INTERRUPTED)
    except SystemExit as error:
        return _of_exit(error)
    except Exception as error:  # noqa: BLE001 - each error gets one line
        _show_traceback(error)
        return _of_error(error)
    return 0


def _of_exit(error: SystemExit) -> int:
    """The status of an exit; 0 if rich ends the process because its output is closed."""
    if isinstance(error.__context__, BrokenPipeError):
        return 0
    if isinstance(error.code, str):
        return _told(error.code, FAILED)
    return error.code or 0


def _of_error(error: Exception) -> int:
    if isinstance(error, BrokenPipeError):
        return 0
    line = _line_of(error)
    return _of_command_line(error) if line is None else _told(line, FAILED)


def _line_of(error: Exception) -> str | None:
    """The line of an error with a known cause outside this program; None for others."""
    if isinstance(error, WeirguardError):
        return str(error)
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object[:_LONG]!r} is no UTF-8 text; write it in UTF-8"
    if isinstance(error, RecursionError):
        return "the input is nested too deeply to be read"
    if isinstance(error, MemoryError):
        return "there is not enough memory; give less input at once"
    return None


def _of_command_line(error: Any) -> int:
    """Ends typer's own errors: Exit, Abort and wrong usage, by name and attributes, since typer moves the classes."""
    if type(error).__name__ == "Exit" and isinstance(getattr(error, "exit_code", None), int):
        return int(error.exit_code)
    if type(error).__name__ == "Abort":
        return _told("interrupted", INTERRUPTED)
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return FAILED
    if hasattr(error, "format_message"):
        where = getattr(error, "ctx", None)
        path = where.command_path.removeprefix("weirguard ") + ": " if where else ""
        return _told(f"{path}{error.format_message().rstrip('.')}; see --help", FAILED)
    return _told(f"unexpected {type(error).__name__}: {str(error)[:_LONG]}; {_REPORT}", FAILED)


def _of_system(error: OSError) -> str:
    why = error.strerror or str(error)
    return f"{error.filename}: {why}" if error.filename is not None else why


def _told(line: str, status: int) -> int:
    with suppress(OSError, ValueError):
        complain(line)
    return status


def _show_traceback(error: Exception) -> None:
    if os.environ.get(TRACEBACK_VARIABLE):
        import traceback

        lines = "".join(traceback.format_exception(error)).splitlines()
        with suppress(OSError, ValueError):
            complain(*lines)


def _flushed(status: int) -> int:
    """Flushes both streams now: a failure at the end of the interpreter would print several lines."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        _silence(sys.stdout)
        if error.errno != errno.EPIPE and status not in (FAILED, INTERRUPTED):  # else a line was printed already
            status = _told(f"cannot write the output: {_of_system(error)}", FAILED)
    except ValueError:  # closed
        pass
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except (OSError, ValueError):
        _silence(sys.stderr)
    return status


def _silence(stream: TextIO) -> None:
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
