"""``weirguard calibrate``: honest traffic to a profile, which says what is ordinary for one model version."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.cli.output_files import file_for, write
from detector.cli.replay import bar, rows_in
from detector.cli.screen import console, say

if TYPE_CHECKING:
    from rich.console import Console

    from detector.cli.calibrating import Made
    from detector.cli.honest import Traffic
    from detector.core.calibration.achieved import Achieved
    from detector.core.calibration.suspects import Outlier

FEW = 9
"""With fewer accounts the tail of honest behaviour is a guess."""
_SHOWN = 4


def calibrate(
    *,
    out: Annotated[Path, typer.Option("--out", help="Profile to write.")],
    honest: Annotated[
        list[Path] | None, typer.Option("--honest", help="Log of honest queries; those named after it count too.")
    ] = None,
    files: Annotated[list[Path] | None, typer.Argument(help="Further honest logs.", show_default=False)] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Instead of files: the last 6h or 7d of the queries topic.")
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
    keep: Annotated[
        list[str] | None, typer.Option("--keep", help="Account that stays whatever it looks like.", show_default=False)
    ] = None,
    model_name: Annotated[str | None, typer.Option("--model-name", help="Of the models in the logs.")] = None,
    model_version: Annotated[str | None, typer.Option("--model-version", help="Of the versions in the logs.")] = None,
    settings: Annotated[Path | None, typer.Option("--settings", help="YAML file; WEIRGUARD_* variables win.")] = None,
) -> None:
    """Learn from honest traffic what is ordinary, so that no more than --budget of honest accounts are flagged."""
    from detector.cli.calibrating import Request, make_profile

    logs = [*(honest or []), *(files or [])]
    if bool(logs) == (since is not None):
        raise typer.BadParameter("name honest logs with --honest, or a time with --since, and not both")
    file_for(out)
    screen = console(stderr=True)
    traffic = _read(screen, logs) if since is None else _hear(since, settings)
    request = Request(budget, model_name, model_version, validation, model, keep or ())
    with bar(screen, "accounts", None) as progress:
        made = make_profile(traffic, request, progress)
    write(out, made.profile.to_bytes())
    say(*told(made, traffic, budget), f"{'profile':<12}{out}, {made.profile.hash}")


def told(made: Made, traffic: Traffic, budget: float) -> Iterator[str]:
    """The outcome in lines for people."""
    screened, profile = made.screened, made.profile
    achieved, threshold = screened.achieved, profile.standards.threshold
    yield f"{'model':<12}{profile.model} {profile.model_version}"
    yield f"{'rests on':<12}{achieved.accounts} accounts and {made.queries} queries{_not_used(traffic)}"
    yield f"{'threshold':<12}{threshold:.1f} standard deviations that no honest account explains"
    yield f"{'budget':<12}{budget:.3%} of honest accounts may be flagged"
    yield f"{'achieved':<12}{_achieved(achieved)}"
    for outlier in screened.left_out:
        yield f"{'left out':<12}{_outlier(outlier)}; extreme in {' and '.join(outlier.families)}, as a thief would be"
    if screened.left_out:
        yield f"{'':<12}look at what they asked; --keep NAME keeps an account"
    for outlier in screened.kept:
        yield f"{'stands out':<12}{_outlier(outlier)}"
    for line in _warnings(achieved, budget):
        yield f"{'note':<12}{line}"


def _achieved(achieved: Achieved) -> str:
    low, high = achieved.interval
    return (
        f"{achieved.flagged} of {achieved.accounts} accounts flagged, each judged by the others: {achieved.rate:.1%}, "
        f"95 percent interval {low:.1%} to {high:.1%}"
    )


def _outlier(outlier: Outlier) -> str:
    added = ", ".join(f"{name} {value:.1f}" for name, value in outlier.added[:_SHOWN])
    return f"{outlier.name}: {outlier.largest:.1f} where the others allow {outlier.allowed:.1f} ({added})"


def _warnings(achieved: Achieved, budget: float) -> Iterator[str]:
    high = achieved.interval[1]
    if achieved.accounts < FEW:
        yield (
            f"{achieved.accounts} accounts are few, and the threshold a guess. Variety of accounts matters more than "
            "their number: add users with other habits"
        )
    if high > budget:
        yield (
            f"so few accounts cannot show that the budget is met: the true rate may be up to {high:.0%}. The threshold "
            "assumes that the outermost fifth of honest accounts thins out exponentially"
        )


def _not_used(traffic: Traffic) -> str:
    dishonest = [f"{traffic.dishonest} rows that their log labels as a thief's"] if traffic.dishonest else []
    refused = [f"{traffic.refused} rows that are no queries"] if traffic.refused else []
    return "; left out: " + ", ".join(dishonest + refused) if dishonest + refused else ""


def _read(screen: Console, logs: list[Path]) -> Traffic:
    from detector.cli.honest import read_files

    with bar(screen, "rows", rows_in(logs)) as progress:
        return read_files(logs, progress)


def _hear(since: str, settings: Path | None) -> Traffic:
    from detector.cli.honest import read_topic
    from detector.cli.operator import seconds
    from detector.runtime.settings import load_settings

    return read_topic(load_settings(settings).kafka, time.time() - seconds(since))
