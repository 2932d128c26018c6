"""JSON lines: one query a line, as ``weirguard.query`` describes it, but ``occurred_at`` must be there."""

from __future__ import annotations

from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from detector.contracts.batches import in_log_order
from detector.contracts.codecs.limits import RECORD_BYTES
from detector.contracts.codecs.queries_json import decode_json_run
from detector.contracts.errors import ConfigurationError
from detector.contracts.queries import DecodedQueries

_LINES = 1024
_BYTES = 16 << 20


def read_jsonl(path: Path) -> Iterator[DecodedQueries]:
    """The queries in the JSON lines file at ``path``; blank lines are skipped."""
    try:
        with path.open("rb") as file:
            if file.peek(2)[:2] in {BOM_UTF16_LE, BOM_UTF16_BE}:
                raise ConfigurationError(f"{path}: the file is UTF-16; save it as UTF-8")
            lines = enumerate(_lines(file))
            while portion := _portion(lines):
                yield from _decode(portion)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot read it: {error}") from error


def count_lines(path: Path) -> int:
    """How many lines the file at ``path`` has."""
    try:
        with path.open("rb") as file:
            return sum(part.count(b"\n") for part in iter(partial(file.read, 1 << 20), b""))
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot read it: {error}") from error


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Each line, but of one longer than a record may be only so much that it will be refused."""
    while line := file.readline(RECORD_BYTES + 2):
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(RECORD_BYTES)
        yield line.rstrip(b"\r\n")


def _portion(lines: Iterator[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    portion, nbytes = [], 0
    for number, line in islice(lines, _LINES):
        portion.append((number, line))
        nbytes += len(line)
        if nbytes > _BYTES:
            break
    return portion


def _decode(lines: list[tuple[int, bytes]]) -> Iterator[DecodedQueries]:
    written = [(number, line) for number, line in lines if line.strip()]
    numbers = np.array([number for number, _ in written], dtype=np.int64)
    run = decode_json_run([line for _, line in written], [None] * len(written))
    for batch, places, _ in in_log_order(run.parts):
        yield DecodedQueries(batch, numbers[places])
    if run.bad or run.repaired:
        bad = [replace(fault, row=int(numbers[place])) for place, fault in run.bad]
        yield DecodedQueries(None, np.zeros(0, dtype=np.int64), bad_rows=bad, repaired=run.repaired)
