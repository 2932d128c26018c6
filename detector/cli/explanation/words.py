"""The verdict in sentences: flagged or not, since which query, why, and on what basis."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from detector.cli.explanation.account import Account
from detector.cli.explanation.weighing import Part, Weighing, about

UNIT = "standard deviations of honest accounts"

_FAR = 6.0
_NAMED = 3
_SHARE = 0.1
_NOTHING = 0.005


def headline(account: Account) -> str:
    """Returns the principal and the verdict, in a few words."""
    course = account.course
    if course.verdict is None:
        return f"{course.principal} is not a suspect"
    return f"{course.principal} is a suspect since query {course.verdict + 1:,}"


def verdict(account: Account) -> str:
    """Returns the verdict in one sentence."""
    return _suspect(account) if account.course.verdict is not None else _unsuspected(account)


def basis(account: Account) -> list[str]:
    """Returns sentences on the basis of the verdict, the current state, and possible differences."""
    return [sentence for sentence in _basis(account) if sentence]


def number(value: float) -> str:
    """Returns ``value`` with one decimal, or a dash if it is not finite."""
    return f"{round(value, 1) + 0.0:,.1f}" if np.isfinite(value) else "-"


def count(queries: int, noun: str = "query", several: str = "queries") -> str:
    return f"{queries:,} {noun if queries == 1 else several}"


def reasons(then: Weighing) -> str:
    """Returns the measures with the largest contributions, at most three, each compared with honest accounts."""
    first, *others = then.parts[:_NAMED]
    named = [first, *(part for part in others if part.added >= _SHARE * then.unexplained)]
    return "; ".join(f"{part.about}, {_how_far(part)}" for part in named)


def _how_far(part: Part) -> str:
    if not np.isfinite(part.most):
        return "a measure that the calibration lacks"
    if part.score >= part.most + _FAR:
        return "far beyond any honest account"
    if part.score > part.most:
        return "beyond any honest account"
    return "beyond the closest honest account"


def _suspect(account: Account) -> str:
    course = account.course
    assert course.verdict is not None
    since = f"Suspect since query {course.verdict + 1:,} of {len(course):,}"
    if account.then is not None:
        return f"{since}: {reasons(account.then)}."
    finding = course.findings.get(course.verdict)
    if finding is None or finding.signal == "prada":
        w = course.signals["prada"][course.verdict]
        return f"{since}: {about('prada')}; W fell to {w:.3f}; the threshold is {account.config.prada.delta:g}."
    return f"{since}: {finding.signal} reached {finding.statistic:.3g}; the threshold is {finding.threshold:.3g}."


def _unsuspected(account: Account) -> str:
    course = account.course
    lead = f"Not a suspect after {count(len(course))}"
    if np.isnan(course.score).all():
        return f"{lead}: there are too few queries for any test."
    at = account.then_row
    if account.then is None:
        w, delta = course.signals["prada"][at], account.config.prada.delta
        return f"{lead}: the lowest W was {w:.3f}, at query {at + 1:,}; the threshold is {delta:g}."
    most, threshold = account.then.unexplained, account.then.threshold
    return (
        f"{lead}: the largest unexplained deviation was {most:.1f} {UNIT}, at query {at + 1:,}; "
        f"the threshold is {threshold:.1f}."
    )


def _basis(account: Account) -> Iterator[str]:
    course = account.course
    if not account.has_profile:
        yield "UNCALIBRATED: honest accounts may be flagged, and most kinds of theft are missed."
    yield _weighed(account)
    yield _now(account)
    if account.stands is not None:
        yield f"The last decision on record: {account.stands}."
    if not account.has_profile:
        yield _without_profile(account)
    if course.refused:
        yield f"{count(course.refused)} could not be judged: the number of features differs from that of the others."
    yield from account.notes


def _weighed(account: Account) -> str:
    then = account.then
    if then is None or account.course.verdict is None:
        return ""
    lead = f"The closest honest account explains {then.explained:.0%} of the deviation and leaves"
    if then.explained < _NOTHING:
        lead = "No honest account explains any of the deviation:"
    return f"{lead} D = {then.unexplained:.1f} {UNIT}; the threshold is {then.threshold:.1f}."


def _now(account: Account) -> str:
    now, course = account.now, account.course
    if now is None or course.verdict is None or account.then_row == len(course) - 1:
        return ""
    if now.unexplained > now.threshold:
        return f"After query {len(course):,}, D is {now.unexplained:.1f}."
    latched = " The account stays flagged until an operator clears it." if course.flagged[-1] else ""
    return f"After query {len(course):,}, D is {now.unexplained:.1f}, below the threshold.{latched}"


def _without_profile(account: Account) -> str:
    if account.config.mode != "default":
        return "Only PRADA was used, exactly as published (compatible mode); this mode uses no profile."
    return (
        f"There is no profile for {account.course.model} {account.version}: only PRADA was used. It detects thieves "
        "who step from their own earlier queries, and no others; a profile (weirguard calibrate) adds more measures."
    )
