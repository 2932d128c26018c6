"""What a scan says of an account and of itself, in sentences for who reviews it."""

from __future__ import annotations

from collections.abc import Iterator

from detector.cli.explanation.words import count
from detector.cli.scanning import Report, Scanned
from detector.core.calibration.achieved import CONFIDENCE
from detector.core.calibration.calibrate import GROUPS
from detector.core.calibration.scanning import ENOUGH, Standing
from detector.core.calibration.suspects import FAMILIES
from detector.core.measure import Family
from detector.core.scoring import CHANGE

LOOKS = {
    "novelty": "its queries lie farther from everybody else's than those of other accounts",
    "unseen_values": "its features take values that nobody else sends",
    "outlyingness": "it combines feature values as nobody else does",
    "surprise": "the model answers it otherwise than it answers others for similar queries",
    "low_margin": "the model is hardly sure of its answers: the queries lie near the decision boundary",
    "high_margin": "the model is surer of its answers than it is for other accounts",
    "hardness": "its queries are like those that the model learned late",
    "near_duplicate": "its queries are close variants of its own earlier ones",
    "tiny_steps": "it moves from its earlier queries by steps much smaller than anybody else's",
    "one_feature": "it changes one or two features of an earlier query at a time",
    "sign_steps": "it moves many features of an earlier query by one and the same amount, as gradient-sign steps do",
    "parallel_steps": "it walks along a line, query after query",
    "missing_features": "it leaves features out",
    "specification_changes": "it asks for one model of the zoo after another",
    "crossings": "close variants of its earlier queries get another answer: it crosses the decision boundary again and again",
    "leaps": "the model's answers to it change far over small steps",
    "prada": "distances between its own queries are not spread as other accounts' are (PRADA's test)",
    "margin": "too many of its queries lie close to the decision boundary",
    CHANGE: "it asks another kind of queries than it began with",
}
"""What the queries of an account look like that is extreme in a measure."""

_ADVICE: dict[Family, str] = {
    "content": "compare a few of its queries with other accounts': can your application produce such values, and who would?",
    "structure": "put its queries in order of time and compare each with the nearest earlier one: a tool that varies one "
    "case (what-if, price grid, camera), or a search?",
    "outputs": "look at the answers around the query named: few people ask again and again where the answer flips",
    "protocol": "look at which features it leaves out, or which models it asks for: has a client of yours a reason?",
}
_MOST_REASONS, _LEAST_SHARE, _LEAST = 4, 0.1, 0.5


def headline(report: Report) -> str:
    """How many accounts stand out, of how many."""
    every = [own for version in report.scanned for own in version.scan.standings]
    number = sum(own.stands_out for own in every)
    if not any(version.scan.enough for version in report.scanned):
        return f"{count(len(every), 'account', 'accounts')}, too few to say who stands out: they are ranked"
    return f"{number} of {count(len(every), 'account', 'accounts')} stand{'s' if number == 1 else ''} out"


def reasons(own: Standing) -> list[str]:
    """What sets the account apart, most first, each beside the closest other account."""
    telling = [part for part in own.parts if part[3] >= max(_LEAST_SHARE * own.unexplained, _LEAST)]
    closest = "the closest ordinary behaviour" if own.closest is None else f"the closest other account, {own.closest},"
    return [
        f"{LOOKS[name]} ({name} {score:.1f} standard deviations; {closest} reaches {reached:.1f})"
        for name, score, reached, _ in telling[:_MOST_REASONS]
    ]


def look_at(own: Standing) -> list[str]:
    """What a reviewer should look at."""
    families = dict.fromkeys(FAMILIES[name] for name, _, _, added in own.parts if added >= _LEAST)
    return [_ADVICE[family] for family in families]


def sentence(own: Standing) -> str:
    """How the account stands, in one sentence."""
    asked = f"{count(own.queries)}"
    if own.crossed is None:
        return f"{own.score:.2f} of the line after {asked}"
    with_others = f", once {', '.join(own.like)} does not excuse it" if own.like else ""
    kept = "" if own.left_out else "; it stays in the profile"
    return f"{own.score:.1f} times the line, crossed at query {own.crossed + 1:,} of {own.queries:,}{with_others}{kept}"


def sureness(version: Scanned) -> Iterator[str]:
    """How sure all that is."""
    screened = version.scan.screened
    calibration, achieved = screened.calibration, screened.achieved
    least, most = calibration.moves
    accounts = len(calibration.accounts)
    if not version.scan.enough:
        yield (
            f"With fewer than {ENOUGH} accounts of ten queries or more the order is all there is: nobody can say which of "
            "them is ordinary. Scan a log of more accounts."
        )
    some = "any one account" if achieved.accounts <= GROUPS else f"a {GROUPS}th of the accounts"
    yield (
        f"The profile rests on {accounts} accounts and has a threshold of {calibration.profile.standards.threshold:.1f}, "
        f"{least:.1f} to {most:.1f} when it is made without {some}. An account's line is the threshold that all others "
        "give, farther where its evidence is of one kind alone or accounts are few."
    )
    yield (
        f"Of accounts like these at most {achieved.bound:.1%} would be flagged by it, with {CONFIDENCE:.0%} confidence: "
        f"{achieved.flagged} of {achieved.accounts} were, each judged by the others, of {screened.length:,} queries at the "
        "median."
    )
    yield (
        "A rank is no proof: an honest account that alone has its habit stands out too, and thieves who send what honest "
        "accounts send, or many who share one habit, do not."
    )


def not_seen(report: Report) -> Iterator[str]:
    """What was not looked at."""
    if report.log.refused:
        told = ", ".join(f"{reason} {number:,}" for reason, number in report.log.refused.most_common(3))
        yield f"{count(report.log.refused.total(), 'row', 'rows')} refused: {told}."
    yield from (f"{passed}." for passed in report.passed_over)
    for version in report.scanned:
        if version.other_form:
            yield f"{version.model} {version.version}: {count(version.other_form)} of another form not looked at."
    cut = list(report.log.sieve.cut())
    if cut:
        most = report.log.sieve.most
        yield (
            f"{count(len(cut), 'account', 'accounts')} asked more than {most:,} queries, of which the first {most:,} were "
            "looked at; judge the rest with weirguard replay and the profile."
        )
