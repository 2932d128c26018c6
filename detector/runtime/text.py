"""Text from files and from outside: read as UTF-8, made safe to print, and times for people."""

from __future__ import annotations

import sys
import unicodedata
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from detector.contracts.errors import ConfigurationError


def read_text(path: Path, what: str) -> str:
    """Returns the text in the file at ``path``. Raises ConfigurationError that names ``what`` and the file, and shows
    nothing of its content."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"{what}: cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{what}: {path} is no UTF-8 text, see byte {error.start + 1}; save it as that"
        ) from None


_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Controls, invisible format characters (the bidirectional ones too), lone surrogates, line and paragraph ends."""


def printable(text: str) -> str:
    """Returns ``text`` in one line: each character that a terminal would act on or hide is escaped."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _escaped(character) if unicodedata.category(character) in _UNSAFE else character for character in text
    )


def printable_lines(text: str) -> str:
    """Returns ``text`` made printable line by line: its own line ends and tabs stay, as in a traceback."""
    return "\n".join(printable(line.replace("\t", "    ")) for line in text.split("\n"))


def html_text(text: str) -> str:
    """Returns ``text`` printable, and escaped so that HTML and XML read it as text alone."""
    return escape(printable(text))


def print_error(*lines: str) -> None:
    """Writes ``lines`` to standard error, each made printable, after the name of this program."""
    for line in lines:
        print(f"weirguard: {printable(line)}", file=sys.stderr)  # noqa: T201 - as cli/screen does


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def rfc3339(seconds: float) -> str:
    """Returns ``seconds`` since 1970 as RFC 3339 in UTC, to the millisecond: ``2026-11-30T03:08:51.250Z``.

    A time beyond the calendar is given in seconds.
    """
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g} s after 1970"
