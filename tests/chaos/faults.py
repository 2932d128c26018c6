"""What happens to the workers and the broker: one function a kind of fault, at moments that the seed draws."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewTopic

from detector.stream.topics import shapes
from tests.brokers.moving import MovingNode
from tests.chaos.stage import SESSION_SECONDS, Stage
from tests.chaos.workers import WEIRGUARD_RUN
from tests.e2e.marked_worker import SUPERVISE

Fault = Callable[[Stage, random.Random], str]
"""Does its harm, waits as long as it takes, and says in a few words what it did."""

_FROZEN_SECONDS = SESSION_SECONDS + 4.0
_STOPPED_SECONDS = 5.0
_KILLED_SECONDS = 10.0
_NOTICED_SECONDS = 60.0
_YEAR = 365 * 86_400.0


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


def move_broker(stage: Stage, chance: random.Random) -> str:
    """The broker stops and is back under another port, behind the same bootstrap address."""
    assert isinstance(stage.broker, MovingNode), "only a broker behind a relay can move"
    time.sleep(chance.uniform(1.0, 3.0))
    stage.broker.move()
    started = time.monotonic()
    stage.wait("workers away from the old address", lambda: not any(worker.ready() for worker in stage.workers))
    stage.wait("workers ready at the new address", stage.all_ready)
    return f"the broker moved; all workers were at work {time.monotonic() - started:.0f} s after"


def jump_clock(stage: Stage, chance: random.Random) -> str:
    """A record in each partition has a time years ahead, and one a time of 1970, as from a broker whose clock jumps.
    Only running workers meet it: at start they refuse a topic whose producers set the time."""
    stage.wait("all workers at work", stage.all_ready)
    _stamp(stage, "CreateTime")
    for moment in (time.time() + chance.uniform(1, 9) * _YEAR, 0.0, time.time() + _YEAR):
        sent = dict(stage.load.send_each(moment))
        stage.wait("the records out of time applied", partial(stage.applied, sent))
    _stamp(stage, "LogAppendTime")
    return f"{len(sent)} partitions had records of years ahead, of 1970, and of a year ahead"


def _stamp(stage: Stage, kind: str) -> None:
    with KafkaAdminClient(bootstrap_servers=stage.bootstrap) as admin:
        change = {"message.timestamp.type": kind, "message.timestamp.after.max.ms": str(2**63 - 1)}
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, stage.settings.kafka.topics.queries, change)])


def send_poison(stage: Stage, chance: random.Random) -> str:
    """A query whose principal ends whichever worker processes it, by an exception or by a signal."""
    name = f"{chance.choice(('raise-', 'kill-'))}{len(stage.poison)}"
    time.sleep(chance.uniform(0.5, 3.0))
    place = stage.load.send_as(name)
    stage.poison.add(place)
    stage.wait("the poison passed", lambda: stage.applied(dict([place])))
    return f"the query of {name} was passed"


def change_topics(stage: Stage) -> list[str]:
    """The source is deleted and created again: all workers stop and say so. Their advice is followed, and they start
    again. Then a partition is added: again all stop."""
    kafka = stage.settings.kafka
    with KafkaAdminClient(bootstrap_servers=stage.bootstrap) as admin:
        _make_again(admin, stage)
        done = [_all_stop(stage, f"topic {kafka.topics.queries} was deleted and made again")]
        admin.delete_topics([kafka.topics.state_log, kafka.topics.decisions, kafka.topics.scores])
        for worker in stage.workers:
            worker.start()
        stage.wait("workers begun anew", stage.all_ready)
    return done + add_partition(stage)


def add_partition(stage: Stage) -> list[str]:
    """The source gets one more partition: all workers stop and say so."""
    kafka = stage.settings.kafka
    with KafkaAdminClient(bootstrap_servers=stage.bootstrap) as admin:
        admin.create_partitions({kafka.topics.queries: kafka.partitions + 1})
    return [_all_stop(stage, f"{kafka.topics.queries} has {kafka.partitions + 1} partitions")]


def _make_again(admin: KafkaAdminClient, stage: Stage) -> None:
    kafka = stage.settings.kafka
    (shape,) = [shape for shape in shapes(kafka) if shape.name == kafka.topics.queries]
    admin.delete_topics([shape.name])
    stage.wait("the topic gone", lambda: shape.name not in admin.list_topics())
    admin.create_topics([NewTopic(shape.name, shape.partitions, 1, topic_configs=dict(shape.config))])


def _all_stop(stage: Stage, sentence: str) -> str:
    """All workers stop within a minute and are not restarted, and each has logged ``sentence``."""
    started = time.monotonic()
    stage.wait(sentence, lambda: not any(worker.running for worker in stage.workers), _NOTICED_SECONDS)
    for worker in stage.workers:
        assert sentence in stage.last_words(worker), f"{worker.name} said: {stage.last_words(worker)}"
    return f"all stopped after {time.monotonic() - started:.0f} s: {sentence}"


@dataclass(frozen=True, slots=True)
class Series:
    """``faults``, on workers that ``command`` starts. ``ending`` comes after the audit and leaves nothing to audit.
    ``ring``: how many accounts collude, while the workers judge by a profile."""

    faults: Sequence[Fault]
    command: Sequence[str] = WEIRGUARD_RUN
    ending: Callable[[Stage], list[str]] | None = None
    ring: int = 0


SERIES: dict[str, Series] = {
    "kill -9 of workers": Series([kill_worker] * 20),
    "joins and clean leaves": Series([join_and_leave] * 10),
    "freezes beyond the session": Series([freeze_worker] * 5),
    "broker stopped and restarted": Series([restart_broker]),
    "broker killed and restarted": Series([kill_broker]),
    "what changes under it": Series(
        [move_broker, send_poison, kill_worker, jump_clock, send_poison, move_broker, jump_clock, send_poison],
        SUPERVISE,
        change_topics,
    ),
    "a ring among them": Series(
        [
            *[kill_worker, kill_worker, join_and_leave, kill_worker, freeze_worker, kill_worker, join_and_leave] * 2,
            *[kill_worker, join_and_leave, kill_worker],
        ],
        ring=12,
    ),
}
"""The whole of it, for Apache Kafka."""

SHORT = Series([kill_worker, join_and_leave, kill_worker, freeze_worker, join_and_leave, kill_worker], ring=12)
"""The short form: three kills, two leaves, one freeze, with a ring among the accounts."""

SHORT_CHANGES = Series([jump_clock, send_poison, move_broker], SUPERVISE, add_partition)
"""The short form of what changes under it."""

KILLS = Series([kill_worker] * 3)
"""What the embedded broker, which forgets everything when it stops, can be put through in a minute."""


def play(stage: Stage, faults: Sequence[Fault], seed: int) -> Iterator[str]:
    """Each fault in turn; yields what was done."""
    chance = random.Random(seed)
    for fault in faults:
        yield fault(stage, chance)
