"""``weirguard evaluate``: which attacks are caught, when, and how good the thief's clone was by then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from detector.cli.files import bar, folder_for, reading_bar
from detector.cli.options import SettingsFile
from detector.cli.screen import console, print_lines, print_note, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detector.core.configuration import EngineConfig
    from detector.core.profile import Profile
    from detector.lab.evaluation.costs import ThiefCost
    from detector.lab.evaluation.results import Evaluation
    from detector.lab.evaluation.suite import SuiteProgress
    from detector.policy.config import Policy

LOGS, JUDGED = "logs", "judged"
ADAPTIVE = "adaptive"


SuiteName = Literal["quick", "adaptive", "full"]


def evaluate(
    out: Annotated[Path, typer.Option("--out", help="Folder for the report, and for the logs of a suite.")],
    files: Annotated[
        list[Path] | None, typer.Argument(help="Labelled logs, from weirguard redteam.", show_default=False)
    ] = None,
    suite: Annotated[
        SuiteName | None,
        typer.Option("--suite", help="Make the logs first: quick and adaptive take minutes, full takes hours."),
    ] = None,
    so_far: Annotated[
        bool, typer.Option("--so-far", help="Report on the logs that the suite has made, without making more.")
    ] = False,
    profile: Annotated[
        list[Path] | None,
        typer.Option("--profile", help="Profile of a log's model version, from weirguard calibrate."),
    ] = None,
    settings: SettingsFile = None,
) -> None:
    """Report which attacks the detector catches, when, and how good the thief's clone was by then.

    Each log is judged separately, as the service would judge it. A suite that was stopped resumes. The exit status is 1
    if plans of the suite failed. The suite of adaptive thieves is judged with a profile for each of its victims, and
    prints what it costs each thief to stay unseen.
    """
    from detector.lab.evaluation.costs import thief_costs
    from detector.lab.evaluation.report import headline, write_reports
    from detector.runtime.settings import load_settings
    from detector.stream.detection_config import engine_config, policy_config, read_profiles

    _check(files, suite, so_far)
    folder_for(out)
    given = read_profiles(profile or ()) or (_profiles() if suite == ADAPTIVE else ())
    loaded = load_settings(settings)
    config, policy = engine_config(loaded), policy_config(loaded)
    config = replace(config, profiles=given) if given else config
    done = None if suite is None else _suite(suite, out / LOGS, so_far)
    evaluation = _judged(done.logs if done else files or [], out / JUDGED, config, policy)
    evaluation = replace(evaluation, gaps=done.gaps if done else ())
    costs = thief_costs(evaluation.attacks) if suite == ADAPTIVE else ()
    write_reports(evaluation, out, costs)
    if costs:
        _print_costs(costs, evaluation)
    summary = f"{headline(evaluation)}. See {out / 'report.html'}."
    print_note(" ".join([summary, *evaluation.gaps]))
    if done and done.failed:
        raise typer.Exit(1)


def _check(files: Sequence[Path] | None, suite: SuiteName | None, so_far: bool) -> None:
    if bool(files) == (suite is not None):
        raise typer.BadParameter("name log files, or a suite with --suite, and not both")
    if so_far and suite is None:
        raise typer.BadParameter("--so-far needs a suite; name one with --suite")


def _profiles() -> tuple[Profile, ...]:
    """Returns the profile of each victim of the adaptive suite."""
    from detector.lab.evaluation.suite import ADAPTIVE_TARGETS
    from detector.lab.shadow import owner_profile

    profiles = []
    with bar("profiles", len(ADAPTIVE_TARGETS)) as progress:
        for victim, dataset in ADAPTIVE_TARGETS:
            profiles.append(owner_profile(dataset, victim))
            progress(1)
    return tuple(profiles)


def _print_costs(costs: Sequence[ThiefCost], evaluation: Evaluation) -> None:
    from detector.lab.evaluation.report import cost_tables

    for cost_text in cost_tables(costs):
        console().print(table(cost_text.head, cost_text.rows, cost_text.texts))
    if evaluation.all_honest:
        honest = evaluation.all_honest
        print_lines(f"honest accounts flagged: {honest.flagged:,} of {honest.accounts:,}")


def _suite(suite: SuiteName, folder: Path, so_far: bool) -> SuiteProgress:
    from detector.lab.evaluation.suite import make_logs, plans_of, progress_of

    plans = plans_of(suite)
    if not so_far:
        with bar("logs", len(plans)) as progress:
            make_logs(plans, folder, progress)
    return progress_of(plans, folder)


def _judged(logs: Sequence[Path], folder: Path, config: EngineConfig, policy: Policy) -> Evaluation:
    from detector.core.signals import SIGNALS
    from detector.lab.evaluation.judging import judge_once
    from detector.lab.evaluation.results import evaluation_of

    with reading_bar("queries", logs) as progress:
        judged = [
            judge_once(log, folder, engine_config=config, policy=policy, progress=progress, must_fit=config.profiles)
            for log in logs
        ]
    signals = tuple(SIGNALS)
    detector = f"{', '.join(signals)} in {config.mode} mode, configuration {config.configuration_hash()}"
    return evaluation_of(judged, detector, signals)
