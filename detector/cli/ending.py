"""How a command ends: an exit status and, where something is wrong, one line that says what.

No traceback, unless ``WEIRGUARD_TRACEBACK`` is set: most faults are a file, an address or a setting, and one that is
none of these is called ours.
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

from detector.cli.screen import complain, printable_stream
from detector.contracts.errors import WeirguardError

TRACEBACK_VARIABLE = "WEIRGUARD_TRACEBACK"
"""Environment variable that has errors shown with where they came from."""

FAILED = 2
INTERRUPTED = 130
_LONG = 400
_REPORT = f"this is a fault of Weirguard's; please report it with what {TRACEBACK_VARIABLE}=1 adds"


def status_of(command: Callable[[], object]) -> int:
    """Run ``command`` and return the exit status of the process; what is wrong is one line on standard error.

    Whoever reads the output and goes away, as ``head`` does, ends the command quietly.
    """
    for stream in (sys.stdout, sys.stderr):
        printable_stream(stream)
    status = _status(command)
    return _flushed(status)


def end_with_reader() -> None:
    """End this process as soon as whoever reads its output has gone: for a command that may have nothing to print for
    hours, and would notice only then."""
    if not hasattr(select, "poll"):
        return
    try:
        output = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return
    reader = select.poll()
    reader.register(output, 0)  # closed by the reader is all that it tells then

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
    except Exception as error:  # noqa: BLE001 - each gets its line
        _show_traceback(error)
        return _of_error(error)
    return 0


def _of_exit(error: SystemExit) -> int:
    """rich ends the process itself where its output is closed."""
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
    """What is wrong, where it is not ours and can be named; None for others."""
    if isinstance(error, WeirguardError):
        return str(error)
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object[:_LONG]!r} is no UTF-8 text; write it as that"
    if isinstance(error, RecursionError):
        return "what was given nests too deeply to be read"
    if isinstance(error, MemoryError):
        return "there is not enough memory; give less at once"
    return None


def _of_command_line(error: Any) -> int:
    """typer's own: Exit, Abort and wrong usage, each by what it has, since typer moves them about."""
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
    """What is still buffered goes out now: at the end of the interpreter a failure would be several lines."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        _silence(sys.stdout)
        if error.errno != errno.EPIPE and status not in (FAILED, INTERRUPTED):  # else there is a line already
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
