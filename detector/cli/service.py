"""``weirguard run``, ``notify``, ``config`` and ``warm``: the services, their settings, and the compiled loops."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from functools import reduce
from json import dumps
from typing import Annotated

import typer

from detector.cli.options import Json, SettingsFile
from detector.cli.screen import CompilationMessages, print_json, print_lines
from detector.contracts.errors import ConfigurationError

app = typer.Typer(help="Check and show the settings.", no_args_is_help=True)


def run(settings: SettingsFile = None) -> None:
    """Run the detector: one worker process under a supervisor that restarts it when it exits on an inconsistency."""
    from detector.runtime.logging import configure_logging
    from detector.runtime.settings import FILE_VARIABLE, load_settings
    from detector.stream.supervisor import Backoff, Supervisor, worker_command

    loaded = load_settings(settings)
    configure_logging(loaded.logging)
    if settings is not None:
        os.environ[FILE_VARIABLE] = str(settings)
    backoff = Backoff(loaded.worker.restart_first_seconds, loaded.worker.restart_most_seconds)
    raise typer.Exit(Supervisor(worker_command(), loaded.kafka.servers, backoff).run())


def notify(
    test: Annotated[
        bool, typer.Option("--test", help="Send one example alert to each receiver, print the answers, and end.")
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


@app.command()
def check(settings: SettingsFile = None) -> None:
    """Check the settings; prints every error and exits with 2 if one is wrong."""
    from detector.notify.service import new_receivers
    from detector.runtime.settings import load_settings
    from detector.stream.detection_config import describe_profiles, engine_config, policy_config

    loaded = load_settings(settings)
    policy_config(loaded)
    new_receivers(loaded)
    print_lines(*describe_profiles(engine_config(loaded).profiles), "The settings are valid.")


@app.command()
def show(settings: SettingsFile = None, json: Json = False) -> None:
    """Print every setting with its source. Secrets are shown as asterisks."""
    from detector.runtime.settings import load_settings, sources

    values, origins = load_settings(settings).redacted(), sources(settings)
    if json:
        print_json({"settings": values, "sources": origins})
        return
    for key, origin in origins.items():
        value = reduce(lambda section, name: section[name], key.split("."), values)
        line = f"{key}: {dumps(value)}"
        print_lines(line if origin == "default" else f"{line}  # {origin}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of the settings file, for editors and for checks before deployment."""
    from detector.runtime.settings import Settings

    print_json(Settings.model_json_schema())


def warm() -> None:
    """Compile all loops for this machine and keep the machine code on disk: in the folder that WEIRGUARD_CACHE names,
    else next to the installed package, else in your cache folder. Ends with status 2 if that is not possible."""
    from detector.core.loops.compiled import SWITCH, is_off, listen, loops
    from detector.core.warm import warm_all
    from detector.groups.warm import warm_groups

    if is_off():
        raise ConfigurationError(f"{SWITCH} is off: nothing is compiled; unset it")
    messages = CompilationMessages(strict=True)
    listen(messages)
    started = time.monotonic()
    warm_all()
    warm_groups()
    if messages.unkept:
        raise ConfigurationError(messages.unkept)
    seconds = time.monotonic() - started
    print_lines(f"{len(loops())} loops are ready: {messages.compiled} compiled now, {seconds:.1f} s")
