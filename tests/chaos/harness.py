"""One series: a service under load, faults, then the audit and the comparison with the undisturbed run."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.collusion import members, ring_differences, write_profile
from tests.chaos.faults import Series, play
from tests.chaos.population import Population
from tests.chaos.report import Report
from tests.chaos.stage import Broker, Stage
from tests.chaos.undisturbed import actions, differences, expected, observed, plain

Say = Callable[[str], None]


@dataclass(slots=True)
class Result:
    """What became of one series. ``audit``: figures; ``problems`` and ``differences`` are empty when all is well."""

    series: str
    seed: int
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0
    drain_seconds: float = 0.0
    queries: int = 0
    audit: dict[str, int] = field(default_factory=dict)
    outcome: dict[str, int] = field(default_factory=dict)
    exits: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.problems and not self.differences

    def plain(self) -> dict[str, Any]:
        return asdict(self) | {"passed": self.passed}


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a series is."""

    queries_per_second: float = 400.0
    partitions: int = 6
    queries_to_next_thief: int = 1_500


def run_series(
    name: str,
    series: Series,
    broker: Broker,
    directory: Path,
    *,
    seed: int,
    scale: Scale,
    say: Say,
    embedded: bool = False,
    instruments: str | None = None,
) -> Result:
    """Play ``series`` on a fresh prefix of ``broker``; worker logs go to ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    result = Result(name, seed)
    pause, profile = scale.queries_to_next_thief, None
    population = Population(seed, queries_to_next_thief=pause)
    if series.ring:
        population = Population(seed, thieves=2, queries_to_next_thief=pause, ring=series.ring)
        profile = write_profile(seed, directory / "honest.profile")
    stage = Stage(
        broker,
        f"chaos-{secrets.token_hex(3)}",
        directory,
        population,
        embedded=embedded,
        queries_per_second=scale.queries_per_second,
        partitions=scale.partitions,
        command=series.command,
        instruments=instruments,
        profile=profile,
    )
    say("topics, workers, first queries")
    with stage:
        started = time.monotonic()
        for done in play(stage, series.faults, seed):
            result.faults.append(done)
            say(f"{len(result.faults)} of {len(series.faults)}: {done}")
        time.sleep(3.0)
        result.seconds = time.monotonic() - started
        say("draining")
        _conclude(stage, result)
        if series.ending is not None:
            say("the topics change")
            result.faults += series.ending(stage)
    return result


def _conclude(stage: Stage, result: Result) -> None:
    started = time.monotonic()
    report = stage.drain()
    result.drain_seconds = time.monotonic() - started
    result.queries = stage.load.rows
    result.audit = _figures(report)
    result.problems = [str(problem) for problem in report.problems]
    result.exits = dict(stage.exits())
    logs, _ = stage.tail.snapshot()
    further = stage.population.draw(3_000)
    wanted = expected(logs, stage.settings, further, stage.directory / "undisturbed", stage.poison)
    colluding = members(logs, stage.settings)
    result.differences = differences(wanted, observed(logs, stage.settings, further), colluding)
    if stage.settings.detection.profiles:
        result.differences += ring_differences(logs, stage.settings)
        result.outcome = {"members": len(colluding)}
    result.outcome |= plain(wanted) | actions(wanted)


def _figures(report: Report) -> dict[str, int]:
    return {name: value for name, value in asdict(report).items() if isinstance(value, int)}
