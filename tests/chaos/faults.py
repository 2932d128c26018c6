"""What happens to the workers and the broker: one function a kind of fault, at moments that the seed draws."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

from tests.chaos.stage import SESSION_SECONDS, Stage

Fault = Callable[[Stage, random.Random], str]
"""Does its harm, waits as long as it takes, and says in a few words what it did."""

_FROZEN_SECONDS = SESSION_SECONDS + 4.0
_STOPPED_SECONDS = 5.0
_KILLED_SECONDS = 10.0


def kill_worker(stage: Stage, chance: random.Random) -> str:
    """kill -9 of one worker process, mostly at work, sometimes while it starts; now and then of its supervisor too."""
    worker = chance.choice(stage.workers)
    if chance.random() < 0.75:
        stage.wait(f"{worker.name} at work", worker.ready)
    time.sleep(chance.uniform(0.5, 6.0))
    state = "at work" if worker.ready() else "not yet at work"
    if chance.random() < 0.2:
        worker.kill_all()
        worker.start()
        return f"killed {worker.name} and its supervisor, {state}"
    stage.wait(f"a {worker.name} to kill", worker.kill)
    return f"killed {worker.name}, {state}"


def join_and_leave(stage: Stage, chance: random.Random) -> str:
    """A third worker joins, works for a while or just not yet, and leaves cleanly."""
    guest = stage.guest
    guest.start()
    stage.wait("the guest's worker process", lambda: guest.working)
    if chance.random() < 0.7:
        stage.wait("the guest ready", guest.ready)
    time.sleep(chance.uniform(1.0, 4.0))
    seconds = guest.leave()
    time.sleep(chance.uniform(0.0, 3.0))
    return f"a third worker joined and left in {seconds:.1f} s"


def freeze_worker(stage: Stage, chance: random.Random) -> str:
    """SIGSTOP beyond the session, then SIGCONT."""
    time.sleep(chance.uniform(0.5, 3.0))
    worker = chance.choice(stage.workers)
    stage.wait(f"a {worker.name} to freeze", worker.freeze)
    time.sleep(_FROZEN_SECONDS)
    worker.thaw()
    time.sleep(chance.uniform(1.0, 5.0))
    return f"froze {worker.name} for {_FROZEN_SECONDS:g} s"


def restart_broker(stage: Stage, chance: random.Random) -> str:
    """A clean stop, an absence, a start on the same data."""
    time.sleep(chance.uniform(3.0, 6.0))
    stage.broker.stop()
    time.sleep(_STOPPED_SECONDS)
    stage.broker.start()
    time.sleep(15.0)
    return f"the broker stopped and {_STOPPED_SECONDS:g} s later started"


def kill_broker(stage: Stage, chance: random.Random) -> str:
    """kill -9, an absence, a start on the same data."""
    time.sleep(chance.uniform(3.0, 6.0))
    stage.broker.kill()
    time.sleep(_KILLED_SECONDS)
    stage.broker.start()
    time.sleep(15.0)
    return f"the broker was killed and {_KILLED_SECONDS:g} s later started"


SERIES: dict[str, list[Fault]] = {
    "kill -9 of workers": [kill_worker] * 20,
    "joins and clean leaves": [join_and_leave] * 10,
    "freezes beyond the session": [freeze_worker] * 5,
    "broker stopped and restarted": [restart_broker],
    "broker killed and restarted": [kill_broker],
}
"""The whole of it, for Apache Kafka."""

SHORT: list[Fault] = [kill_worker, join_and_leave, kill_worker, freeze_worker, join_and_leave, kill_worker]
"""The short form: three kills, two leaves, one freeze."""

KILLS: list[Fault] = [kill_worker] * 3
"""What the embedded broker, which forgets everything when it stops, can be put through in a minute."""


def play(stage: Stage, faults: list[Fault], seed: int) -> Iterator[str]:
    """Each fault in turn; yields what was done."""
    chance = random.Random(seed)
    for fault in faults:
        yield fault(stage, chance)
