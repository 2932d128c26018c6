"""Who joined a group when, and the queries of its members: from log files, judged as ``replay`` does, or from the
service's topics; for ``explain``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from detector.contracts.batches import concatenate, take
from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import GroupAlert
from detector.contracts.queries import QueryBatch
from detector.core.configuration import EngineConfig
from detector.policy.config import Policy
from detector.replay.groups import group_record
from detector.replay.judging import judge_logs
from detector.replay.principal import TimedQueries
from detector.sources import LogReader


@dataclass(frozen=True, slots=True)
class GroupCourse:
    """A group ``id`` of one model version. ``joined``: by member the time, seconds UTC, in order. ``score``: the
    latest, 1 at the verdict. ``size``: of all members, of whom ``joined`` may name only some."""

    id: str
    model: str
    model_version: str
    joined: dict[str, float]
    score: float
    size: int


def courses_in_logs(
    paths: Sequence[Path],
    engine_config: EngineConfig,
    policy: Policy,
    reader: LogReader,
    progress: Callable[[int], None],
) -> list[GroupCourse]:
    """Returns the groups in the logs at ``paths``. ``progress`` is called with the number of rows judged since. Raises
    ConfigurationError."""
    found: dict[str, GroupCourse] = {}
    latest = 0.0
    for batch, judged in judge_logs(paths, engine_config=engine_config, policy=policy, reader=reader):
        progress(len(batch))
        if judged is None or not batch.pieces:
            continue
        times = np.maximum.accumulate(np.concatenate([[latest], *(own.occurred_at for own in batch.pieces)]))[1:]
        latest = float(times[-1])
        for model, version, own in judged.groups.revisions:
            joined = found[own.id].joined if own.id in found else {}
            joined |= {name: float(times[own.row]) for name in own.joined if name not in joined}
            score = float(group_record(model, version, own, own.row)["score"])
            found[own.id] = GroupCourse(own.id, model, version, joined, score, len(joined))
    return list(found.values())


def courses_in_alerts(alerts: Iterable[GroupAlert]) -> list[GroupCourse]:
    """Returns the groups of all published ``alerts``."""
    found: dict[str, GroupCourse] = {}
    for own in sorted(alerts, key=lambda alert: alert.revision):
        joined = found[own.id].joined if own.id in found else {}
        joined |= {one.principal: own.occurred_at for one in own.members if one.principal not in joined}
        found[own.id] = GroupCourse(own.id, own.model, own.model_version, joined, own.score, own.size)
    return list(found.values())


def chosen(courses: Sequence[GroupCourse], group: str) -> GroupCourse:
    """Returns the one of ``courses`` whose id begins with ``group``. Raises ConfigurationError unless there is just
    one."""
    found = [own for own in courses if own.id.startswith(group)]
    if len(found) == 1:
        return found[0]
    named = ", ".join(own.id for own in found or courses) or "none"
    raise ConfigurationError(f"{len(found)} groups begin with {group!r}; there are: {named}")


def members_queries(course: GroupCourse, stream: Iterable[TimedQueries]) -> dict[str, list[TimedQueries]]:
    """Returns the queries of the members of ``course`` in ``stream`` to its model version, by member."""
    own: dict[str, list[TimedQueries]] = {}
    for batch, times in stream:
        if (batch.model, batch.model_version) != (course.model, course.model_version):
            continue
        for at in sorted({at for at, name in enumerate(batch.principals) if name in course.joined}):
            rows = np.flatnonzero(batch.principal_index == at)
            if len(rows):
                own.setdefault(batch.principals[at], []).append((take(batch, rows), times[rows]))
    return own


def as_one(queries: dict[str, list[TimedQueries]], name: str) -> list[TimedQueries]:
    """Returns the queries of all members as those of one principal ``name``, in order of time. Raises
    ConfigurationError if there is none."""
    pieces = [own for each in queries.values() for own in each]
    if not pieces:
        raise ConfigurationError("no query of a member is kept any more")
    times = np.concatenate([own for _, own in pieces])
    order = np.argsort(times, kind="stable")
    [whole] = concatenate([_renamed(batch, name) for batch, _ in pieces])
    return [(take(whole, order), times[order])]


def _renamed(batch: QueryBatch, name: str) -> QueryBatch:
    return replace(batch, principals=[name], principal_index=np.zeros(len(batch), np.int32))
