"""The kinds of receivers, by the name of their section in the settings."""

from __future__ import annotations

from typing import Final

from detector.notify.receivers.alertmanager import Alertmanager
from detector.notify.receivers.base import NewReceiver, Receiver, Surroundings
from detector.notify.receivers.ocsf import FindingLines
from detector.notify.receivers.syslog import SyslogServer
from detector.notify.receivers.webhook import Webhook
from detector.runtime.receivers import ReceiverSettings

RECEIVERS: Final[dict[str, NewReceiver]] = {
    "alertmanager": Alertmanager,
    "ocsf": FindingLines,
    "syslog": SyslogServer,
    "webhook": Webhook,
}


def new_receiver(settings: ReceiverSettings, around: Surroundings) -> Receiver:
    """Returns the receiver that ``settings`` describe. Raises ConfigurationError for what cannot be read there."""
    return RECEIVERS[settings.kind](getattr(settings, settings.kind), around)
