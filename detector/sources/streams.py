"""The bytes of a text file, whether it is compressed or not."""

from __future__ import annotations

import io
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import BinaryIO, cast

from detector.contracts.errors import ConfigurationError

_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_OTHERS = {b"PAR1": "Parquet; name it .parquet", b"PK\x03\x04": "a zip archive; unpack it", b"ORC": "ORC"}
_BUFFER = 1 << 20
_SAMPLE = 4 << 20


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The text in the file at ``path``, without gzip or zstd, which its first bytes tell of and not its name. Raises
    ConfigurationError where it cannot be read, also later, or is no UTF-8."""
    with _opened(path) as (_, file):
        yield file


def count_lines(path: Path) -> int:
    """How many lines the file at ``path`` has; of a large compressed one an estimate from how it begins."""
    with _opened(path) as (raw, file):
        most = inf if raw is file else _SAMPLE
        lines = nbytes = 0
        while nbytes < most and (part := file.read(_BUFFER)):
            lines, nbytes = lines + part.count(b"\n"), nbytes + len(part)
        return lines if nbytes < most else lines * path.stat().st_size // max(raw.tell(), 1)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The file as it is, and its text; the same where it is not compressed."""
    import pyarrow as pa

    try:
        with path.open("rb") as raw:
            file = _decompressed(raw)
            _check(path, file.peek(4)[:1024])
            yield raw, cast("BinaryIO", file)
    except (OSError, pa.ArrowException) as error:
        raise ConfigurationError(f"{path}: cannot read it: {error}") from error


def _decompressed(raw: BinaryIO) -> io.BufferedReader:
    import pyarrow as pa

    start = raw.read(4)
    raw.seek(0)
    codec = next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)
    if codec is None:
        return cast("io.BufferedReader", raw)
    return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(raw), codec), _BUFFER)


def _check(path: Path, start: bytes) -> None:
    if start[:2] in {BOM_UTF16_LE, BOM_UTF16_BE}:
        raise ConfigurationError(f"{path}: the file is UTF-16; save it as UTF-8")
    for magic, what in _OTHERS.items():
        if start.startswith(magic):
            raise ConfigurationError(f"{path}: the file is {what}")
    if b"\0" in start:
        raise ConfigurationError(f"{path}: the file is no text: it holds bytes of 0")
