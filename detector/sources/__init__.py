"""Log files to queries: one file a format.

A reader yields what it finds in file order, in portions of bounded size: good rows, and bad rows with a reason.
``rows`` and ``BadRow.row`` count from 0 within the file (lines of a text file, rows of a table).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from detector.contracts.errors import ConfigurationError
from detector.contracts.queries import DecodedQueries
from detector.sources import parquet, separated
from detector.sources.jsonl import read_jsonl
from detector.sources.parquet import read_parquet
from detector.sources.paths import COMPRESSED, expand, suffix_of
from detector.sources.reading import Reading
from detector.sources.separated import read_separated
from detector.sources.streams import count_lines

__all__ = ["FORMATS", "Format", "Reading", "files_of", "format_of", "open_logs"]


class Read(Protocol):
    """Gives the queries in the file at ``path``, its columns understood as ``reading`` says, or by their names."""

    def __call__(self, path: Path, reading: Reading | None = None) -> Iterator[DecodedQueries]: ...


@dataclass(frozen=True, slots=True)
class Format:
    """How to ``read`` a file, and how many ``rows`` it has, good and bad, without reading it in full: of a compressed
    one about so many."""

    read: Read
    rows: Callable[[Path], int]


_LINES = Format(read_jsonl, count_lines)
_SEPARATED = Format(read_separated, separated.count_rows)

FORMATS: dict[str, Format] = {
    ".jsonl": _LINES,
    ".ndjson": _LINES,
    ".json": _LINES,
    ".csv": _SEPARATED,
    ".tsv": _SEPARATED,
    ".parquet": Format(read_parquet, parquet.count_rows),
}
"""By how the name of a file ends, without that of its compression."""


def files_of(paths: Sequence[Path]) -> list[Path]:
    """The files that ``paths`` name, which may be folders of parts or patterns. Raises ConfigurationError."""
    return expand(paths, FORMATS)


def format_of(path: Path) -> Format:
    """The format of the file at ``path``, by its suffix. Raises ConfigurationError when either is unknown."""
    known = FORMATS.get(suffix_of(path))
    if known is None or (known.read is read_parquet and path.suffix.lower() in COMPRESSED):
        raise ConfigurationError(f"{path}: cannot read {path.suffix or 'a file without a suffix'}; {_ADVICE}")
    if not path.is_file():
        raise ConfigurationError(f"{path}: there is no such file")
    return known


def open_logs(paths: Sequence[Path], reading: Reading) -> list[Iterator[DecodedQueries]]:
    """The queries of each of ``paths``, files, which ``reading`` says how to understand. Raises ConfigurationError, at
    once where a file is missing or of no known format."""
    return [format_of(path).read(path, reading) for path in paths]


_ADVICE = f"write the log as one of {', '.join(FORMATS)}, of which all but .parquet may end in .gz or .zst besides"
