"""Text from outside made safe to print: a name or a message cannot move the cursor, hide, or forge another line."""

from __future__ import annotations

import sys
import unicodedata
from html import escape

_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Controls, invisible format characters (the bidirectional ones too), lone surrogates, line and paragraph ends."""


def printable(text: str) -> str:
    """Returns ``text`` in one line: each character that a terminal would obey or hide is written as its escape."""
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


def complain(*lines: str) -> None:
    """Writes ``lines`` to standard error, each made printable, after the name of this program."""
    for line in lines:
        print(f"weirguard: {printable(line)}", file=sys.stderr)  # noqa: T201 - as cli/screen does


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
