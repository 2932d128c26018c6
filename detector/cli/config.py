"""``weirguard config``: check the settings before a start, and show each with its source."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from detector.cli.options import Json, Output
from detector.cli.screen import say, say_json
from detector.runtime.settings import Settings, load_settings, sources

app = typer.Typer(help="Check and show the settings.", no_args_is_help=True)

File = Annotated[Path | None, typer.Option("--settings", help="YAML file; WEIRGUARD_* variables win.")]


@app.command()
def check(settings: File = None) -> None:
    """Check the settings; prints every error and exits with 2 if one is wrong."""
    from detector.stream.detection_config import describe_profiles, engine_config, policy_config

    loaded = load_settings(settings)
    policy_config(loaded)
    say(*describe_profiles(engine_config(loaded).profiles), "The settings are valid.")


@app.command()
def show(settings: File = None, json: Json = False, output: Output = "text") -> None:
    """Print every setting with its source. Secrets are shown as asterisks."""
    values, origins = load_settings(settings).redacted(), sources(settings)
    if json or output == "json":
        say_json({"settings": values, "sources": origins})
        return
    for key, origin in origins.items():
        line = f"{key}: {dumps(_value(values, key))}"
        say(line if origin == "default" else f"{line}  # {origin}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of the settings file, for editors and for checks before deployment."""
    say_json(Settings.model_json_schema())


def _value(values: dict[str, Any], key: str) -> Any:
    found: Any = values
    for part in key.split("."):
        found = found[part]
    return found
