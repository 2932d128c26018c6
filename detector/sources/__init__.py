"""Reads queries from log files, with one module per format.

A reader yields portions of bounded size, in file order: good rows, and bad rows with a reason.
``rows`` and ``BadRow.row`` count from 0 within the file (lines of a text file, rows of a table).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from detector.contracts.errors import ConfigurationError
from detector.contracts.queries import DecodedQueries
from detector.sources import parquet, separated
from detector.sources.files import COMPRESSED, count_lines, files_at, suffix_of
from detector.sources.jsonl import read_jsonl
from detector.sources.parquet import read_parquet
from detector.sources.plan import LogReader
from detector.sources.separated import read_separated

__all__ = ["FORMATS", "Format", "LogReader", "files_of", "format_of", "open_logs"]


Read = Callable[[Path, LogReader], Iterator[DecodedQueries]]
"""Yields the queries in a file; the reader maps its columns."""


@dataclass(frozen=True, slots=True)
class Format:
    """How to ``read`` a file, and how to count its ``rows``, good and bad, without reading it in full. The count of a
    compressed file is an estimate."""

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
"""Formats by the suffix of the file name, without the suffix of a compression."""


def files_of(paths: Sequence[Path]) -> list[Path]:
    """Returns the files that ``paths`` name, which may be folders of parts or patterns. Raises ConfigurationError."""
    return [file for path in paths for file in files_at(path, FORMATS)]


def format_of(path: Path) -> Format:
    """Returns the format of the file at ``path``, by its suffix. Raises ConfigurationError if either is unknown."""
    known = FORMATS.get(suffix_of(path))
    advice = f"write the log as one of {', '.join(FORMATS)}, of which all but .parquet may also end in .gz or .zst"
    if known is None or (known.read is read_parquet and path.suffix.lower() in COMPRESSED):
        raise ConfigurationError(f"{path}: cannot read {path.suffix or 'a file without a suffix'}; {advice}")
    if not path.is_file():
        raise ConfigurationError(f"{path}: there is no such file")
    return known


def open_logs(paths: Sequence[Path], reader: LogReader) -> list[Iterator[DecodedQueries]]:
    """Yields the queries of each file in ``paths``, read by ``reader``. Raises ConfigurationError, at once if a file
    is missing or has no known format."""
    return [format_of(path).read(path, reader) for path in paths]
