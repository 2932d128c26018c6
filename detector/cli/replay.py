"""``weirguard replay``: judge recorded queries from files, without Kafka."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace as changed
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.cli.logs import LOGS, Map, check_refused, files_in, reading
from detector.cli.options import Json
from detector.cli.output_files import folder_for
from detector.cli.screen import console, note, say_json
from detector.contracts.principals import EVERYONE

if TYPE_CHECKING:
    from rich.console import Console

    from detector.core.configuration import EngineConfig
    from detector.core.profile.profile import Profile
    from detector.policy.config import Policy


_NAMED = 3
"""Maximum number of model versions in a warning."""


class ModeName(StrEnum):
    """Values of ``--mode``."""

    COMPATIBLE = "compatible"
    DEFAULT = "default"


class OutputsName(StrEnum):
    """Values of ``--outputs``."""

    PROBABILITY = "probability"
    SCORE = "score"
    LABEL = "label"
    PROBABILITIES = "probabilities"
    NONE = "none"


def replay(
    *,
    files: Annotated[list[Path], typer.Argument(help=LOGS, show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder for verdicts, alerts and the summary.")],
    mode: Annotated[
        ModeName | None,
        typer.Option("--mode", help="compatible: the published PRADA agent, query for query. [default: the setting]"),
    ] = None,
    delta: Annotated[
        float | None, typer.Option("--delta", help="PRADA's threshold of W. [default: the setting]")
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge the files by occurred_at, instead of reading them in turn.")
    ] = False,
    map_: Map = None,
    profile: Annotated[
        list[Path] | None,
        typer.Option("--profile", help="Profile of a model version, from weirguard calibrate. [default: the setting]"),
    ] = None,
    json: Json = False,
    outputs: Annotated[
        OutputsName | None,
        typer.Option("--outputs", help="Kind of outputs of models without a profile. [default: the setting]"),
    ] = None,
    settings: Annotated[Path | None, typer.Option("--settings", help="YAML file; WEIRGUARD_* variables win.")] = None,
) -> None:
    """Judge recorded queries from files as the service would, and write verdicts, alerts and decisions."""
    from detector.replay.report import replay as replay_files
    from detector.runtime.settings import load_settings
    from detector.stream.building import engine_config, policy_of
    from detector.stream.record_time import AHEAD_SECONDS

    folder_for(out)
    given = given_profiles(profile)
    loaded = load_settings(settings)
    config = _changed(engine_config(loaded), mode, delta, given)
    config = changed(config, outputs={EVERYONE: outputs.value}) if outputs else config
    logs = files_in(files)
    with bar(console(stderr=True), "replay", rows_in(logs)) as progress:
        summary = replay_files(
            logs,
            out,
            engine_config=config,
            policy=policy_of(loaded),
            reading=reading(loaded, map_, merge=merge),
            progress=progress,
            must_fit=given,
            not_after=time.time() + AHEAD_SECONDS,
        )
    note(_sentence(summary, out))
    if not summary["calibrated"]:
        note(_warning(summary, config.mode))
    if json:
        say_json(summary)
    check_refused(summary["queries"] + summary["refused"], summary["reasons"])


def configuration(settings: Path | None) -> tuple[EngineConfig, Policy]:
    """Returns the engine and policy settings from the file and the environment. Raises ConfigurationError."""
    from detector.runtime.settings import load_settings
    from detector.stream.building import engine_config, policy_of

    loaded = load_settings(settings)
    return engine_config(loaded), policy_of(loaded)


def given_profiles(paths: Sequence[Path] | None) -> tuple[Profile, ...]:
    """Returns the profiles in the files given by option. Raises ConfigurationError."""
    from detector.stream.profiles import read_profiles

    return read_profiles(paths or ())


def rows_in(files: Sequence[Path]) -> int:
    """Returns the number of rows, good and bad, in all ``files``; an estimate for compressed ones. Raises
    ConfigurationError."""
    from detector.sources import files_of, format_of

    return sum(format_of(path).rows(path) for path in files_of(files))


@contextmanager
def bar(screen: Console, what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of items done since, out of ``total`` (None if unknown)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(None), TaskProgressColumn(), MofNCompleteColumn())
    with Progress(*columns, Remaining(), console=screen) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.advance(task, done)


def _changed(
    config: EngineConfig, mode: ModeName | None, delta: float | None, profiles: tuple[Profile, ...]
) -> EngineConfig:
    """Returns ``config`` with the options applied."""
    if delta is not None:
        config = changed(config, prada=changed(config.prada, delta=delta))
    config = changed(config, profiles=profiles) if profiles else config
    return config if mode is None else changed(config, mode=mode.value)


def _warning(summary: dict[str, Any], mode: str) -> str:
    """Returns a warning with the uncalibrated model versions and the command that calibrates them."""
    from detector.stream.profiles import uncalibrated

    names = [f"{own['model']} {own['model_version']}" for own in summary["models"] if not own["calibrated"]]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    cure = (
        "Compatible mode uses no profile."
        if mode == "compatible"
        else "Run `weirguard scan LOGS`, or make a profile from honest logs with "
        "`weirguard calibrate --honest LOGS --out FILE` and replay with `--profile FILE`."
    )
    return f"{uncalibrated(', '.join(names[:_NAMED]) + more)}. {cure}"


def _sentence(summary: dict[str, Any], out: Path) -> str:
    reasons = summary["reasons"]
    most = f" (most for the reason {next(iter(reasons))})" if reasons else ""
    flagged = sum(entry["first_flagged"] is not None for entry in summary["principals"])
    return (
        f"{summary['queries']} queries of {len(summary['principals'])} principals: {flagged} flagged, "
        f"{summary['alerts']} alerts, {summary['decisions']} decisions, {summary['refused']} rows refused{most}. "
        + (f"{summary['clamped']} rows with a time too far in the future. " if summary["clamped"] else "")
        + f"See {out}."
    )
