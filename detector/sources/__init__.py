"""Log files to queries: one file a format.

A reader yields what it finds in file order, in portions of bounded size: good rows, and bad rows with a reason.
``rows`` and ``BadRow.row`` count from 0 within the file (lines of a text file, rows of a table).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from detector.contracts.errors import ConfigurationError
from detector.contracts.queries import DecodedQueries
from detector.sources.jsonl import count_lines, read_jsonl
from detector.sources.parquet import count_rows, read_parquet


@dataclass(frozen=True, slots=True)
class Format:
    """How to ``read`` a file, and how many ``rows`` it has, good and bad, without reading it in full."""

    read: Callable[[Path], Iterator[DecodedQueries]]
    rows: Callable[[Path], int]


FORMATS: dict[str, Format] = {
    ".jsonl": Format(read_jsonl, count_lines),
    ".ndjson": Format(read_jsonl, count_lines),
    ".parquet": Format(read_parquet, count_rows),
}


def format_of(path: Path) -> Format:
    """The format of the file at ``path``, by its suffix. Raises ConfigurationError when either is unknown."""
    known = FORMATS.get(path.suffix.lower())
    if known is None:
        raise ConfigurationError(f"{path}: cannot read {path.suffix or 'a file without a suffix'}; {_ADVICE}")
    if path.is_dir():
        raise ConfigurationError(f"{path}: it is a folder; name the files in it, such as {path}/*{path.suffix}")
    if not path.is_file():
        raise ConfigurationError(f"{path}: there is no such file")
    return known


_ADVICE = (
    f"write the log as one of {', '.join(FORMATS)} with the columns event_id, occurred_at, principal, model, "
    "model_version, features and outputs"
)
