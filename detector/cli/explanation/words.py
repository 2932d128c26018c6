"""The answer in sentences: suspect or not, since when, because of what, and what that rests on."""

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
    """Whom it is about and the verdict, in a few words."""
    course = account.course
    if course.verdict is None:
        return f"{course.principal} is no suspect"
    return f"{course.principal} is a suspect since query {course.verdict + 1:,}"


def verdict(account: Account) -> str:
    """The verdict in one sentence."""
    return _suspect(account) if account.course.verdict is not None else _unsuspected(account)


def basis(account: Account) -> list[str]:
    """Sentences on what the verdict rests on, what stands now, and what may not be as it seems."""
    return [sentence for sentence in _basis(account) if sentence]


def number(value: float) -> str:
    """``value`` with one decimal, a dash where there is none."""
    return f"{round(value, 1) + 0.0:,.1f}" if np.isfinite(value) else "-"


def count(queries: int, noun: str = "query", several: str = "queries") -> str:
    return f"{queries:,} {noun if queries == 1 else several}"


def reasons(then: Weighing) -> str:
    """The measures that add most to D, three at most, and how far each is beyond honest accounts."""
    first, *others = then.parts[:_NAMED]
    named = [first, *(part for part in others if part.added >= _SHARE * then.unexplained)]
    return "; ".join(f"{part.about}, {_how_far(part)}" for part in named)


def _how_far(part: Part) -> str:
    if not np.isfinite(part.most):
        return "which the calibration did not know"
    if part.score >= part.most + _FAR:
        return "far beyond any honest account"
    if part.score > part.most:
        return "beyond any honest account"
    return "more than the likest honest account"


def _suspect(account: Account) -> str:
    course = account.course
    assert course.verdict is not None
    since = f"Suspect since query {course.verdict + 1:,} of {len(course):,}"
    if account.then is not None:
        return f"{since}: {reasons(account.then)}."
    finding = course.findings.get(course.verdict)
    if finding is None or finding.signal == "prada":
        w = course.signals["prada"][course.verdict]
        return f"{since}: {about('prada')}; W fell to {w:.3f}, and below {account.config.prada.delta:g} is suspicious."
    return f"{since}: {finding.signal} reached {finding.statistic:.3g}, and {finding.threshold:.3g} is the threshold."


def _unsuspected(account: Account) -> str:
    course = account.course
    lead = f"No suspect after {count(len(course))}"
    if np.isnan(course.score).all():
        return f"{lead}: too few queries for any test, so nothing is known of him yet."
    at = account.then_row
    if account.then is None:
        w, delta = course.signals["prada"][at], account.config.prada.delta
        return f"{lead}: W was {w:.3f} at its lowest, at query {at + 1:,}, and below {delta:g} is suspicious."
    most, threshold = account.then.unexplained, account.then.threshold
    return (
        f"{lead}: at most {most:.1f} {UNIT} were left unexplained, at query {at + 1:,}, "
        f"and more than {threshold:.1f} is a verdict."
    )


def _basis(account: Account) -> Iterator[str]:
    course = account.course
    if not account.has_profile:
        yield "UNCALIBRATED: honest accounts may be accused, and most kinds of thieves missed."
    yield _weighed(account)
    yield _now(account)
    if account.stands is not None:
        yield f"The last decision on record: {account.stands}."
    if not account.has_profile:
        yield _without_profile(account)
    if course.refused:
        yield f"{count(course.refused)} could not be judged, as the number of features is not that of the others."
    yield from account.notes


def _weighed(account: Account) -> str:
    then = account.then
    if then is None or account.course.verdict is None:
        return ""
    lead = f"The honest account most like this one explains {then.explained:.0%} of what is unusual and leaves"
    if then.explained < _NOTHING:
        lead = "No honest account explains any of what is unusual:"
    return f"{lead} D = {then.unexplained:.1f} {UNIT}; more than {then.threshold:.1f} is a verdict."


def _now(account: Account) -> str:
    now, course = account.now, account.course
    if now is None or course.verdict is None or account.then_row == len(course) - 1:
        return ""
    if now.unexplained > now.threshold:
        return f"After query {len(course):,}, D is {now.unexplained:.1f}."
    latched = " A verdict stands until it is cleared." if course.flagged[-1] else ""
    return f"After query {len(course):,}, D is {now.unexplained:.1f} and would be no verdict.{latched}"


def _without_profile(account: Account) -> str:
    if account.config.mode != "default":
        return "PRADA alone judged, query for query as published (compatible mode); no profile is used there."
    return (
        f"There is no profile for {account.course.model} {account.version}: PRADA alone judged. It sees a thief who "
        "walks in steps from his earlier queries and no other; with a profile (weirguard calibrate) more is measured."
    )
