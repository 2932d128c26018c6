"""``make soak``: hours, or minutes, of steady load; memory, lag and the state log must not grow, and nothing be lost.

The last third of the run is held against the middle one. Ends with status 1 where something grew or the audit finds
something. Run: python -m tests.chaos.soak [--minutes 20] [--rate 400]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import OffsetSpec
from rich.console import Console

from tests.brokers.node import KafkaNode
from tests.chaos.population import Population
from tests.chaos.stage import Broker, Stage

PARTITIONS = 6


@dataclass(frozen=True, slots=True)
class Sample:
    """``resident`` bytes of the largest worker; ``log_records`` that the state log holds; ``behind`` source records."""

    seconds: float
    resident: int
    log_records: int
    behind: int

    def __str__(self) -> str:
        return f"{self.seconds:8.0f} s {self.resident / 1e6:8.0f} MB {self.log_records:8} log {self.behind:8} behind"


@dataclass(frozen=True, slots=True)
class Soak:
    """What a run came to: the samples, what the audit found, and how many checkpoint rounds ended."""

    samples: list[Sample]
    problems: list[str]
    rounds: int
    queries: int

    def growth(self) -> list[str]:
        """What grew from the middle third to the last."""
        third = len(self.samples) // 3
        middle, last = self.samples[third : 2 * third], self.samples[2 * third :]
        found = []
        for name, factor in (("resident", 1.15), ("log_records", 1.5)):
            before, after = (max(getattr(sample, name) for sample in part) for part in (middle, last))
            if after > factor * before:
                found.append(f"{name} grew from {before:,} to {after:,}")
        if min(sample.behind for sample in last) > 2 * max(sample.behind for sample in middle) + 100:
            found.append(f"{last[-1].behind:,} records behind at the end")
        return found


def run(broker: Broker, directory: Path, seconds: float, rate: float, say: Callable[[str], None]) -> Soak:
    """Soak two workers on ``broker`` for ``seconds``, sampled 30 times."""
    population = Population(seed=5, thieves=20)
    with (
        Stage(broker, "soak", directory, population, queries_per_second=rate, partitions=PARTITIONS) as stage,
        KafkaAdminClient(bootstrap_servers=broker.bootstrap) as admin,
    ):
        samples: list[Sample] = []
        started = time.monotonic()
        for number in range(30):
            time.sleep(max(0.0, started + (number + 1) * seconds / 30 - time.monotonic()))
            samples.append(_sample(stage, admin, time.monotonic() - started))
            say(str(samples[-1]))
        report = stage.drain()
        return Soak(samples, [str(problem) for problem in report.problems], report.rounds, stage.load.rows)


def _sample(stage: Stage, admin: KafkaAdminClient, seconds: float) -> Sample:
    topics = stage.settings.kafka.topics
    held = _ends(admin, topics.state_log, OffsetSpec.LATEST) - _ends(admin, topics.state_log, OffsetSpec.EARLIEST)
    committed = admin.list_group_offsets(topics.application)[topics.application]
    done = sum(int(place.offset) for tp, place in committed.items() if tp.topic == topics.queries)
    behind = _ends(admin, topics.queries, OffsetSpec.LATEST) - done
    resident = max(
        process.memory_info().rss
        for worker in stage.workers
        for process in worker.processes()
        if process.status() != psutil.STATUS_ZOMBIE
    )
    return Sample(seconds, resident, held, behind)


def _ends(admin: KafkaAdminClient, topic: str, which: OffsetSpec) -> int:
    places = {TopicPartition(topic, number): which for number in range(PARTITIONS)}
    return sum(int(place.offset) for place in admin.list_partition_offsets(places).values())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=400.0, help="queries a second")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory() as data, KafkaNode(Path(data) / "kafka") as node:
        soak = run(node, Path(data), options.minutes * 60, options.rate, console.print)
    troubles = soak.problems + soak.growth()
    console.print(f"{soak.queries:,} queries, {soak.rounds} checkpoint rounds")
    console.print("; ".join(troubles) or "nothing grew and nothing was lost")
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
