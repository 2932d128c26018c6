"""One attack on one victim in one disguise, among honest accounts, on a simulated clock; the result is a log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

import detector
from detector.contracts.errors import LabError
from detector.contracts.queries import OutputKind, QueryBatch
from detector.lab.answers import Answers, Victim, concatenated
from detector.lab.attackers import EVASIONS
from detector.lab.attackers.attacker import Knowledge
from detector.lab.data import Dataset
from detector.lab.fidelity import Yardstick
from detector.lab.honest import population
from detector.lab.honest.habit import HonestRequest
from detector.lab.provenance import digest_of
from detector.lab.query_log import Mark, QueryLog, Run
from detector.lab.session import AttackSession, Guard, InProcess, Rows, Service, checkpoints
from detector.lab.wrappers import PLAIN, WRAPPERS

START = 1_767_225_600.0
"""The start of the simulated clock: the year 2026."""
MODEL_VERSION = "1"
PAUSE = 0.1
"""Seconds between two queries of an undisguised thief."""

_MOST_HONEST_QUERIES = 500
_VICTIM_SEED = 0
_SHORTEST = 120.0

T = TypeVar("T")

Knows = Literal["none", "code", "profile"]
"""What a thief knows of the detector."""


@dataclass(frozen=True, slots=True)
class AttackPlan:
    """An experiment, all parts by name. ``budget``: queries that the attack may make, cover not counted. ``accounts``:
    the number of honest accounts. ``pause``: seconds between two queries of an undisguised thief. ``knows``: what the
    thief knows of the detector, see ``detector.lab.shadow``."""

    attack: str
    victim: str
    dataset: str
    wrapper: str = PLAIN
    budget: int = 1_000
    seed: int = 0
    accounts: int = 24
    pause: float = PAUSE
    knows: Knows = "none"

    @property
    def model(self) -> str:
        """The name of the model in logs of a victim in this process."""
        return f"{self.victim} on {self.dataset}"


@dataclass(frozen=True, slots=True)
class Trace:
    """n answered queries. ``accounts`` and ``marks``, n each: sender and truth; ``at`` float64 (n,): seconds since the
    experiment began; ``features`` float32 (n, d), NaN where one was left out; ``outputs`` float64 (n, k): as the
    service logs them; ``leaf`` int64 (n,) or None: the tree node, where the service returns it; ``specification``
    float32 (n, 2) or None: the accuracy and the milliseconds requested, where an attacker sweeps them."""

    accounts: list[str]
    marks: list[Mark]
    at: NDArray[np.float64]
    features: Rows
    outputs: NDArray[np.float64]
    leaf: NDArray[np.int64] | None
    specification: NDArray[np.float32] | None = None


def conduct(plan: AttackPlan, progress: Callable[[int], None] | None = None) -> QueryLog:
    """Returns the log of ``plan`` against a victim in this process; the same for the same plan.

    Honest accounts are active during the attack, at least two minutes, each for at most 500 queries. ``progress`` is
    called with the number of queries of the attack answered since. Raises LabError for an unknown name, or an attack
    that cannot handle the victim.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(1):  # sums that several threads share are not the same twice
        dataset, victim = victim_of(plan.dataset, plan.victim)
        service, yardstick = InProcess(victim, progress), Yardstick.of(victim, dataset, plan.seed)
        session = session_of(plan, dataset, service, yardstick, guard_of(plan, dataset, victim.output_kind))
        session.run()
        thief = thief_trace(plan.attack, session)
        seconds = max(_SHORTEST, float(thief.at[-1]))
        honest = honest_traces(dataset, InProcess(victim), plan.accounts, plan.seed, seconds)
        return finished(plan, plan.model, session, [thief, *honest], dataset.thief.features)


def guard_of(plan: AttackPlan, dataset: Dataset, output_kind: OutputKind) -> Guard | None:
    """Returns the thief's own detector in the attack of ``plan``, or None if the thief knows nothing."""
    if plan.knows == "none":
        return None
    from detector.lab.shadow import Caution, owner_profile

    profile = owner_profile(plan.dataset, plan.victim) if plan.knows == "profile" else None
    return Caution(dataset.thief.features, output_kind, plan.seed, profile)


def session_of(
    plan: AttackPlan, dataset: Dataset, service: Service, yardstick: Yardstick, guard: Guard | None = None
) -> AttackSession:
    """Returns the attack of ``plan`` on ``service``, not begun, by a thief who knows ``dataset`` and has ``guard``."""
    from detector.lab.attackers import EVERY_ATTACK

    attacker = named(EVERY_ATTACK, plan.attack, "attack")(Knowledge.of(dataset), plan.budget, plan.seed)
    disguise = named(WRAPPERS, plan.wrapper, "wrapper")(dataset, plan.pause, plan.seed)
    return AttackSession(attacker, service, disguise, yardstick, checkpoints(plan.budget), guard)


def thief_trace(attack: str, session: AttackSession) -> Trace:
    """Returns all queries of the thief's accounts. Raises LabError if nothing was answered."""
    if not session.rounds:
        raise LabError(f"{attack}: not one query was answered")
    streams = [round_.stream for round_ in session.rounds]
    answers = Answers.joined([round_.answers for round_ in session.rounds])
    features = np.concatenate([stream.features for stream in streams])
    marks = Mark("evasion" if attack in EVASIONS else "extraction", attack), session.cover
    return Trace(
        accounts=[account for stream in streams for account in session.accounts(stream)],
        marks=[marks[int(covered)] for stream in streams for covered in stream.cover.tolist()],
        at=np.concatenate([stream.at for stream in streams]),
        features=features,
        outputs=session.service.logged(features, answers),
        leaf=answers.leaf,
        specification=concatenated([round_.specifications for round_ in session.rounds]),
    )


def honest_traces(dataset: Dataset, service: Service, accounts: int, seed: int, seconds: float) -> list[Trace]:
    """Returns the queries of ``accounts`` honest users to ``service`` in ``seconds``, each at most 500.

    The habits of the data set take turns, known false alarms included.
    """
    traces = []
    for user in population(dataset, accounts, seed):
        at, features = _requests(user.requests, dataset.dimension, seconds)
        if len(features):
            senders, marks = [user.account] * len(at), [Mark("honest", user.habit)] * len(at)
            answers = service.answer(features, senders, at)
            traces.append(Trace(senders, marks, at, features, service.logged(features, answers), answers.leaf))
    return traces


def _requests(requests: Iterator[HonestRequest], dimension: int, seconds: float) -> tuple[NDArray[np.float64], Rows]:
    """Returns the requests of ``requests``: float64 (n,) seconds and float32 (n, d)."""
    at: list[float] = []
    rows, now = [np.empty((0, dimension), np.float32)], 0.0
    for request in requests:
        now += request.pause
        if now > seconds or len(at) == _MOST_HONEST_QUERIES:
            break
        rows.append(request.rows[: _MOST_HONEST_QUERIES - len(at)])
        at += [now] * len(rows[-1])
    return np.array(at, np.float64), np.concatenate(rows)


def finished(plan: AttackPlan, victim: str, session: AttackSession, traces: list[Trace], thief_rows: Rows) -> QueryLog:
    """Returns the log of ``traces``, that of the thief first, and of the outcome of ``session``; ``victim`` is its
    model, ``thief_rows`` (n, d) the thief's natural rows."""
    run = Run(
        attack=plan.attack,
        victim=victim,
        wrapper=plan.wrapper,
        seed=plan.seed,
        budget=plan.budget,
        sent=session.sent,
        useful=session.useful,
        curve=tuple(session.curve),
        code_version=code_version(plan.attack, plan.knows),
        knows=plan.knows,
        natural=count_leading(traces[0].features, thief_rows),
    )
    return log_of(run, session.service.output_kind, traces)


def log_of(run: Run, output_kind: OutputKind, traces: Sequence[Trace]) -> QueryLog:
    """Returns all of ``traces`` by time as the log of ``run``, whose victim names the model. Event ids are numbers
    after a digest of the run, so that two logs can be read together."""
    at = np.concatenate([trace.at for trace in traces])
    order = np.argsort(at, kind="stable")
    features, outputs = (np.concatenate([getattr(trace, name) for trace in traces]) for name in ("features", "outputs"))
    accounts = [account for trace in traces for account in trace.accounts]
    marks = [mark for trace in traces for mark in trace.marks]
    leaf = concatenated([trace.leaf for trace in traces])
    specification = concatenated([trace.specification for trace in traces])
    digest = sha256(repr(asdict(run)).encode()).hexdigest()[:12]
    in_order = [accounts[row] for row in order.tolist()]
    queries = replace(
        queries_of(run.victim, output_kind, in_order, features[order], outputs[order]),
        event_ids=[f"{digest}-{row}" for row in range(len(order))],
        occurred_at=START + at[order],
        leaf=None if leaf is None else leaf[order],
        specification=None if specification is None else specification[order],
    )
    return QueryLog(queries, [marks[row] for row in order.tolist()], run)


def queries_of(
    model: str, output_kind: OutputKind, accounts: Sequence[str], features: Rows, outputs: NDArray[np.float64]
) -> QueryBatch:
    """Returns queries of ``accounts`` (n,) to the first version of ``model``, a second apart. NaN in ``features``
    (n, d) is a feature left out; ``outputs`` (n, k) are probabilities."""
    names = sorted(set(accounts))
    numbers = {name: number for number, name in enumerate(names)}
    absent = np.isnan(features)
    logged = outputs.argmax(axis=1)[:, None] if output_kind == "label" else outputs
    return QueryBatch(
        model=model,
        model_version=MODEL_VERSION,
        output_kind=output_kind,
        event_ids=[""] * len(features),
        occurred_at=np.arange(len(features), dtype=np.float64),
        principals=names,
        principal_index=np.array([numbers[account] for account in accounts], np.int32),
        features=np.where(absent, np.float32(0), features),
        outputs=np.asarray(logged, np.float32),
        missing=absent if absent.any() else None,
    )


def check_names(plan: AttackPlan) -> None:
    """Raises LabError for an attack or a wrapper that does not exist, or is not installed."""
    from detector.lab.attackers import EVERY_ATTACK
    from detector.lab.independent import check_installed

    named(EVERY_ATTACK, plan.attack, "attack")
    check_installed(plan.attack)
    named(WRAPPERS, plan.wrapper, "wrapper")


def count_leading(rows: Rows, thief_rows: Rows) -> int:
    """Returns how many of ``rows`` (n, d) come before the first that is not in ``thief_rows`` (m, d)."""
    known = {row.tobytes() for row in thief_rows}
    return next((number for number, row in enumerate(rows) if row.tobytes() not in known), len(rows))


@cache
def code_version(attack: str, knows: Knows = "none") -> str:
    """Returns the package's version, and a digest of the source that makes logs of ``attack`` by a thief who ``knows``
    the detector."""
    from detector.lab.attackers import EVERY_ATTACK

    module = [EVERY_ATTACK[attack].__module__] if attack in EVERY_ATTACK else []
    detecting = [] if knows == "none" else ["detector.lab.shadow"]
    return f"{detector.__version__}+{digest_of([__name__, *module, *detecting])}"


@lru_cache(maxsize=8)
def victim_of(dataset: str, victim: str) -> tuple[Dataset, Victim]:
    """Returns the data set called ``dataset`` and the victim called ``victim`` trained on it. Raises LabError."""
    from detector.lab.victims import VICTIMS

    new = named(VICTIMS, victim, "victim")
    data = dataset_of(dataset)
    return data, new(data, _VICTIM_SEED)


def dataset_of(name: str) -> Dataset:
    """Returns the data set called ``name``, or the one in the .npz file ``name``. Raises LabError."""
    from detector.lab.datasets import DATASETS, read_dataset

    return read_dataset(Path(name)) if name.endswith(".npz") else named(DATASETS, name, "data set")()


def named(registry: Mapping[str, T], name: str, what: str) -> T:
    """Returns the entry called ``name``. Raises LabError that lists the existing names."""
    if name not in registry:
        raise LabError(f"there is no {what} {name!r}; there is {', '.join(sorted(registry))}")
    return registry[name]
