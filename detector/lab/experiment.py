"""One attack on one victim in one disguise, among honest accounts, on a simulated clock: what comes of it is a log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TypeVar

import detector
from detector.contracts.errors import LabError
from detector.lab.answers import Victim
from detector.lab.attackers.attacker import Knowledge
from detector.lab.course import Course, checkpoints
from detector.lab.data import Dataset
from detector.lab.fidelity import Yardstick
from detector.lab.provenance import digest_of
from detector.lab.query_log import QueryLog, Run
from detector.lab.services import InProcess, Service
from detector.lab.traces import Trace, honest_traces, log_of, thief_trace
from detector.lab.wrappers import PLAIN, WRAPPERS, Means

PAUSE = 0.1
"""Seconds between two queries of an undisguised thief."""

_VICTIM_SEED = 0
_SHORTEST = 120.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """All by name. ``budget``: queries that the attack may make, cover not counted. ``accounts``: honest ones.

    ``pause``: seconds between two queries of a thief who does not hide.
    """

    attack: str
    victim: str
    dataset: str
    wrapper: str = PLAIN
    budget: int = 1_000
    seed: int = 0
    accounts: int = 24
    pause: float = PAUSE


def conduct(plan: Plan, progress: Callable[[int], None] | None = None) -> QueryLog:
    """The log of ``plan`` against a victim in this process; the same for the same plan.

    Honest accounts are at work as long as the attack takes, two minutes at least, each for 500 queries at most.
    ``progress`` is told how many queries of the attack were answered since. Raises LabError for an unknown name, or an
    attack that cannot handle the victim.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(1):  # sums that several threads share are not the same twice
        dataset, victim = victim_of(plan.dataset, plan.victim)
        course = course_of(plan, dataset, InProcess(victim, progress), Yardstick.of(victim, dataset, plan.seed))
        course.run()
        thief = thief_trace(plan.attack, course)
        seconds = max(_SHORTEST, float(thief.at[-1]))
        honest = honest_traces(dataset, InProcess(victim), plan.accounts, plan.seed, seconds)
        return finished(plan, f"{plan.victim} on {plan.dataset}", course, [thief, *honest])


def course_of(plan: Plan, dataset: Dataset, service: Service, yardstick: Yardstick) -> Course:
    """Returns the attack of ``plan`` on ``service``, not begun, by a thief who knows ``dataset``."""
    from detector.lab.attackers import EVERY_ATTACK

    attacker = named(EVERY_ATTACK, plan.attack, "attack")(Knowledge.of(dataset), plan.budget, plan.seed)
    disguise = named(WRAPPERS, plan.wrapper, "wrapper")(Means(dataset, plan.pause, plan.seed))
    return Course(attacker, service, disguise, yardstick, checkpoints(plan.budget))


def check_names(plan: Plan) -> None:
    """Raise LabError for an attack or a wrapper that there is not, or is not installed."""
    from detector.lab.attackers import EVERY_ATTACK
    from detector.lab.independent import check_installed

    named(EVERY_ATTACK, plan.attack, "attack")
    check_installed(plan.attack)
    named(WRAPPERS, plan.wrapper, "wrapper")


def finished(plan: Plan, victim: str, course: Course, traces: list[Trace]) -> QueryLog:
    """The log of ``traces`` and of what ``course`` came to; ``victim`` is its model."""
    run = Run(
        attack=plan.attack,
        victim=victim,
        wrapper=plan.wrapper,
        seed=plan.seed,
        budget=plan.budget,
        sent=course.sent,
        useful=course.useful,
        curve=tuple(course.curve),
        code_version=code_version(plan.attack),
    )
    return log_of(run, course.service.output_kind, traces)


@cache
def code_version(attack: str) -> str:
    """The package's version, and a digest of the source that logs of ``attack`` are made by."""
    from detector.lab.attackers import EVERY_ATTACK

    module = [EVERY_ATTACK[attack].__module__] if attack in EVERY_ATTACK else []
    return f"{detector.__version__}+{digest_of([__name__, *module])}"


@lru_cache(maxsize=8)
def victim_of(dataset: str, victim: str) -> tuple[Dataset, Victim]:
    """The data set called ``dataset`` and the victim called ``victim`` trained on it. Raises LabError."""
    from detector.lab.victims import VICTIMS

    new = named(VICTIMS, victim, "victim")
    data = dataset_of(dataset)
    return data, new(data, _VICTIM_SEED)


def dataset_of(name: str) -> Dataset:
    """The data set called ``name``, or the one in the .npz file ``name``. Raises LabError."""
    from detector.lab.datasets import DATASETS
    from detector.lab.own_data import read_dataset

    return read_dataset(Path(name)) if name.endswith(".npz") else named(DATASETS, name, "data set")()


def named(registry: Mapping[str, T], name: str, what: str) -> T:
    """The entry called ``name``. Raises LabError that lists the names there are."""
    if name not in registry:
        raise LabError(f"there is no {what} {name!r}; there is {', '.join(sorted(registry))}")
    return registry[name]
