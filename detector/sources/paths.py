"""From what was named on a command line to files: folders of parts, patterns that no shell expanded."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path
from urllib.parse import unquote

from detector.contracts.errors import ConfigurationError

COMPRESSED = (".gz", ".gzip", ".zst", ".zstd")
_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


def suffix_of(path: Path) -> str:
    """How the name of ``path`` ends, in small letters, whether it is compressed or not."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSED else suffix


def expand(paths: Sequence[Path], suffixes: Collection[str]) -> list[Path]:
    """The files that ``paths`` name: of a folder all below it that end in one of ``suffixes``, in order of their names,
    without those whose name begins with ``.`` or ``_``. Raises ConfigurationError where there are none."""
    return [file for path in paths for file in _files(path, suffixes)]


def partitions(path: Path) -> dict[str, str | None]:
    """What the folders of ``path`` say as Hive does, ``model=x/``: texts by column, None for null."""
    found: dict[str, str | None] = {}
    for folder in path.parts[:-1]:
        name, equals, value = folder.partition("=")
        if equals and name:
            found[unquote(name)] = None if value == _NULL_PARTITION else unquote(value)
    return found


def _files(path: Path, suffixes: Collection[str]) -> Iterator[Path]:
    if path.is_dir():
        yield from _parts(path, suffixes)
    elif not path.exists() and has_magic(str(path)):
        matches = [Path(name) for name in glob(str(path), recursive=True)]  # noqa: PTH207 - its pattern may begin with /
        if not matches:
            raise ConfigurationError(f"{path}: no file has such a name")
        for match in sorted(matches, key=_natural):
            yield from _files(match, suffixes)
    else:
        yield path


def _parts(folder: Path, suffixes: Collection[str]) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file() and not _hidden(path.relative_to(folder))]
    parts = sorted((path for path in files if suffix_of(path) in suffixes), key=_natural)
    if not parts:
        raise ConfigurationError(f"{folder}: the folder has no file that ends in one of {', '.join(suffixes)}")
    return parts


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _natural(path: Path) -> list[tuple[int, str]]:
    """``part.10`` comes after ``part.9``."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", str(path))]
