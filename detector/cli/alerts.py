"""``weirguard alerts``: print alerts as the detector publishes them."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer

from detector.cli.ending import end_with_reader
from detector.cli.operator import alert_line, plain
from detector.cli.options import Json, Output, SettingsFile
from detector.cli.screen import flush, say, say_json
from detector.replay.topics import Topic, readable_alerts
from detector.runtime.settings import load_settings

app = typer.Typer(help="Follow the alerts.", no_args_is_help=True)


@app.callback()
def alerts() -> None:
    """Follow the alerts."""


@app.command()
def tail(
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="First all stored alerts, then new ones.")
    ] = False,
    json: Json = False,
    output: Output = "text",
    settings: SettingsFile = None,
) -> None:
    """Print alerts as they come, one per line, until interrupted; an alert again if its severity rises."""
    kafka = load_settings(settings).kafka
    end_with_reader()
    with suppress(KeyboardInterrupt), Topic(kafka, kafka.topics.alerts) as topic:
        if not from_beginning:
            topic.seek_to_end()
        for alert in readable_alerts(topic.follow()):
            if json or output == "json":
                say_json(plain(alert), indent=None)
            else:
                say(alert_line(alert))
            flush()
