"""numpy and msgspec, imported at their first use: ``contracts`` and ``serving`` load the standard library alone."""

from __future__ import annotations

import importlib
from typing import Any


class LazyModule:
    """A proxy for the module ``name``, which is imported when an attribute is first used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(importlib.import_module(self._name), attribute)
        setattr(self, attribute, value)
        return value


np = LazyModule("numpy")
msgspec = LazyModule("msgspec")
