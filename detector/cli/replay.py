"""``weirguard replay``: judge recorded queries from files, without Kafka."""

from __future__ import annotations

import time
from dataclasses import replace as changed
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from detector.cli.files import check_refused, folder_for, log_reader, reading_bar
from detector.cli.options import LOGS, Json, Map, Merge, OutputKind, Profiles, SettingsFile
from detector.cli.screen import print_json, print_note
from detector.contracts.principals import EVERYONE

_MAX_NAMED_VERSIONS = 3
"""Maximum number of model versions in a warning."""


def replay(
    *,
    files: Annotated[list[Path], typer.Argument(help=LOGS, show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder for verdicts, alerts and the summary.")],
    mode: Annotated[
        Literal["compatible", "default"] | None,
        typer.Option("--mode", help="compatible: the published PRADA agent, query for query. [default: the setting]"),
    ] = None,
    delta: Annotated[
        float | None, typer.Option("--delta", help="PRADA's threshold of W. [default: the setting]")
    ] = None,
    merge: Merge = False,
    map_: Map = None,
    profile: Profiles = None,
    json: Json = False,
    outputs: Annotated[
        OutputKind | None,
        typer.Option("--outputs", help="Kind of outputs of models without a profile. [default: the setting]"),
    ] = None,
    settings: SettingsFile = None,
) -> None:
    """Judge recorded queries from files as the service would, and write verdicts, alerts and decisions."""
    from detector.replay.report import replay as replay_files
    from detector.runtime.settings import load_settings
    from detector.sources import files_of
    from detector.stream.detection_config import engine_config, policy_config, read_profiles
    from detector.stream.source_records import AHEAD_SECONDS

    folder_for(out)
    given = read_profiles(profile or ())
    loaded = load_settings(settings)
    config = engine_config(loaded)
    changes: dict[str, Any] = {
        "prada": None if delta is None else changed(config.prada, delta=delta),
        "profiles": given,
        "mode": mode,
        "outputs": outputs and {EVERYONE: outputs},
    }
    config = changed(config, **{name: value for name, value in changes.items() if value})
    logs = files_of(files)
    with reading_bar("replay", logs) as progress:
        summary = replay_files(
            logs,
            out,
            engine_config=config,
            policy=policy_config(loaded),
            reader=log_reader(loaded, map_, merge=merge),
            progress=progress,
            must_fit=given,
            not_after=time.time() + AHEAD_SECONDS,
        )
    print_note(_describe(summary, out))
    if not summary["calibrated"]:
        print_note(_warning(summary, config.mode))
    if json:
        print_json(summary)
    check_refused(summary["queries"] + summary["refused"], summary["reasons"])


def _warning(summary: dict[str, Any], mode: str) -> str:
    """Returns a warning with the uncalibrated model versions and the command that calibrates them."""
    from detector.stream.detection_config import uncalibrated_warning

    names = [f"{model['model']} {model['model_version']}" for model in summary["models"] if not model["calibrated"]]
    more = f" and {len(names) - _MAX_NAMED_VERSIONS} more" if len(names) > _MAX_NAMED_VERSIONS else ""
    cure = (
        "Compatible mode uses no profile."
        if mode == "compatible"
        else "Run `weirguard scan LOGS`, or make a profile from honest logs with "
        "`weirguard calibrate --honest LOGS --out FILE` and replay with `--profile FILE`."
    )
    return f"{uncalibrated_warning(', '.join(names[:_MAX_NAMED_VERSIONS]) + more)}. {cure}"


def _describe(summary: dict[str, Any], out: Path) -> str:
    reasons = summary["reasons"]
    most = f" (most for the reason {next(iter(reasons))})" if reasons else ""
    flagged = sum(entry["first_flagged"] is not None for entry in summary["principals"])
    clamped = f"{summary['clamped']} rows with a time too far in the future. " if summary["clamped"] else ""
    groups = [len(group["members"]) for group in summary["groups"]]
    accounts = f"{sum(groups)} accounts in {len(groups)} group{'s' if len(groups) > 1 else ''}, " if groups else ""
    return (
        f"{summary['queries']} queries of {len(summary['principals'])} principals: {flagged} flagged, {accounts}"
        f"{summary['alerts']} alerts, {summary['decisions']} decisions, {summary['refused']} rows refused{most}. "
        f"{clamped}{_learned(summary)}See {out}."
    )


def _learned(summary: dict[str, Any]) -> str:
    """Returns a sentence about the account or group whose answers would make the best clone, as far as one is known."""
    known = [(entry["odometer"], entry["principal"]) for entry in summary["principals"] if entry["odometer"]]
    known += [(entry["odometer"], f"group {entry['id']}") for entry in summary["groups"] if entry["odometer"]]
    if not known:
        return ""
    reading, name = max(known, key=lambda pair: pair[0]["fidelity"])
    low, fidelity, high = (round(100 * reading[part]) for part in ("low", "fidelity", "high"))
    return f"{name} learned most: a clone would agree with the model on about {fidelity}% ({low} to {high}). "
