"""``weirguard notify`` as a process: one thread per receiver, metrics and probes, until it is stopped."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from detector.contracts.errors import ConfigurationError, NotificationRefused, ReceiverAway
from detector.notify.notification import example_value, of_alert
from detector.notify.receivers import new_receiver
from detector.notify.receivers.base import Receiver, Surroundings
from detector.notify.subscription import RefusalFile, Subscription
from detector.runtime.health import Probe, ProbeServer
from detector.runtime.metrics import Metrics, new_metrics
from detector.runtime.settings import Settings

_STUCK_SECONDS = 120.0
"""Longer than any receiver may take."""
_CLOSE_SECONDS = 15.0
_NOBODY = "notify.receivers names no receiver; docs/notify.md has examples"

_log = structlog.get_logger("weirguard.notify")


def new_receivers(settings: Settings) -> dict[str, Receiver]:
    """Returns the receivers of the settings by name. Raises ConfigurationError if one cannot be built."""
    hostname = socket.getfqdn() or socket.gethostname()
    return {
        name: new_receiver(receiver, Surroundings(name, time.time, hostname))
        for name, receiver in settings.notify.receivers.items()
    }


@dataclass(frozen=True, slots=True)
class NotifierHealth:
    """Whether the threads of ``subscriptions`` make progress, and are in their groups. A receiver that does not answer
    changes neither, since a restart would not help."""

    subscriptions: Sequence[Subscription]

    def live(self) -> Probe:
        """Returns not live if a thread has stood still for two minutes."""
        now = time.monotonic()
        return self._probe(
            [subscription.name for subscription in self.subscriptions if now - subscription.moved_at > _STUCK_SECONDS],
            "stuck",
        )

    def ready(self) -> Probe:
        """Returns ready if all receivers' topics are being read."""
        return self._probe(
            [subscription.name for subscription in self.subscriptions if not subscription.ready], "not reading"
        )

    @staticmethod
    def _probe(names: list[str], what: str) -> Probe:
        return Probe(not names, f"{what}: {', '.join(names)}" if names else "ok", {"receivers": names})


def new_subscriptions(settings: Settings, metrics: Metrics) -> list[Subscription]:
    """Returns one subscription per receiver. Raises ConfigurationError if there is none, or one cannot be built."""
    receivers = new_receivers(settings)
    if not receivers:
        raise ConfigurationError(_NOBODY)
    refusals = RefusalFile(settings.notify.refused_file) if settings.notify.refused_file else None
    return [Subscription(name, receiver, settings, metrics, refusals) for name, receiver in receivers.items()]


def run(settings: Settings) -> None:
    """Notifies until SIGTERM or SIGINT. Raises ConfigurationError."""
    metrics = new_metrics(settings.metrics.models, "notify")
    subscriptions = new_subscriptions(settings, metrics)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with ProbeServer(metrics, NotifierHealth(subscriptions), settings.metrics.host, settings.metrics.port) as probes:
        for subscription in subscriptions:
            subscription.start()
        _log.info(
            "notifying", receivers=[subscription.name for subscription in subscriptions], metrics_port=probes.port
        )
        stop.wait()
        for subscription in subscriptions:
            subscription.end(_CLOSE_SECONDS)
        deadline = time.monotonic() + _CLOSE_SECONDS
        for subscription in subscriptions:
            subscription.join(max(deadline - time.monotonic(), 0.0))


@dataclass(frozen=True, slots=True)
class Trial:
    """The result of one example: ``ok``, and the receiver's answer or the error."""

    receiver: str
    ok: bool
    answer: str


def try_receivers(settings: Settings) -> list[Trial]:
    """Sends one example alert to each receiver, whatever its filters. Raises ConfigurationError."""
    example = of_alert(example_value(time.time()))
    receivers = new_receivers(settings)
    if not receivers:
        raise ConfigurationError(_NOBODY)
    trials = []
    for name, receiver in receivers.items():
        try:
            trials.append(Trial(name, ok=True, answer=receiver.send(example)))
        except (NotificationRefused, ReceiverAway) as error:
            trials.append(Trial(name, ok=False, answer=str(error)))
    return trials
