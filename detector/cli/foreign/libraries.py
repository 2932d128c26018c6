"""Libraries that read foreign files and are not needed for anything else."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from detector.contracts.errors import ConfigurationError


def library(name: str, path: Path) -> Any:
    """The module ``name``, wanted for ``path``. Raises ConfigurationError that says how to install it."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{path} takes {name} to read: pip install 'weirguard[models]'") from error
