"""Text files of the owner: UTF-8 whatever the locale, with or without the byte order mark that some editors write."""

from __future__ import annotations

from pathlib import Path

from detector.contracts.errors import ConfigurationError


def read_text(path: Path, what: str) -> str:
    """The text in the file at ``path``. Raises ConfigurationError that names ``what`` and the file, and shows nothing
    that is in it."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"{what}: cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{what}: {path} is no UTF-8 text, see byte {error.start + 1}; save it as that"
        ) from None
