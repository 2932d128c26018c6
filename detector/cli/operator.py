"""Shared parts of the operator's commands: options, durations, commands to the owner, and output formats."""

from __future__ import annotations

import getpass
import re
import secrets
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from detector.cli.kafka import carry_out
from detector.cli.screen import say
from detector.contracts.findings import Action, Alert, Command, CommandKind, Mode
from detector.runtime.settings import Settings
from detector.runtime.text import rfc3339

File = Annotated[Path | None, typer.Option("--settings", help="YAML file; WEIRGUARD_* variables win.")]
Reason = Annotated[str, typer.Option("--reason", help="The reason, for the audit record.")]
Issuer = Annotated[
    str, typer.Option("--issuer", help="Your name, for the audit record.", default_factory=getpass.getuser)
]
Wait = Annotated[float, typer.Option("--wait", min=0.0, help="Seconds to wait for the detector's answer.")]
ApiKey = Annotated[bool, typer.Option("--api-key", help="PRINCIPAL is an API key ('-' asks for it): hash it first.")]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def principal_of(settings: Settings, name: str, api_key: bool) -> str:
    """The principal that ``name`` means: the name itself, or its hash if it is an API key."""
    if not api_key:
        return name
    secret = typer.prompt("API key", hide_input=True, err=True) if name == "-" else name
    return settings.principals.hasher().api_key(secret)


def seconds(duration: str) -> float:
    """The seconds in ``90s``, ``15m``, ``1h30m`` or ``2d``."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", duration)
    if not parts or "".join(number + unit for number, unit in parts) != duration:
        raise typer.BadParameter(f"{duration!r} is not a duration; write it like 90s, 15m, 1h30m or 2d")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def new_id() -> str:
    """A random id for a command."""
    return secrets.token_hex(8)


def send(
    settings: Settings,
    kind: CommandKind,
    model: str,
    principal: str,
    *,
    issuer: str,
    reason: str,
    wait: float,
    action: Action | None = None,
    mode: Mode | None = None,
    duration_seconds: float | None = None,
    cause_id: str | None = None,
) -> None:
    """Sends a command, prints its result, and exits with 1 if the owner refused it."""
    command = Command(
        id=new_id(),
        kind=kind,
        issued_at=time.time(),
        issuer=issuer,
        model=model,
        principal=principal,
        reason=reason,
        action=action,
        mode=mode,
        duration_seconds=duration_seconds,
        cause_id=cause_id,
    )
    audit = carry_out(settings.kafka, command, wait)
    say(f"{model} {principal}: {audit.summary}")
    if audit.kind == "command_refused":
        raise typer.Exit(1)


def describe_action(action: Action) -> str:
    """``action`` for people."""
    rate = action.queries_per_second
    return action.name if rate is None else f"{action.name} to {rate:g}/s"


def alert_line(alert: Alert) -> str:
    """``alert`` in one line for people."""
    evidence = ", ".join(
        f"{item.name}={item.value:g}" + ("" if item.threshold is None else f" (threshold {item.threshold:g})")
        for item in alert.evidence
    )
    suppressed = "" if alert.suppressed_by is None else f" [{alert.suppressed_by}]"
    uncalibrated = "" if alert.calibrated is not False else " (uncalibrated)"
    return (
        f"{rfc3339(alert.occurred_at)} {alert.severity} {alert.model} {alert.principal} {alert.signal} "
        f"score {alert.score:.3g}{uncalibrated} at query {alert.query_index + 1:,}: {evidence}{suppressed}"
    )


def plain(record: Any) -> Any:
    """``record`` as data that JSON can hold, field by field."""
    import msgspec

    return msgspec.to_builtins(record)
