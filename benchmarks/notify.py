"""Every receiver of ``weirguard notify`` is killed for a minute while an alert a second comes; what each has after it.

python -m benchmarks.notify
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import psutil

from detector.runtime.broker import EmbeddedBroker
from tests.conftest import Broker
from tests.notify.notifier import Alerts, Notifier, running
from tests.notify.stands import ALERTMANAGER, STANDS, Stand

DEAD_SECONDS = 60
IDLE_SECONDS = 20.0
BEFORE, AFTER = 20, 5


def main() -> int:
    """Exit status 1 if a receiver lacks an alert."""
    with ExitStack() as stack:
        broker = stack.enter_context(EmbeddedBroker())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stands = {}
        for kind, stand in STANDS.items():
            name = kind.lower().replace(" ", "-")
            (folder / name).mkdir()
            stands[name] = stack.enter_context(stand(folder / name))
        alerts = Alerts(Broker(broker.bootstrap, embedded=True, process=broker), "benchmark")
        receivers = {name: stand.settings for name, stand in stands.items()}
        notifier = stack.enter_context(running(alerts, {"receivers": receivers}, folder))
        return _measure(alerts, stands, notifier)


def _measure(alerts: Alerts, stands: dict[str, Stand], notifier: Notifier) -> int:
    alerts.publish(BEFORE)
    for stand in stands.values():
        notifier.wait(lambda stand=stand: set(stand.received()) == set(alerts.sent))  # type: ignore[misc]
        stand.kill()
    for _ in range(DEAD_SECONDS):
        time.sleep(1.0)
        alerts.publish(1)
    for stand in stands.values():
        stand.start()
    back = time.monotonic()
    alerts.publish(AFTER)
    print(f"Alertmanager is {'the real one' if ALERTMANAGER else 'a process that checks what it would check'}.")
    print("| receiver | sent | received | lacking | repeats | complete after, s |\n|---|---|---|---|---|---|")
    lacking = 0
    for name, stand in stands.items():
        notifier.wait(lambda name=name: notifier.metric("lag_records", name) == 0, seconds=120)  # type: ignore[misc]
        notifier.wait(lambda name=name: notifier.metric("delivered_total", name) >= len(alerts.sent), seconds=120)  # type: ignore[misc]
        lacking += _row(name, stand, alerts.sent, time.monotonic() - back)
    assert notifier.process is not None
    process = psutil.Process(notifier.process.pid)
    before = sum(process.cpu_times()[:2])
    time.sleep(IDLE_SECONDS)
    share = (sum(process.cpu_times()[:2]) - before) / IDLE_SECONDS
    memory = process.memory_info().rss / 1e6
    print(f"Idle, with {len(stands)} receivers: {share:.1%} of a core, {memory:.0f} MB.")
    return 1 if lacking else 0


def _row(name: str, stand: Stand, sent: list[str], seconds: float) -> int:
    """Prints a row and returns how many alerts the receiver lacks."""
    deadline = time.monotonic() + 90  # Alertmanager is told again each minute what it forgot
    while set(sent) - set(stand.received()) and time.monotonic() < deadline:
        time.sleep(0.5)
    received = stand.received()
    lacking = len(set(sent) - set(received))
    repeats = len(received) - len(set(received))
    print(f"| {name} | {len(sent)} | {len(set(received))} | {lacking} | {repeats} | {seconds:.0f} |")
    return lacking


if __name__ == "__main__":
    sys.exit(main())
