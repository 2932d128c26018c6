"""The tables of an explanation, for the page and the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from detector.cli.explanation.account import Account
from detector.cli.explanation.weighing import Weighing
from detector.cli.explanation.words import count, number
from detector.runtime.text import rfc3339

_LEAST = 0.05
"""Scores below this are not shown."""


@dataclass(frozen=True, slots=True)
class Table:
    """``texts``: the number of leading columns that hold words; the others hold numbers."""

    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    texts: int


def weights(account: Account) -> Table:
    """Returns the contribution of each deviating measure to D, at the verdict and at the last query, with the value of
    the closest honest account."""
    views = _views(account)
    still = set(silent(account))
    order = sorted(views[0].parts, key=lambda part: -max(view.part(part.name).added for view in views))
    rows = []
    for name, about in ((part.name, part.about) for part in order if part.name not in still):
        own = [view.part(name) for view in views]
        rows.append((name, about, *(number(value) for part in own for value in (part.score, part.likest, part.added))))
    total = ("D", "unexplained deviation")
    head = [(f"query\xa0{view.row + 1:,}", "closest honest", "contribution") for view in views]
    sums = [("", "", number(view.unexplained)) for view in views]
    return Table(("measure", "describes", *chain(*head)), [*rows, (*total, *chain(*sums))], 2)


def silent(account: Account) -> list[str]:
    """Returns the measures without a deviation, both at the verdict and at the last query."""
    views = _views(account)
    return [part.name for part in views[0].parts if all(view.part(part.name).score < _LEAST for view in views)]


def _views(account: Account) -> list[Weighing]:
    then, now = account.then, account.now
    assert then is not None
    return [then] if now is None or now.row == then.row else [then, now]


def events(account: Account) -> Table:
    """Returns all events on record, in order."""
    rows = [(f"{own.row + 1:,}", rfc3339(own.time), own.sentence) for own in account.moments]
    return Table(("query", "time", "what"), rows or [("-", "", "nothing")], 3)


def facts(account: Account) -> str:
    """Returns a sentence on the queries: model, versions, time span, source and configuration."""
    course = account.course
    versions = list(dict.fromkeys(course.versions))
    which = f"version{'s' if len(versions) > 1 else ''} {', '.join(versions)}"
    return (
        f"{count(len(course))} to {course.model}, {which}, from {rfc3339(course.time[0])} to "
        f"{rfc3339(course.time[-1])}, read from {account.source} and judged under configuration "
        f"{account.config.configuration_hash()}. Queries are counted from 1."
    )
