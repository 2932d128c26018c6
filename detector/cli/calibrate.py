"""``weirguard calibrate``: makes a profile of the normal traffic of one model version from honest queries."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.cli.files import bar, check_refused, describe_form, file_for, log_reader, reading_bar, write
from detector.cli.options import Json, Map, OutputKind, SettingsFile
from detector.cli.screen import print_json, print_lines
from detector.contracts.principals import EVERYONE
from detector.core.calibration.calibrate import CONFIDENCE, GROUPS, fewest_to_show
from detector.core.calibration.crossfit import FEWEST_QUERIES

if TYPE_CHECKING:
    from detector.core.calibration.scan import Outlier, Screened
    from detector.replay.calibrate import CalibrationResult, HonestTraffic

FEW_ACCOUNTS = 9
"""With fewer accounts, the tail of honest behaviour is a guess."""
SHORT_HISTORY = 1_000
"""Median number of queries per account below which a note states the length for which the rate holds."""
_SHOWN_MEASURES = 4
_MAX_OPTIONS = 20
"""Maximum number of members of a ring for which the options to exclude them are printed."""


def calibrate(
    *,
    out: Annotated[Path, typer.Option("--out", help="Profile to write.")],
    honest: Annotated[
        list[Path] | None, typer.Option("--honest", help="Log of honest queries, with any files after it.")
    ] = None,
    files: Annotated[list[Path] | None, typer.Argument(help="Further honest logs.", show_default=False)] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Read the last 6h or 7d of the queries topic instead of files.")
    ] = None,
    validation: Annotated[
        Path | None, typer.Option("--validation", help="Log of rows like the training data, for the exposure meters.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="Your model as JSON, as weirguard model export writes it.")
    ] = None,
    budget: Annotated[
        float, typer.Option("--budget", min=1e-6, max=0.5, help="Share of honest accounts that may be flagged.")
    ] = 0.01,
    outputs: Annotated[
        OutputKind | None,
        typer.Option("--outputs", help="Kind of the outputs. [default: the setting, or inferred]"),
    ] = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option("--leave-out", help="Account to exclude because it is not honest.", show_default=False),
    ] = None,
    model_name: Annotated[
        str | None, typer.Option("--model-name", help="Model to calibrate, if the logs hold several.")
    ] = None,
    model_version: Annotated[
        str | None, typer.Option("--model-version", help="Version to calibrate, if the logs hold several.")
    ] = None,
    json: Json = False,
    map_: Map = None,
    settings: SettingsFile = None,
) -> None:
    """Make a profile from honest traffic, with a threshold that flags at most --budget of honest accounts."""
    from detector.replay.calibrate import CalibrationOptions, make_profile, read_files, read_topic
    from detector.runtime.settings import load_settings

    logs = [*(honest or []), *(files or [])]
    if bool(logs) == (since is not None):
        raise typer.BadParameter("name honest logs with --honest, or a time with --since, and not both")
    file_for(out)
    loaded = load_settings(settings)
    reader = log_reader(loaded, map_)
    if since is None:
        with reading_bar("rows", logs) as progress:
            traffic = read_files(logs, progress, reader)
    else:
        from detector.cli.operator import seconds

        traffic = read_topic(loaded.kafka, time.time() - seconds(since))
    kinds = {EVERYONE: outputs} if outputs else loaded.detection.outputs
    options = CalibrationOptions(budget, model_name, model_version, validation, model, leave_out or (), kinds, reader)
    result = make_profile(traffic, options, partial(bar, "accounts"))
    write(out, result.profile.to_bytes())
    if json:
        print_json({"out": str(out)} | _as_json(result, traffic, budget))
    else:
        print_lines(*describe(result, traffic, budget), f"{'profile':<12}{out}, {result.profile.hash}")
    check_refused(traffic.rows, traffic.reasons + Counter(dimension=result.traffic.left_out))


def describe(result: CalibrationResult, traffic: HonestTraffic, budget: float) -> Iterator[str]:
    """Yields the outcome as lines of text."""
    from detector.explain.scan_report import ring_score, ring_sentence

    screened, profile = result.screened, result.profile
    calibration, achieved = screened.calibration, screened.achieved
    least, most = calibration.threshold_range
    skipped = [f"{traffic.dishonest} rows labelled as a thief's"] if traffic.dishonest else []
    skipped += [f"{traffic.refused} rows rejected"] if traffic.refused else []
    left_out = f"; left out: {', '.join(skipped)}" if skipped else ""
    some = "any one account" if achieved.accounts <= GROUPS else f"a {GROUPS}th of the accounts"
    yield f"{'model':<12}{profile.model} {profile.model_version}"
    yield f"{'rests on':<12}{len(calibration.accounts)} accounts and {calibration.queries.sum()} queries{left_out}"
    yield from describe_form(result.traffic)
    for name in screened.left_out:
        yield f"{'left out':<12}{name}, as asked"
    yield f"{'threshold':<12}D = {profile.standards.threshold:.1f} standard deviations of honest accounts"
    yield f"{'':<12}{least:.1f} to {most:.1f} if made without {some}"
    yield f"{'budget':<12}{budget:.3%} of honest accounts may be flagged"
    yield (
        f"{'rate':<12}at most {achieved.bound:.1%} of accounts like these, with {CONFIDENCE:.0%} confidence: "
        f"{achieved.flagged} of {achieved.accounts} were flagged, each judged by the others, of {screened.length} "
        "queries at the median"
    )
    for outlier in screened.outliers:
        yield from _describe_outlier(outlier)
    for ring in result.rings:
        many = len(ring.members) > _MAX_OPTIONS
        options = [f"--leave-out {shlex.quote(name)}" for name in ring.members[: 0 if many else _MAX_OPTIONS]]
        yield f"{'ring':<12}{ring_sentence(ring)}; {ring_score(ring)}"
        yield f"{'':<12}if kept, they excuse one another, and thieves like them. To exclude them:"
        yield f"{'':<12}{' '.join(options) or '--leave-out for each of the members that --json lists'}"
    for line in _warnings(screened, budget):
        yield f"{'note':<12}{line}"


def _as_json(result: CalibrationResult, traffic: HonestTraffic, budget: float) -> dict[str, Any]:
    """Returns the outcome as data."""
    profile, screened = result.profile, result.screened
    return {
        "profile": profile.hash,
        "model": profile.model,
        "model_version": profile.model_version,
        "threshold": profile.standards.threshold,
        **profile.provenance,
        "left_out": list(screened.left_out),
        "rows_dishonest": traffic.dishonest,
        "rows_refused": traffic.refused,
        "outliers": [
            {
                "account": account.name,
                "largest": account.largest,
                "allowed": account.allowed,
                "added": dict(account.contributions),
                "suspect": account.suspect,
                "excused": list(account.excused),
            }
            for account in screened.outliers
        ],
        "rings": [{"members": list(ring.members), "score": ring.merged.score} for ring in result.rings],
        "notes": list(_warnings(screened, budget)),
    }


def _describe_outlier(outlier: Outlier) -> Iterator[str]:
    """Yields lines on an account that stands out, and the cost of keeping or excluding it."""
    added = ", ".join(f"{name} {value:.1f}" for name, value in outlier.contributions[:_SHOWN_MEASURES])
    odd = f"; extreme in {' and '.join(outlier.families)}, like a thief" if outlier.suspect else ""
    yield (
        f"{'stands out':<12}{outlier.name}: {outlier.largest:.1f} where the others allow {outlier.allowed:.1f} "
        f"({added}){odd}"
    )
    yield f"{'':<12}if kept, it excuses any account as extreme in {outlier.contributions[0][0]}, including a thief"
    names, rest = outlier.excused[:_SHOWN_MEASURES], len(outlier.excused) - _SHOWN_MEASURES
    more = f" and {rest} more" if rest > 0 else ""
    others = f", and with them {', '.join(names)}{more}" if names else ""
    yield f"{'':<12}with --leave-out {shlex.quote(outlier.name)}, accounts like it are flagged{others}"


def _warnings(screened: Screened, budget: float) -> Iterator[str]:
    achieved, short = screened.achieved, int((~screened.calibration.long).sum())
    if achieved.accounts < FEW_ACCOUNTS:
        yield (
            f"{achieved.accounts} accounts are few, so the threshold is a guess. Variety of accounts matters more "
            "than their number: add users with other habits"
        )
    if short:
        yield (
            f"accounts with fewer than {FEWEST_QUERIES} different queries: {short}. They count as honest traffic, but "
            "not for the rate"
        )
    if screened.length < SHORT_HISTORY:
        yield (
            f"the rate holds for accounts with about {screened.length} queries. Accounts with many more queries are "
            "flagged more often: calibrate on longer logs if you have them"
        )
    if achieved.bound > budget:
        yield (
            f"so few accounts cannot show that the budget is met: the true rate may be up to {achieved.bound:.1%}. It "
            f"takes {fewest_to_show(budget):,} accounts of which none is flagged. The threshold assumes that the "
            "outermost fifth of honest accounts has an exponential tail"
        )
