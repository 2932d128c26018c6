"""The course of a group for ``explain``: when each member joined, and their queries. It comes from log files, judged as
``replay`` does, or from the service's topics."""

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
    """A group ``id`` of one model version. ``joined``: when each member joined, seconds UTC, in order. ``score``: the
    latest, 1 at the verdict. ``size``: of all members; ``joined`` may name only some."""

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
        times = np.maximum.accumulate(np.concatenate([[latest], *(piece.occurred_at for piece in batch.pieces)]))[1:]
        latest = float(times[-1])
        for model, version, revision in judged.groups.revisions:
            joined = found[revision.id].joined if revision.id in found else {}
            joined |= {name: float(times[revision.row]) for name in revision.joined if name not in joined}
            score = float(group_record(model, version, revision, revision.row)["score"])
            found[revision.id] = GroupCourse(revision.id, model, version, joined, score, len(joined))
    return list(found.values())


def courses_in_alerts(alerts: Iterable[GroupAlert]) -> list[GroupCourse]:
    """Returns the groups of all published ``alerts``."""
    found: dict[str, GroupCourse] = {}
    for alert in sorted(alerts, key=lambda record: record.revision):
        joined = found[alert.id].joined if alert.id in found else {}
        joined |= {member.principal: alert.occurred_at for member in alert.members if member.principal not in joined}
        found[alert.id] = GroupCourse(alert.id, alert.model, alert.model_version, joined, alert.score, alert.size)
    return list(found.values())


def members_queries(course: GroupCourse, stream: Iterable[TimedQueries]) -> dict[str, list[TimedQueries]]:
    """Returns the queries of the members of ``course`` in ``stream`` to its model version, by member."""
    by_member: dict[str, list[TimedQueries]] = {}
    for batch, times in stream:
        if (batch.model, batch.model_version) != (course.model, course.model_version):
            continue
        for at in sorted({at for at, name in enumerate(batch.principals) if name in course.joined}):
            rows = np.flatnonzero(batch.principal_index == at)
            if len(rows):
                by_member.setdefault(batch.principals[at], []).append((take(batch, rows), times[rows]))
    return by_member


def merged_queries(queries: dict[str, list[TimedQueries]], name: str) -> list[TimedQueries]:
    """Returns the queries of all members as those of one principal ``name``, in order of time. Raises
    ConfigurationError if there is none."""
    pieces = [piece for member_pieces in queries.values() for piece in member_pieces]
    if not pieces:
        raise ConfigurationError("no query of a member is still kept")
    times = np.concatenate([piece_times for _, piece_times in pieces])
    order = np.argsort(times, kind="stable")
    [merged] = concatenate([_renamed(batch, name) for batch, _ in pieces])
    return [(take(merged, order), times[order])]


def _renamed(batch: QueryBatch, name: str) -> QueryBatch:
    return replace(batch, principals=[name], principal_index=np.zeros(len(batch), np.int32))
