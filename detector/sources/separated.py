"""CSV and TSV: a table of texts whose first line names the columns. Empty cells, NA, NaN, None and null are null."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import ConfigurationError
from detector.contracts.queries import BadRow, DecodedQueries
from detector.sources.files import count_lines, opened
from detector.sources.kinds import kinds_of
from detector.sources.plan import LogReader
from detector.sources.table import read_part

NULLS = ("", "NA", "N/A", "NaN", "nan", "None", "null", "NULL")
_SEPARATORS = ",;\t|"
_ROWS, _CELLS = 4096, 1 << 20
_BLOCK, _LARGEST = 4 << 20, 8 << 20
"""Bytes to read at once, and maximum bytes of a row."""


def read_separated(path: Path, reader: LogReader) -> Iterator[DecodedQueries]:
    """Yields the queries in the CSV or TSV file at ``path``, one per row; rows count without the line of names. Raises
    ConfigurationError."""
    with opened(path) as file:
        names, separator = _header(path, file)
        start = 0
        for chunk in _chunks(file) if names else ():
            rows = _parsed(chunk, start, names, separator)
            start += rows.total
            if rows.bad:
                yield DecodedQueries(None, np.zeros(0, np.int64), bad_rows=rows.bad)
            if len(rows.file_rows):
                yield from _read(path, reader, rows)


def count_rows(path: Path) -> int:
    """Returns the number of rows in the file at ``path``, estimated from its lines."""
    return max(0, count_lines(path) - 1)


def _read(path: Path, reader: LogReader, rows: _Rows) -> Iterator[DecodedQueries]:
    names = rows.table.schema.names
    step = max(1, min(_ROWS, _CELLS // len(names)))

    def columns(start: int, length: int) -> dict[str, Any]:
        return dict(zip(names, rows.table.slice(start, length).columns, strict=True))

    plan = reader.plan(path, lambda: kinds_of(columns(0, _ROWS), texts_only=True), names)
    for start in range(0, len(rows.file_rows), step):
        yield from read_part(reader, plan, path, columns(start, step), rows.file_rows[start : start + step])


class _Rows(NamedTuple):
    """A ``table`` of good rows, their numbers ``file_rows`` int64 (n,) in the file, and the ``bad`` rows."""

    table: Any
    file_rows: NDArray[np.int64]
    bad: list[BadRow]

    @property
    def total(self) -> int:
        return len(self.file_rows) + len(self.bad)


def _parsed(chunk: bytes, start: int, names: Sequence[str], separator: str) -> _Rows:
    """Returns the rows in ``chunk``, the first of which has the number ``start``. An empty chunk means a row that
    is too large."""
    import pyarrow as pa
    from pyarrow import csv as arrow

    if not chunk:
        detail = f"the row has more than {_LARGEST} bytes"
        return _Rows(None, np.zeros(0, np.int64), [BadRow(start, "too-large", detail)])
    odd: dict[int, int] = {}

    def skip(row: Any) -> str:
        odd[row.number - 1] = row.actual_columns
        return "skip"

    read = arrow.ReadOptions(column_names=names, use_threads=False, block_size=len(chunk) + 1)
    parse = arrow.ParseOptions(delimiter=separator, newlines_in_values=True, invalid_row_handler=skip)
    convert = arrow.ConvertOptions(
        check_utf8=False, column_types=dict.fromkeys(names, pa.string()), null_values=NULLS, strings_can_be_null=True
    )
    table = arrow.read_csv(pa.BufferReader(chunk), read, parse, convert).combine_chunks()
    file_rows = start + np.delete(np.arange(table.num_rows + len(odd)), list(odd))
    bad = [
        BadRow(start + row, "structure", f"the row has {cells} cells, and the first line names {len(names)} columns")
        for row, cells in odd.items()
    ]
    return _Rows(table.to_batches()[0] if table.num_rows else table, file_rows, bad)


def _header(path: Path, file: BinaryIO) -> tuple[tuple[str, ...], str]:
    """Returns the names of the columns, in the first line that is not blank, and the separator; no names if there is no
    such line."""
    while line := file.readline(_LARGEST):
        text = line.decode("utf-8-sig", "replace").strip("\r\n")
        if text.strip():
            break
    else:
        return (), ","
    if len(line) == _LARGEST:
        raise ConfigurationError(f"{path}: the first line, which names the columns, has no end")
    separator = max(_SEPARATORS, key=text.count)
    return _distinct(next(csv.reader([text], delimiter=separator, strict=False))), separator


def _distinct(names: list[str]) -> tuple[str, ...]:
    """Returns unique and non-empty ``names``, as pandas would name them."""
    distinct: dict[str, None] = {}
    for at, name in enumerate(names):
        new = base = name.strip() or f"Unnamed: {at}"
        number = 0
        while new in distinct:
            number += 1
            new = f"{base}.{number}"
        distinct[new] = None
    return tuple(distinct)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    """Yields the rest of ``file`` in chunks of whole rows, of a few MB; an empty chunk for a row that is too large."""
    rest, ended = b"", False
    while rest or not ended:
        if not ended and len(rest) <= _LARGEST:
            block = file.read(_BLOCK)
            ended = not block
            rest += block
        end = _end(rest, ended)
        if not end and len(rest) <= _LARGEST and not ended:
            continue
        if not end:  # a quote that is never closed, or a row that never ends
            end = rest.find(b"\n") + 1
        if end or ended:
            end = end or len(rest)
            if rest[:end].strip():
                yield rest[:end]
            rest = rest[end:]
            continue
        rest, ended = _after_line(file)
        yield b""


def _end(text: bytes, ended: bool) -> int:
    """Returns the end of the last whole row of ``text``, or 0. A line break between quotes does not end a row."""
    if b'"' not in text:
        return len(text) if ended else text.rfind(b"\n") + 1
    letters = np.frombuffer(text, np.uint8)
    open_ = np.cumsum(letters == ord('"'), dtype=np.uint8) & 1  # it wraps at an even number
    if ended and not open_[-1]:
        return len(text)
    breaks = np.flatnonzero((letters == ord("\n")) & (open_ == 0))
    return int(breaks[-1]) + 1 if len(breaks) else 0


def _after_line(file: BinaryIO) -> tuple[bytes, bool]:
    """Skips the rest of the current line of ``file``; returns what follows, and whether the file ended."""
    while block := file.read(_BLOCK):
        at = block.find(b"\n")
        if at >= 0:
            return block[at + 1 :], False
    return b"", True
