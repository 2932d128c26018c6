"""``weirguard run``: the detector service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def run(
    settings: Annotated[Path | None, typer.Option("--settings", help="YAML file; WEIRGUARD_* variables win.")] = None,
) -> None:
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
