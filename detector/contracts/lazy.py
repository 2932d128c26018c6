"""numpy and msgspec, imported at their first use: ``contracts`` and ``serving`` load the standard library alone."""

from __future__ import annotations

import importlib
from typing import Any


class LazyModule:
    """Stands for the module ``name``: it is imported when one of its attributes is used for the first time."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(importlib.import_module(self._name), attribute)
        setattr(self, attribute, value)
        return value


np = LazyModule("numpy")
msgspec = LazyModule("msgspec")
