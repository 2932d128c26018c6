"""A thread that runs as long as a with block."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

_LAST_SECONDS = 5.0


class Background(ABC):
    """``work`` in a thread called ``name``; it returns soon after ``stop`` is set, at the end of the with block."""

    def __init__(self, name: str) -> None:
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self.work, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop.set()
        self._thread.join(_LAST_SECONDS)

    @abstractmethod
    def work(self) -> None:
        """What the thread does."""
