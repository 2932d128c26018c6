"""``weirguard notify``: sends alerts and dead letters to receivers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from detector.cli.options import Json, SettingsFile
from detector.cli.screen import print_json, print_lines


def notify(
    test: Annotated[
        bool, typer.Option("--test", help="Send one example alert to each receiver, print what came back, and end.")
    ] = False,
    json: Json = False,
    settings: SettingsFile = None,
) -> None:
    """Send alerts, groups and dead letters to the receivers in the settings (section notify), until interrupted."""
    from detector.notify.service import run, try_receivers
    from detector.runtime.logging import configure_logging
    from detector.runtime.settings import load_settings

    loaded = load_settings(settings)
    configure_logging(loaded.logging)
    if not test:
        run(loaded)
        return
    trials = try_receivers(loaded)
    if json:
        print_json([asdict(trial) for trial in trials])
    else:
        print_lines(*(f"{trial.receiver}: {'ok' if trial.ok else 'FAILED'}: {trial.answer}" for trial in trials))
    if not all(trial.ok for trial in trials):
        raise typer.Exit(1)
