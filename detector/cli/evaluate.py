"""``weirguard evaluate``: which attacks are caught, when, and what had the thief got by then."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.cli.replay import bar, configuration, rows_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from detector.core.configuration import EngineConfig
    from detector.lab.evaluation.results import Evaluation
    from detector.policy.config import Policy

LOGS = "logs"


class SuiteName(StrEnum):
    """What ``--suite`` takes."""

    QUICK = "quick"
    FULL = "full"


def evaluate(
    out: Annotated[Path, typer.Option("--out", help="Folder for the report, and for the logs of a suite.")],
    files: Annotated[
        list[Path] | None, typer.Argument(help="Labelled logs, as weirguard redteam writes them.", show_default=False)
    ] = None,
    suite: Annotated[
        SuiteName | None, typer.Option("--suite", help="Make the logs: quick takes minutes, full takes hours.")
    ] = None,
    settings: Annotated[Path | None, typer.Option("--settings", help="YAML file; WEIRGUARD_* variables win.")] = None,
) -> None:
    """Say which attacks the detector catches, when, and what the thief had got by then.

    Each log is judged by itself, as the service would. A suite that was stopped goes on where it was.
    """
    from rich.console import Console

    from detector.lab.evaluation.report import write_reports
    from detector.lab.evaluation.words import headline

    console = Console(stderr=True)
    engine_config, policy = configuration(settings)
    logs = _logs(console, files or [], suite, out / LOGS)
    evaluation = _judged(console, logs, engine_config, policy)
    write_reports(evaluation, out)
    console.print(f"{headline(evaluation)}. See {out / 'report.html'}.", highlight=False, soft_wrap=True)


def _logs(console: Console, files: Sequence[Path], suite: SuiteName | None, folder: Path) -> Sequence[Path]:
    if suite is None and files:
        return files
    if suite is None or files:
        raise typer.BadParameter("name log files, or a suite with --suite, and not both")
    return _made(console, suite, folder)


def _made(console: Console, suite: SuiteName, folder: Path) -> Sequence[Path]:
    from detector.lab.evaluation.suite import make_logs, plans_of

    plans = plans_of(suite.value)
    with bar(console, "logs", len(plans)) as progress:
        logs = make_logs(plans, folder, progress)
    if unfit := len(plans) - len(logs):
        console.print(
            f"{unfit} of {len(plans)} plans have an attack that cannot handle the victim; see {folder}/*.txt."
        )
    return logs


def _judged(console: Console, logs: Sequence[Path], engine_config: EngineConfig, policy: Policy) -> Evaluation:
    from detector.core.signals import SIGNALS
    from detector.lab.evaluation.judging import judge_labelled
    from detector.lab.evaluation.results import evaluation_of

    with bar(console, "queries", rows_in(logs)) as progress:
        judged = [judge_labelled(log, engine_config=engine_config, policy=policy, progress=progress) for log in logs]
    signals = tuple(SIGNALS)
    detector = f"{', '.join(signals)} in {engine_config.mode} mode, configuration {engine_config.configuration_hash()}"
    return evaluation_of(judged, detector, signals)
