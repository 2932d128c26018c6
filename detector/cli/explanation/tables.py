"""The tables of an explanation, for the page and the terminal alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from detector.cli.explanation.account import Account
from detector.cli.explanation.weighing import Weighing
from detector.cli.explanation.words import count, number
from detector.runtime.times import rfc3339

_LEAST = 0.05
"""A score below it is shown as none."""


@dataclass(frozen=True, slots=True)
class Table:
    """``texts``: so many columns, the first ones, are words and not numbers."""

    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    texts: int


def weights(account: Account) -> Table:
    """What each measure that says anything adds to D, when it mattered and now, beside the honest account most like the
    principal."""
    views = _views(account)
    still = set(silent(account))
    order = sorted(views[0].parts, key=lambda part: -max(view.part(part.name).added for view in views))
    rows = []
    for name, about in ((part.name, part.about) for part in order if part.name not in still):
        own = [view.part(name) for view in views]
        rows.append((name, about, *(number(value) for part in own for value in (part.score, part.likest, part.added))))
    total = ("D", "what no honest account explains")
    head = [(f"query\xa0{view.row + 1:,}", "likest honest", "adds to D") for view in views]
    sums = [("", "", number(view.unexplained)) for view in views]
    return Table(("measure", "looks at", *chain(*head)), [*rows, (*total, *chain(*sums))], 2)


def silent(account: Account) -> list[str]:
    """The measures that found him ordinary, when it mattered and now."""
    views = _views(account)
    return [part.name for part in views[0].parts if all(view.part(part.name).score < _LEAST for view in views)]


def _views(account: Account) -> list[Weighing]:
    then, now = account.then, account.now
    assert then is not None
    return [then] if now is None or now.row == then.row else [then, now]


def events(account: Account) -> Table:
    """All that was put on record, in order."""
    rows = [(f"{own.row + 1:,}", rfc3339(own.time), own.sentence) for own in account.moments]
    return Table(("query", "time", "what"), rows or [("-", "", "nothing")], 3)


def facts(account: Account) -> str:
    """Whose queries these are, from where and when, and how they were judged."""
    course = account.course
    versions = list(dict.fromkeys(course.versions))
    which = f"version{'s' if len(versions) > 1 else ''} {', '.join(versions)}"
    return (
        f"{count(len(course))} to {course.model}, {which}, from {rfc3339(course.time[0])} to "
        f"{rfc3339(course.time[-1])}, read from {account.source} and judged under configuration "
        f"{account.config.configuration_hash()}. Queries are counted from 1."
    )
