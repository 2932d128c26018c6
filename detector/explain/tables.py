"""The explanation as tables, for pages and the terminal, and as JSON values."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from detector.explain.explanation import Breakdown, Explanation, describe
from detector.explain.words import basis, count, number, verdict
from detector.runtime.text import rfc3339

_LEAST_SHOWN = 0.05
"""Deviations below this are shown as none."""


@dataclass(frozen=True, slots=True)
class TextTable:
    """``texts``: the number of leading columns that hold words; the others hold numbers."""

    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    texts: int


def contributions(explanation: Explanation, names_shown: Collection[str] | None = None) -> TextTable:
    """Returns the contribution of each deviating measure to D, at the verdict and at the last query, with the deviation
    of the closest honest account. ``names_shown``: the measures to show, ``D`` for the sums; by default, all."""
    breakdowns = _breakdowns(explanation)
    hidden = set(without_deviation(explanation))
    names = [part.name for part in breakdowns[0].contributions if part.name not in hidden]
    rows = []
    for name in sorted(names, key=lambda name: -max(breakdown.of(name).added for breakdown in breakdowns)):
        parts = [breakdown.of(name) for breakdown in breakdowns]
        numbers = (number(value) for part in parts for value in (part.deviation, part.closest, part.added))
        rows.append((name, describe(name), *numbers))
    sums = (cell for breakdown in breakdowns for cell in ("", "", number(breakdown.d)))
    rows.append(("D", "unexplained deviation", *sums))
    head = (
        cell
        for breakdown in breakdowns
        for cell in (f"query\xa0{breakdown.row + 1:,}", "closest honest", "contribution")
    )
    return TextTable(
        ("measure", "describes", *head), [row for row in rows if names_shown is None or row[0] in names_shown], 2
    )


def without_deviation(explanation: Explanation) -> list[str]:
    """Returns the measures without a deviation, both at the verdict and at the last query."""
    breakdowns = _breakdowns(explanation)
    names = [part.name for part in breakdowns[0].contributions]
    return [name for name in names if all(breakdown.of(name).deviation < _LEAST_SHOWN for breakdown in breakdowns)]


def _breakdowns(explanation: Explanation) -> list[Breakdown]:
    then, now = explanation.at_verdict, explanation.at_end
    assert then is not None
    return [then] if now is None or now.row == then.row else [then, now]


def events(explanation: Explanation) -> TextTable:
    """Returns all events on record, in order."""
    rows = [(f"{event.row + 1:,}", rfc3339(event.time), event.sentence) for event in explanation.events]
    return TextTable(("query", "time", "what"), rows or [("-", "", "nothing")], 3)


def facts(explanation: Explanation) -> str:
    """Returns a sentence on the queries: model, versions, time span, source and configuration."""
    replay = explanation.replay
    versions = list(dict.fromkeys(replay.versions))
    which = f"version{'s' if len(versions) > 1 else ''} {', '.join(versions)}"
    return (
        f"{count(len(replay))} to {replay.model}, {which}, from {rfc3339(replay.time[0])} to "
        f"{rfc3339(replay.time[-1])}, read from {explanation.source} and judged under configuration "
        f"{explanation.config.configuration_hash()}. Queries are counted from 1."
    )


def as_json(explanation: Explanation) -> dict[str, Any]:
    """Returns the content of the page without the plots. Queries count from 1; times are RFC 3339."""
    replay = explanation.replay
    return {
        "principal": replay.principal,
        "model": replay.model,
        "model_versions": list(dict.fromkeys(replay.versions)),
        "source": explanation.source,
        "configuration": explanation.config.configuration_hash(),
        "queries_count_from": 1,
        "queries": len(replay),
        "unjudged": replay.refused,
        "since": rfc3339(replay.time[0]),
        "until": rfc3339(replay.time[-1]),
        "suspect": replay.verdict is not None,
        "first_flagged_query": None if replay.verdict is None else replay.verdict + 1,
        "calibrated": explanation.has_profile,
        "verdict": verdict(explanation),
        "basis": basis(explanation),
        "then": _breakdown_json(explanation.at_verdict),
        "now": _breakdown_json(explanation.at_end),
        "record": [
            {"query": event.row + 1, "time": rfc3339(event.time), "what": event.sentence, "accuses": event.accuses}
            for event in explanation.events
        ],
    }


def _breakdown_json(breakdown: Breakdown | None) -> dict[str, Any] | None:
    if breakdown is None:
        return None
    measures = [
        {"name": part.name, "about": describe(part.name)}
        | {
            key: value if isfinite(value) else None
            for key, value in {
                "score": part.deviation,
                "likest_honest": part.closest,
                "most_honest": part.largest,
                "added": part.added,
            }.items()
        }
        for part in breakdown.contributions
    ]
    return {
        "query": breakdown.row + 1,
        "unexplained": breakdown.d,
        "threshold": breakdown.threshold,
        "explained": breakdown.explained,
        "measures": measures,
    }
