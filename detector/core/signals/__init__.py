"""The signals, one file each, and their registry: a new signal is one more line here."""

from __future__ import annotations

from collections.abc import Callable

from detector.core.configuration import EngineConfig
from detector.core.signal import Signal
from detector.core.signals.prada import Prada

SIGNALS: dict[str, Callable[[EngineConfig], Signal]] = {
    "prada": Prada,
}
