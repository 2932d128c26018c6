"""What a receiver is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from detector.notify.notification import Notification

REFRESH_SECONDS = 60.0
TIMEOUT_SECONDS = 10.0
"""How long a receiver may take to connect, and for each step of its answer."""


class Receiver(ABC):
    """Where notifications go. Used by one thread."""

    @abstractmethod
    def send(self, notification: Notification) -> str:
        """Delivers ``notification`` and returns the answer, for people. Returns once the receiver has it, as far as its
        protocol can tell. Raises ReceiverAway to be called again later, or NotificationRefused if that would not help.
        No error shows a secret.
        """

    def refresh(self) -> None:  # noqa: B027 - for most there is nothing to do
        """Repeats what the receiver forgets when it restarts; called about every ``REFRESH_SECONDS``. Raises as
        :meth:`send` does. Most receivers forget nothing."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a receiver is built with: its ``name`` in the settings, a ``clock`` that returns seconds since 1970, and the
    name of this host."""

    name: str
    clock: Callable[[], float]
    hostname: str

    def key(self, kind: str) -> str:
        """Returns the dotted key of its section in the settings, for errors."""
        return f"notify.receivers.{self.name}.{kind}"


NewReceiver = Callable[[Any, Surroundings], Receiver]
"""Builds a receiver from its section of the settings. Raises ConfigurationError."""
