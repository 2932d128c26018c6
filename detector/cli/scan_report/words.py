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
    "novelty": "queries far from everybody else's",
    "unseen_values": "feature values that nobody else sends",
    "outlyingness": "features combined as nobody else combines them",
    "surprise": "answers other than those that similar queries of others get",
    "low_margin": "answers of which the model is hardly sure, as near its decision boundary",
    "high_margin": "answers of which the model is surer than of other accounts'",
    "hardness": "queries like those that the model learned late",
    "near_duplicate": "close variants of its own earlier queries",
    "tiny_steps": "steps from its earlier queries that are much smaller than anybody else's",
    "one_feature": "one or two features of an earlier query changed at a time",
    "sign_steps": "many features of an earlier query moved by one and the same amount, as gradient-sign steps do",
    "parallel_steps": "walks along a line, query after query",
    "missing_features": "features left out",
    "specification_changes": "requests for one model of the zoo after another",
    "crossings": "close variants of its earlier queries that get another answer: a walk across the decision boundary",
    "leaps": "answers that change far over small steps",
    "prada": "distances between its own queries that are not spread as other accounts' are (PRADA's test)",
    "margin": "too many queries close to the decision boundary",
    CHANGE: "another kind of queries than it began with",
}
"""What the queries of an account look like that is extreme in a measure."""

_ADVICE: dict[Family, str] = {
    "content": "a few of its queries beside other accounts': can your application produce such values, and who would?",
    "structure": "its queries in order of time, each beside the nearest earlier one: a tool that varies one case "
    "(what-if, price grid, camera), or a search?",
    "outputs": "the answers around that query: few people ask again and again where the answer flips",
    "protocol": "the features it leaves out, or the models it asks for: does one of your clients have a reason to?",
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
    closest = "the closest ordinary behaviour" if own.closest is None else own.closest
    return [
        f"{LOOKS[name]}: {name} {score:.1f}, where {closest} reaches {reached:.1f}"
        for name, score, reached, _ in telling[:_MOST_REASONS]
    ]


def look_at(own: Standing) -> list[str]:
    """What a reviewer should look at."""
    families = dict.fromkeys(FAMILIES[name] for name, _, _, added in own.parts if added >= _LEAST)
    return [_ADVICE[family] for family in families]


def sentence(own: Standing) -> str:
    """How the account stands, in one sentence."""
    if own.crossed is None:
        return f"{own.score:.2f} times the line after {count(own.queries)}"
    with_others = f", once {', '.join(own.like)} does not excuse it" if own.like else ""
    kept = "" if own.left_out else "; it stays in the profile"
    return f"{own.score:.1f} times the line, crossed at query {own.crossed + 1:,} of {own.queries:,}{with_others}{kept}"


def sureness(version: Scanned) -> Iterator[str]:
    """How sure all that is."""
    screened = version.scan.screened
    calibration, achieved = screened.calibration, screened.achieved
    (least, most), threshold = calibration.moves, calibration.profile.standards.threshold
    if not version.scan.enough:
        yield (
            f"With fewer than {ENOUGH} accounts of ten queries or more the order is all there is: nobody can say which "
            "of them is ordinary. Scan a log of more accounts."
        )
    some = "any one account" if achieved.accounts <= GROUPS else f"a {GROUPS}th of the accounts"
    yield (
        f"The profile rests on {count(len(calibration.accounts), 'account', 'accounts')}; its threshold is "
        f"{threshold:.1f}, and {least:.1f} to {most:.1f} when it is made without {some}."
    )
    yield (
        f"Of accounts like these at most {achieved.bound:.1%} would be flagged by it, with {CONFIDENCE:.0%} "
        f"confidence: {achieved.flagged} of {achieved.accounts} were, each judged by the others, of "
        f"{screened.length:,} queries at the median."
    )
    yield (
        "A place in this list is no proof: an honest account that alone has its habit stands out too, and a thief who "
        "sends what honest accounts send does not."
    )


def not_seen(report: Report) -> Iterator[str]:
    """What was not looked at."""
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
            f"What {count(len(cut), 'account', 'accounts')} asked after the first {sieve.most:,} queries; judge the "
            "rest with weirguard replay and the profile."
        )
