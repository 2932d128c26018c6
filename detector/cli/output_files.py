"""Output files of a command: checked before hours of work, and written completely or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from detector.contracts.errors import ConfigurationError


def folder_for(path: Path) -> Path:
    """``path``, if it is a writable folder or one can be made there. Raises ConfigurationError."""
    if path.exists() and not path.is_dir():
        raise ConfigurationError(f"--out: {path} is a file; name a folder")
    _check_writable(path)
    return path


def file_for(path: Path) -> Path:
    """``path``, if a file can be written there once its folders are made. Raises ConfigurationError."""
    if path.is_dir():
        raise ConfigurationError(f"--out: {path} is a folder; name a file")
    _check_writable(path)
    return path


def write(path: Path, content: bytes) -> None:
    """Writes ``content`` to ``path``; an existing file is kept if the disk is full. Raises ConfigurationError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # such as /dev/stdout
            path.write_bytes(content)
        else:
            _replace(path, content)
    except OSError as error:
        raise ConfigurationError(f"--out: cannot write {path}: {error.strerror or error}") from error


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name[:200]}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _check_writable(path: Path) -> None:
    around = (place for place in path.absolute().parents if place.exists() or place.is_symlink())
    there = path if path.exists() else next(around)
    if there != path and not there.is_dir():
        raise ConfigurationError(f"--out: {there} is a file, so {path} cannot be made in it")
    if not os.access(there, os.W_OK | (os.X_OK if there.is_dir() else 0)):
        raise ConfigurationError(f"--out: {there} cannot be written to; name another place or change its permissions")
