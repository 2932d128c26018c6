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
from typing import Any

from detector.contracts.errors import WeirguardError
from detector.runtime.text import print_error

TRACEBACK_VARIABLE = "WEIRGUARD_TRACEBACK"
"""Environment variable that shows errors with a traceback."""

FAILED = 2
INTERRUPTED = 130
_MAX_CHARACTERS = 400
_REPORT = f"this is a fault of Weirguard; please report it with the output under {TRACEBACK_VARIABLE}=1"


def status_of(command: Callable[[], object]) -> int:
    """Runs ``command`` and returns the exit status of the process; an error is one line on standard error.

    A reader that closes the output, as ``head`` does, ends the command without an error. Characters that the encoding
    of the output does not have are escaped.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        command()
        status = 0
    except KeyboardInterrupt:
        status = _fail("interrupted", INTERRUPTED)
    except SystemExit as error:
        status = _status_of_exit(error)
    except Exception as error:  # noqa: BLE001 - each error gets one line
        _show_traceback(error)
        status = _status_of_error(error)
    return _flush(status)


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


def _status_of_exit(error: SystemExit) -> int:
    """Returns the status of an exit; 0 if rich ends the process because its output is closed."""
    if isinstance(error.__context__, BrokenPipeError):
        return 0
    return _fail(error.code, FAILED) if isinstance(error.code, str) else error.code or 0


def _status_of_error(error: Exception) -> int:
    match error:
        case BrokenPipeError():
            return 0
        case WeirguardError():
            line = str(error)
        case OSError():
            line = _describe(error)
        case UnicodeEncodeError():
            line = f"{error.object[:_MAX_CHARACTERS]!r} is not UTF-8 text; save it as UTF-8"
        case RecursionError():
            line = "the input is nested too deeply to be read"
        case MemoryError():
            line = "there is not enough memory; give less input at once"
        case _:
            return _status_of_typer_error(error)
    return _fail(line, FAILED)


def _status_of_typer_error(error: Any) -> int:
    """Returns the status of typer's errors: Exit, Abort and wrong usage, by name and attributes, since typer moves the
    classes; and that of an unexpected error."""
    name = type(error).__name__
    if name == "Exit" and isinstance(getattr(error, "exit_code", None), int):
        return int(error.exit_code)
    if name == "Abort":
        return _fail("interrupted", INTERRUPTED)
    if name == "NoArgsIsHelpError":
        error.show()
        return FAILED
    if hasattr(error, "format_message"):
        context = getattr(error, "ctx", None)
        path = context.command_path.removeprefix("weirguard ") + ": " if context else ""
        return _fail(f"{path}{error.format_message().rstrip('.')}; see --help", FAILED)
    return _fail(f"unexpected {name}: {str(error)[:_MAX_CHARACTERS]}; {_REPORT}", FAILED)


def _describe(error: OSError) -> str:
    why = error.strerror or str(error)
    return f"{error.filename}: {why}" if error.filename is not None else why


def _fail(line: str, status: int) -> int:
    with suppress(OSError, ValueError):
        print_error(line)
    return status


def _show_traceback(error: Exception) -> None:
    if os.environ.get(TRACEBACK_VARIABLE):
        import traceback

        with suppress(OSError, ValueError):
            print_error(*"".join(traceback.format_exception(error)).splitlines())


def _flush(status: int) -> int:
    """Flushes both streams now: a failure at the end of the interpreter would print several lines."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            with suppress(OSError, ValueError):  # a later flush is to write nowhere
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            no_line_yet = stream is sys.stdout and status not in (FAILED, INTERRUPTED)
            if no_line_yet and error.errno != errno.EPIPE:
                status = _fail(f"cannot write the output: {_describe(error)}", FAILED)
        except ValueError:  # closed
            pass
    return status
