"""A group explained: its members, when each joined, what each shows alone, and all their queries as one account's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from detector.core.configuration import EngineConfig
from detector.explain import plots
from detector.explain.explanation import Explanation, TimelineEvent, explanation_of
from detector.explain.page import render
from detector.explain.tables import TextTable, as_json, contributions, events, facts
from detector.explain.words import UNIT, count, learned, number
from detector.policy.config import Policy
from detector.replay.group_course import GroupCourse, merged_queries
from detector.replay.principal import TimedQueries, replay_principal
from detector.runtime.text import rfc3339

MAX_JUDGED_MEMBERS = 50
"""Members that are judged alone; the others are only listed."""
_SHOWN_MEASURES = 3


@dataclass(frozen=True, slots=True)
class ExplainedMember:
    """A member: their ``queries``, ``joined`` at, seconds UTC, and judged alone: the ``score``, NaN for none, whether
    ``suspect``, and what adds most to their D, by measure."""

    name: str
    queries: int
    joined: float
    score: float
    suspect: bool
    evidence: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class GroupExplanation:
    """The ``course`` of a group, its ``members``, and the ``union`` of their queries, explained as one account."""

    course: GroupCourse
    members: tuple[ExplainedMember, ...]
    union: Explanation


def explain_group(
    course: GroupCourse,
    queries: Mapping[str, list[TimedQueries]],
    config: EngineConfig,
    policy: Policy,
    source: str,
) -> GroupExplanation:
    """Returns the explanation of ``course``, whose members sent ``queries``, at least one."""
    names = [name for name in course.joined if name in queries]
    members = tuple(_member(name, course, queries[name], config, policy) for name in names[:MAX_JUDGED_MEMBERS])
    replay = replay_principal(merged_queries(dict(queries), f"group {course.id}"), config, policy)
    batches = [batch for judged in queries.values() for batch, _ in judged]
    union = explanation_of(replay, config, source, records=(), notes=learned(batches, config))
    return GroupExplanation(course, members, replace(union, events=_joined(course, replay.time)))


def _member(
    name: str, course: GroupCourse, queries: Sequence[TimedQueries], config: EngineConfig, policy: Policy
) -> ExplainedMember:
    alone = explanation_of(replay_principal(queries, config, policy), config, "")
    added = [] if alone.at_verdict is None else [(part.name, part.added) for part in alone.at_verdict.contributions]
    most = sorted((part for part in added if part[1] > 0), key=lambda part: -part[1])[:_SHOWN_MEASURES]
    scores = alone.replay.score
    score = float("nan") if np.isnan(scores).all() else float(np.nanmax(scores))
    return ExplainedMember(
        name, len(alone.replay), course.joined[name], score, alone.replay.verdict is not None, tuple(most)
    )


def _joined(course: GroupCourse, time: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[TimelineEvent, ...]:
    """Returns an event for each time at which members joined."""
    by_time: dict[float, list[str]] = {}
    for name, at in course.joined.items():
        by_time.setdefault(at, []).append(name)
    return tuple(
        TimelineEvent(
            min(int(np.searchsorted(time, at)), len(time) - 1),
            at,
            f"+{len(names)}",
            f"{', '.join(names)} joined the group",
        )
        for at, names in sorted(by_time.items())
    )


def group_headline(group: GroupExplanation) -> str:
    """Returns what the group is, in a few words."""
    return f"Group {group.course.id}: {count(group.course.size, 'account', 'accounts')} that share one theft"


def lead(group: GroupExplanation) -> str:
    """Returns what the group shows, in a sentence."""
    alone = sum(member.suspect for member in group.members)
    verdict = group.union.replay.verdict
    outcome = "would not be a suspect" if verdict is None else f"would be a suspect since query {verdict + 1:,}"
    return (
        f"The group's score is {group.course.score:.2g}, and 1 is the verdict. Judged alone, "
        f"{alone} of {len(group.members)} members are suspects; their {count(len(group.union.replay))}, as those of "
        f"one account, {outcome}."
    )


def members_table(group: GroupExplanation) -> TextTable:
    """Returns a row for each member, in the order in which they joined."""
    rows = [
        (
            member.name,
            rfc3339(member.joined),
            ", ".join(f"{name} {number(added)}" for name, added in member.evidence) or "-",
            f"{member.queries:,}",
            "-" if np.isnan(member.score) else f"{member.score:.2f}",
        )
        for member in group.members
    ]
    return TextTable(("account", "joined", "adds most to D alone", "queries", "score alone"), rows, 3)


def group_json(group: GroupExplanation) -> dict[str, Any]:
    """Returns the content of the page without the plots."""
    return {
        "group": group.course.id,
        "model": group.course.model,
        "model_version": group.course.model_version,
        "score": group.course.score,
        "size": group.course.size,
        "members": [
            {
                "principal": member.name,
                "joined": rfc3339(member.joined),
                "queries": member.queries,
                "score": None if np.isnan(member.score) else member.score,
                "suspect": member.suspect,
                "evidence": [{"name": name, "value": added} for name, added in member.evidence],
            }
            for member in group.members
        ],
        "as_one_account": as_json(group.union),
    }


def group_page(group: GroupExplanation) -> str:
    """Returns the page of a group."""
    union = group.union
    meters = [plot for plot in (plots.margin(union), plots.exposure(union)) if plot is not None]
    return render(
        "group.html",
        heading=group_headline(group),
        lead=lead(group),
        facts=facts(union),
        notes=union.notes,
        members=members_table(group),
        suspicion=plots.suspicion(union),
        contributions=contributions(union) if union.has_profile else None,
        unit=UNIT,
        meters=meters,
        measures=plots.measures(union),
        events=events(union),
    )
