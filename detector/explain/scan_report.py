"""The report of a scan: in sentences, as JSON, and as an HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

import detector
from detector.contracts.findings import Family
from detector.core.calibration.calibrate import CONFIDENCE, GROUPS
from detector.core.calibration.scan import ENOUGH, ScannedAccount
from detector.core.configuration import EngineConfig
from detector.core.profile import Profile
from detector.core.signals.suspicion import CHANGE, FAMILIES
from detector.explain import plots
from detector.explain.explanation import Explanation, explanation_of
from detector.explain.page import render
from detector.explain.tables import TextTable
from detector.explain.words import count, number
from detector.policy.config import Policy
from detector.replay.principal import replay_principal
from detector.replay.rings import FoundRing
from detector.replay.scan import ScannedVersion, ScanReport, times
from detector.runtime.text import rfc3339

DESCRIPTIONS = {
    "novelty": "queries far from those of all other accounts",
    "unseen_values": "feature values that no other account sends",
    "outlyingness": "combinations of features that no other account sends",
    "synthetic": "queries that look put together from those of other accounts, more scattered than any one's",
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
    "recombination": "queries put together from values of its earlier ones",
    "interpolation": "queries between two of its earlier ones",
    "prada": "distances between its own queries, not distributed as those of other accounts (PRADA)",
    "margin": "too many queries close to the decision boundary",
    CHANGE: "queries unlike its earlier ones",
    "extreme_content": "single queries unlike those of all other accounts, among ordinary ones",
    "extreme_interpolation": "single queries between two of its earlier ones, among ordinary ones",
    "extreme_steps": "many features of an earlier query changed by one magnitude now and then, among ordinary queries",
}
"""Describes the queries of an account with a large deviation in a measure."""

_ADVICE: dict[Family, str] = {
    "content": "a few of its queries beside other accounts': can your application produce such values?",
    "structure": "its queries in order of time, each beside the nearest earlier one: a tool that varies one case "
    "(what-if, price grid, camera), or a search?",
    "outputs": "the answers around that query: honest users seldom query the decision boundary again and again",
    "protocol": "the features it leaves out, or the models it requests: does one of your clients have a reason?",
}
_MAX_NAMED_MEMBERS = 12
"""Maximum number of members that a sentence names."""
_MOST_REASONS, _LEAST_SHARE, _LEAST = 4, 0.1, 0.5
_LEAST_ADDED = 0.05
_DRAWN, _MEASURES = 20, 2
"""Maximum number of accounts with plots, and of measures in each."""
_MAX_LISTED_ACCOUNTS = 1_000
_HEAD = ("account", "largest contributions", "times the line", "queries", "crossed at", "first", "last")


def headline(report: ScanReport) -> str:
    """Returns the sentence on how many of all accounts stand out."""
    every = [account for version in report.scanned for account in version.scan.accounts]
    number = sum(account.stands_out for account in every)
    if not any(version.scan.enough for version in report.scanned):
        return f"{count(len(every), 'account', 'accounts')}, too few to tell which stand out; they are only ranked"
    rings = [f", {len(ring.members)} look like one thief" for version in report.scanned for ring in version.rings]
    return (
        f"{number} of {count(len(every), 'account', 'accounts')} stand{'s' if number == 1 else ''} out{''.join(rings)}"
    )


def ring_sentence(ring: FoundRing) -> str:
    """Returns the members of the ring in one sentence."""
    names, more = ", ".join(ring.members[:_MAX_NAMED_MEMBERS]), len(ring.members) - _MAX_NAMED_MEMBERS
    return f"{len(ring.members)} accounts look like one thief: {names}{f' and {more:,} more' if more > 0 else ''}"


def ring_score(ring: FoundRing) -> str:
    """Returns how far the queries of the ring stand out together, in one sentence."""
    merged = ring.merged
    crossed = 0 if merged.crossed is None else merged.crossed + 1
    return (
        f"taken as one account, their {count(merged.queries)} are {merged.score:.1f} times the line, crossed at query "
        f"{crossed:,}"
    )


def reasons(account: ScannedAccount) -> list[str]:
    """Returns the largest deviations, each compared with the closest other account."""
    large = [part for part in account.parts if part[3] >= max(_LEAST_SHARE * account.unexplained, _LEAST)]
    closest = "the average account" if account.closest is None else account.closest
    return [
        f"{DESCRIPTIONS[name]}: {name} {score:.1f}, while {closest} reaches {reached:.1f}"
        for name, score, reached, _ in large[:_MOST_REASONS]
    ]


def look_at(account: ScannedAccount) -> list[str]:
    """Returns advice on what to review."""
    families = dict.fromkeys(FAMILIES[name] for name, _, _, added in account.parts if added >= _LEAST)
    return [_ADVICE[family] for family in families]


def sentence(account: ScannedAccount) -> str:
    """Returns the result for the account in one sentence."""
    if account.crossed is None:
        return f"{account.score:.2f} times the line after {count(account.queries)}"
    with_others = f", once {', '.join(account.not_excused_by)} does not excuse it" if account.not_excused_by else ""
    note = "" if account.left_out else "; it stays in the profile"
    crossed = f"crossed at query {account.crossed + 1:,} of {account.queries:,}"
    return f"{account.score:.1f} times the line, {crossed}{with_others}{note}"


def reliability(version: ScannedVersion) -> Iterator[str]:
    """Yields sentences on how reliable the scan is."""
    screened = version.scan.screened
    calibration, achieved = screened.calibration, screened.achieved
    (least, most), threshold = calibration.threshold_range, calibration.profile.standards.threshold
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


def skipped(report: ScanReport) -> Iterator[str]:
    """Yields sentences on what was skipped."""
    refused, sieve = report.log.refused, report.log.sieve
    if refused:
        named = ", ".join(f"{reason} {number:,}" for reason, number in refused.most_common(3))
        yield f"{count(refused.total(), 'row', 'rows')} refused: {named}."
    yield from (f"{passed}." for passed in report.skipped)
    for version in report.scanned:
        if version.traffic.left_out:
            yield f"{version.model} {version.version}: {count(version.traffic.left_out)} of another form."
    if cut := list(sieve.cut()):
        yield (
            f"{count(len(cut), 'account has', 'accounts have')} more than the {sieve.most:,} queries scanned; judge "
            "the rest with weirguard replay and the profile."
        )


def record(report: ScanReport, profiles: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """Returns the content of ``scan.json``. ``profiles``: the file name for each model version."""
    accounts = [_account_json(version, account) for version in report.scanned for account in version.scan.accounts]
    return {
        "code_version": detector.__version__,
        "rows_count_from": 1,
        "budget": report.budget,
        "confidence": CONFIDENCE,
        "data": report.log.digests,
        "queries": sum(report.log.sieve.seen.values()),
        "refused": report.log.refused.total(),
        "refused_reasons": dict(report.log.refused.most_common()),
        "notes": list(skipped(report)),
        "models": [_model_json(version, profiles[version.model, version.version]) for version in report.scanned],
        "accounts": sorted(accounts, key=lambda account: -account["score"]),
        "rings": [_ring_json(version, ring) for version in report.scanned for ring in version.rings],
    }


def _ring_json(version: ScannedVersion, ring: FoundRing) -> dict[str, Any]:
    spans = [times(version.accounts[name]) for name in ring.members]
    merged = ring.merged
    return {
        "model": version.model,
        "model_version": version.version,
        "members": list(ring.members),
        "score": merged.score,
        "reasons": reasons(merged),
        "queries": sum(version.query_counts[name] for name in ring.members),
        "queries_looked_at": merged.queries,
        "crossed_at_query": None if merged.crossed is None else merged.crossed + 1,
        "first_at": rfc3339(min(first for first, _ in spans)),
        "last_at": rfc3339(max(last for _, last in spans)),
    }


def _model_json(version: ScannedVersion, profile: str) -> dict[str, Any]:
    screened = version.scan.screened
    calibration, achieved = screened.calibration, screened.achieved
    reference, (least, most) = calibration.profile.reference, calibration.threshold_range
    return {
        "model": version.model,
        "model_version": version.version,
        "form": {
            "features": reference.dimension,
            "feature_names": None if version.traffic.form.fields is None else list(version.traffic.form.columns or ()),
            "outputs": version.traffic.form.outputs,
            "outputs_width": int(reference.outputs.shape[1]),
        },
        "accounts": len(version.accounts),
        "accounts_left_out": len(screened.left_out),
        "accounts_too_short": int((~calibration.long).sum()),
        "accounts_enough": version.scan.enough,
        "queries": sum(version.query_counts.values()),
        "queries_of_another_form": version.traffic.left_out,
        "queries_median": screened.length,
        "threshold": calibration.profile.standards.threshold,
        "threshold_low": least,
        "threshold_high": most,
        "flagged": achieved.flagged,
        "of_accounts": achieved.accounts,
        "bound": achieved.bound,
        "confidence": CONFIDENCE,
        "profile": profile,
    }


def _account_json(version: ScannedVersion, account: ScannedAccount) -> dict[str, Any]:
    queries = version.accounts[account.name]
    first, last = times(queries)
    crossed = account.crossed
    return {
        "principal": account.name,
        "model": version.model,
        "model_version": version.version,
        "stands_out": account.stands_out,
        "score": account.score,
        "reasons": reasons(account),
        "look_at": look_at(account),
        "queries": version.query_counts[account.name],
        "queries_looked_at": account.queries,
        "crossed_at_query": None if crossed is None else crossed + 1,
        "crossed_at": None if crossed is None else rfc3339(float(queries.occurred_at[crossed])),
        "farthest_at_query": account.row + 1,
        "first_at": rfc3339(first),
        "last_at": rfc3339(last),
        "unexplained": account.unexplained,
        "line": account.line,
        "closest": account.closest,
        "without_excuse_of": list(account.not_excused_by),
        "left_out_of_profile": account.left_out,
        "measures": [
            {"measure": name, "score": score, "closest": reached, "adds": added}
            for name, score, reached, added in account.parts
            if added >= _LEAST_ADDED
        ],
    }


def page(report: ScanReport) -> str:
    """Returns the report as one HTML page."""
    versions = [_version_section(version) for version in report.scanned]
    return render("scan.html", heading=f"Scan: {headline(report)}", skipped=skipped(report), versions=versions)


def _version_section(version: ScannedVersion) -> dict[str, Any]:
    out = [account for account in version.scan.accounts if account.stands_out]
    rest = [account for account in version.scan.accounts if not account.stands_out]
    more = len(rest) - _MAX_LISTED_ACCOUNTS
    return {
        "name": f"{version.model} {version.version}",
        "table": _account_table(version, out),
        "rings": [_ring_section(ring) for ring in version.rings],
        "reliability": reliability(version),
        "suspects": [_suspect_section(version, account, drawn=at < _DRAWN) for at, account in enumerate(out)],
        "others": _account_table(version, rest[:_MAX_LISTED_ACCOUNTS]),
        "more": count(more, "more is", "more are") if more > 0 else "",
    }


def _ring_section(ring: FoundRing) -> dict[str, Any]:
    return {
        "sentence": f"{ring_sentence(ring)}; {ring_score(ring)}",
        "reasons": reasons(ring.merged),
        "members": ring.members if len(ring.members) > _MAX_NAMED_MEMBERS else (),
    }


def _suspect_section(version: ScannedVersion, account: ScannedAccount, *, drawn: bool) -> dict[str, Any]:
    explanation = _explanation(version, account) if drawn and account.left_out else None
    closest = "closest average" if account.closest is None else f"closest account, {account.closest}"
    rows = [
        (name, number(score), number(reached), number(added))
        for name, score, reached, added in account.parts
        if round(added, 1)
    ]
    rows.append(("sum", "", "", number(account.unexplained)))
    return {
        "name": account.name,
        "sentence": sentence(account),
        "reasons": reasons(account),
        "look_at": look_at(account),
        "table": TextTable(("measure", "this account", closest, "contribution"), rows, 1),
        "query": f"{account.row + 1:,}",
        "suspicion": explanation and plots.suspicion(explanation),
        "measures": [] if explanation is None else plots.measures(explanation)[:_MEASURES],
    }


def _account_table(version: ScannedVersion, accounts: list[ScannedAccount]) -> TextTable:
    return TextTable(_HEAD, [_account_row(version, account) for account in accounts], 2)


def _account_row(version: ScannedVersion, account: ScannedAccount) -> tuple[str, ...]:
    first, last = (rfc3339(time)[:16].replace("T", " ") for time in times(version.accounts[account.name]))
    crossed = "-" if account.crossed is None else f"{account.crossed + 1:,}"
    largest = ", ".join(f"{name} {number(added)}" for name, _, _, added in account.parts[:2] if round(added, 1))
    return (
        account.name,
        largest or "-",
        f"{account.score:.2f}",
        f"{version.query_counts[account.name]:,}",
        crossed,
        first,
        last,
    )


def _explanation(version: ScannedVersion, account: ScannedAccount) -> Explanation:
    """Returns the account, judged by the profile without it and against its own line."""
    queries = version.accounts[account.name]
    profile: Profile = version.scan.screened.calibration.profile
    standards = replace(profile.standards, threshold=account.line)
    config = EngineConfig(profiles=(replace(profile, standards=standards, validation=None),))
    replay = replay_principal([(queries, np.maximum.accumulate(queries.occurred_at))], config, Policy())
    return explanation_of(replay, config, "", records=())
