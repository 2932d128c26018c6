"""Finds the log files that a command line names, and opens them, compressed or not."""

from __future__ import annotations

import io
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from glob import glob, has_magic
from math import inf
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import unquote

from detector.contracts.errors import ConfigurationError

COMPRESSED = (".gz", ".gzip", ".zst", ".zstd")
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_OTHER_FORMATS = {b"PAR1": "Parquet; name it .parquet", b"PK\x03\x04": "a zip archive; unpack it", b"ORC": "ORC"}
_BUFFER = 1 << 20
_SAMPLE = 4 << 20
_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


def suffix_of(path: Path) -> str:
    """Returns the suffix of ``path`` in lower case, without that of a compression."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSED else suffix


def partitions(path: Path) -> dict[str, str | None]:
    """Returns the Hive partitions in ``path``, such as ``model=x/``: texts by column, None for null."""
    named = (folder.partition("=") for folder in path.parts[:-1])
    return {
        unquote(name): None if value == _NULL_PARTITION else unquote(value)
        for name, equals, value in named
        if name and equals
    }


def files_at(path: Path, suffixes: Collection[str]) -> Iterator[Path]:
    """Yields the files that ``path`` names. A folder means all files below it with one of ``suffixes``, sorted by
    name, without names that begin with ``.`` or ``_``. Raises ConfigurationError if there are none."""
    if path.is_dir():
        below = (file for file in path.rglob("*") if file.is_file() and suffix_of(file) in suffixes)
        files = [
            file for file in below if not any(part.startswith((".", "_")) for part in file.relative_to(path).parts)
        ]
        if not files:
            raise ConfigurationError(f"{path}: the folder has no file that ends in one of {', '.join(suffixes)}")
        yield from sorted(files, key=_natural)
    elif not path.exists() and has_magic(str(path)):
        matches = [Path(name) for name in glob(str(path), recursive=True)]  # noqa: PTH207 - its pattern may begin with /
        if not matches:
            raise ConfigurationError(f"{path}: no file has such a name")
        for match in sorted(matches, key=_natural):
            yield from files_at(match, suffixes)
    else:
        yield path


def _natural(path: Path) -> list[tuple[int, str]]:
    """Returns a sort key that puts ``part.10`` after ``part.9``."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", str(path))]


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Opens the text in the file at ``path``, decompressed. The first bytes tell gzip and zstd, not the name. Raises
    ConfigurationError, also while reading, if it cannot be read or is not UTF-8."""
    with _opened(path) as (_, file):
        yield file


def count_lines(path: Path) -> int:
    """Returns the number of lines in the file at ``path``; an estimate for a large compressed file."""
    with _opened(path) as (raw, file):
        most = inf if raw is file else _SAMPLE
        lines = nbytes = 0
        while nbytes < most and (part := file.read(_BUFFER)):
            lines, nbytes = lines + part.count(b"\n"), nbytes + len(part)
        return lines if nbytes < most else lines * path.stat().st_size // max(raw.tell(), 1)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Yields the raw file and its text; they are the same if it is not compressed."""
    import pyarrow as pa

    try:
        with path.open("rb") as raw:
            magic = raw.read(4)
            raw.seek(0)
            codec = next((name for start, name in _MAGIC.items() if magic.startswith(start)), None)
            file = raw
            if codec is not None:
                file = io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(raw), codec), _BUFFER)
            _check(path, file.peek(4)[:1024])
            yield raw, cast("BinaryIO", file)
    except (OSError, pa.ArrowException) as error:
        raise ConfigurationError(f"{path}: cannot read it: {error}") from error


def _check(path: Path, start: bytes) -> None:
    if start[:2] in {BOM_UTF16_LE, BOM_UTF16_BE}:
        raise ConfigurationError(f"{path}: the file is UTF-16; save it as UTF-8")
    for magic, what in _OTHER_FORMATS.items():
        if start.startswith(magic):
            raise ConfigurationError(f"{path}: the file is {what}")
    if b"\0" in start:
        raise ConfigurationError(f"{path}: the file is not text: it holds zero bytes")
