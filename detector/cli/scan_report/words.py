"""Sentences of a scan report: about each account, and about how reliable the scan is."""

from __future__ import annotations

from collections.abc import Iterator

from detector.cli.explanation.words import count
from detector.core.calibration.calibrate import CONFIDENCE, GROUPS
from detector.core.calibration.scan import ENOUGH, FAMILIES, ScannedAccount
from detector.core.measures import Family
from detector.core.signals.suspicion import CHANGE
from detector.replay.scan import ScannedVersion, ScanReport

LOOKS = {
    "novelty": "queries far from those of all other accounts",
    "unseen_values": "feature values that no other account sends",
    "outlyingness": "combinations of features that no other account sends",
    "surprise": "answers unlike those to similar queries of other accounts",
    "low_margin": "answers of low confidence, as near the decision boundary",
    "high_margin": "answers of higher confidence than those of other accounts",
    "hardness": "queries like those that the model learned late",
    "near_duplicate": "close variants of its own earlier queries",
    "tiny_steps": "steps from its earlier queries much smaller than those of other accounts",
    "one_feature": "one or two features of an earlier query changed at a time",
    "sign_steps": "many features of an earlier query changed by one magnitude, as in gradient-sign steps",
    "parallel_steps": "walks along a line, query after query",
    "missing_features": "features left out",
    "specification_changes": "requests for one model of the zoo after another",
    "crossings": "close variants of its earlier queries that get another answer: a walk across the decision boundary",
    "leaps": "answers that change far over small steps",
    "prada": "distances between its own queries, not distributed as those of other accounts (PRADA)",
    "margin": "too many queries close to the decision boundary",
    CHANGE: "queries unlike its earlier ones",
}
"""Describes the queries of an account with a large deviation in a measure."""

_ADVICE: dict[Family, str] = {
    "content": "a few of its queries beside other accounts': can your application produce such values?",
    "structure": "its queries in order of time, each beside the nearest earlier one: a tool that varies one case "
    "(what-if, price grid, camera), or a search?",
    "outputs": "the answers around that query: honest users seldom query the decision boundary again and again",
    "protocol": "the features it leaves out, or the models it requests: does one of your clients have a reason?",
}
_MOST_REASONS, _LEAST_SHARE, _LEAST = 4, 0.1, 0.5


def headline(report: ScanReport) -> str:
    """Returns how many accounts stand out, of how many."""
    every = [own for version in report.scanned for own in version.scan.accounts]
    number = sum(own.stands_out for own in every)
    if not any(version.scan.enough for version in report.scanned):
        return f"{count(len(every), 'account', 'accounts')}, too few to tell which stand out; they are only ranked"
    return f"{number} of {count(len(every), 'account', 'accounts')} stand{'s' if number == 1 else ''} out"


def reasons(own: ScannedAccount) -> list[str]:
    """Returns the largest deviations, each compared with the closest other account."""
    telling = [part for part in own.parts if part[3] >= max(_LEAST_SHARE * own.unexplained, _LEAST)]
    closest = "the average account" if own.closest is None else own.closest
    return [
        f"{LOOKS[name]}: {name} {score:.1f}, while {closest} reaches {reached:.1f}"
        for name, score, reached, _ in telling[:_MOST_REASONS]
    ]


def look_at(own: ScannedAccount) -> list[str]:
    """Returns advice on what to review."""
    families = dict.fromkeys(FAMILIES[name] for name, _, _, added in own.parts if added >= _LEAST)
    return [_ADVICE[family] for family in families]


def sentence(own: ScannedAccount) -> str:
    """Returns the result for the account in one sentence."""
    if own.crossed is None:
        return f"{own.score:.2f} times the line after {count(own.queries)}"
    with_others = f", once {', '.join(own.like)} does not excuse it" if own.like else ""
    kept = "" if own.left_out else "; it stays in the profile"
    return f"{own.score:.1f} times the line, crossed at query {own.crossed + 1:,} of {own.queries:,}{with_others}{kept}"


def sureness(version: ScannedVersion) -> Iterator[str]:
    """Yields sentences on how reliable the scan is."""
    screened = version.scan.screened
    calibration, achieved = screened.calibration, screened.achieved
    (least, most), threshold = calibration.moves, calibration.profile.standards.threshold
    if not version.scan.enough:
        yield (
            f"With fewer than {ENOUGH} accounts of ten queries or more, the scan only ranks them: it cannot tell which "
            "of them are normal. Scan a log with more accounts."
        )
    some = "any one account" if achieved.accounts <= GROUPS else f"a {GROUPS}th of the accounts"
    yield (
        f"The profile rests on {count(len(calibration.accounts), 'account', 'accounts')}; its threshold is "
        f"{threshold:.1f}, and {least:.1f} to {most:.1f} if made without {some}."
    )
    yield (
        f"It would flag at most {achieved.bound:.1%} of accounts like these, with {CONFIDENCE:.0%} confidence: "
        f"{achieved.flagged} of {achieved.accounts} were flagged when each was judged by the others. The median "
        f"account has {screened.length:,} queries."
    )
    yield (
        "A place in this list is no proof: an honest account with a habit of its own stands out too, and a thief who "
        "sends the same queries as honest accounts does not."
    )


def not_seen(report: ScanReport) -> Iterator[str]:
    """Yields sentences on what was skipped."""
    refused, sieve = report.log.refused, report.log.sieve
    if refused:
        told = ", ".join(f"{reason} {number:,}" for reason, number in refused.most_common(3))
        yield f"{count(refused.total(), 'row', 'rows')} refused: {told}."
    yield from (f"{passed}." for passed in report.passed_over)
    for version in report.scanned:
        if version.traffic.left_out:
            yield f"{version.model} {version.version}: {count(version.traffic.left_out)} of another form."
    if cut := list(sieve.cut()):
        yield (
            f"{count(len(cut), 'account has', 'accounts have')} more than the {sieve.most:,} queries scanned; judge "
            "the rest with weirguard replay and the profile."
        )
