"""``weirguard allowlist``: exempt principals from automatic decisions, in the running detector."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from detector.cli.operator import carry_out, new_id, principal_of, seconds, send
from detector.cli.options import ApiKey, Issuer, Json, Reason, SettingsFile, Wait
from detector.cli.screen import console, print_json, print_lines, print_note, table
from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import Audit, Command
from detector.contracts.principals import EVERYONE
from detector.policy.allowlist import MOST_SECONDS, Exemption, parse_allowlist
from detector.replay.topics import audits_since
from detector.runtime.settings import Settings, load_settings
from detector.runtime.text import read_text, rfc3339

app = typer.Typer(help="Exempt principals from automatic decisions.", no_args_is_help=True)

Model = Annotated[str | None, typer.Option("--model", help="For this model alone; for all if not set.")]
Owner = Annotated[str, typer.Option("--owner", help="Who answers for the exemption.")]

_FILE = "file"


@app.command()
def add(
    principal: str,
    *,
    owner: Owner,
    reason: Reason,
    issuer: Issuer,
    expires: Annotated[str, typer.Option(help="For how long: 12h, 30d; at most 90d.")] = "30d",
    model: Model = None,
    api_key: ApiKey = False,
    wait: Wait = 30.0,
    settings: SettingsFile = None,
) -> None:
    """Exempt PRINCIPAL: alerts stay and say so, automatic decisions end at once and none follow.

    It does not hold against an operator's decision.
    """
    loaded = load_settings(settings)
    name = principal_of(loaded, principal, api_key)
    send(loaded, _allow(name, model, owner, reason, issuer, seconds(expires)), wait)


@app.command()
def remove(
    principal: str,
    *,
    reason: Reason,
    issuer: Issuer,
    model: Model = None,
    api_key: ApiKey = False,
    wait: Wait = 30.0,
    settings: SettingsFile = None,
) -> None:
    """End the exemption of PRINCIPAL; whoever is a suspect gets a decision at once."""
    loaded = load_settings(settings)
    name = principal_of(loaded, principal, api_key)
    command = Command(new_id(), "disallow", time.time(), issuer, model or EVERYONE, name, reason)
    send(loaded, command, wait)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="Allowlist in TOML, as policy.allowlist has it.")],
    *,
    issuer: Issuer,
    wait: Wait = 30.0,
    settings: SettingsFile = None,
) -> None:
    """Exempt all principals of FILE. What has expired is left out; what lasts longer than 90 days is cut to that."""
    loaded, now = load_settings(settings), time.time()
    allowlist, refused = parse_allowlist(read_text(file, "allowlist")), 0
    for exempt in allowlist.exemptions:
        if exempt.expires_at <= now:
            print_note(f"left out: the exemption of {exempt.principal} has expired")
            continue
        if exempt.expires_at > now + MOST_SECONDS:
            print_note(f"cut to {MOST_SECONDS / 86_400:g} days: the exemption of {exempt.principal}")
        length = min(exempt.expires_at - now, MOST_SECONDS)
        command = _allow(exempt.principal, exempt.model, exempt.owner, exempt.reason, issuer, length)
        answer = carry_out(loaded.kafka, command, wait)
        print_lines(f"{command.model} {command.principal}: {answer.summary}")
        refused += answer.kind == "command_refused"
    if refused:
        raise typer.Exit(1)


@app.command("list")
def list_(
    model: Annotated[str | None, typer.Option(help="Only those that hold for this model.")] = None,
    json: Json = False,
    settings: SettingsFile = None,
) -> None:
    """List all exemptions in force, of the settings' file and by command, and who answers for each."""
    loaded, now = load_settings(settings), time.time()
    exemptions = [(own, _FILE) for own in _listed(loaded)]
    exemptions += commanded(audits_since(loaded.kafka, now - MOST_SECONDS))
    chosen = [
        (own, source)
        for own, source in sorted(exemptions, key=lambda one: (one[0].principal, one[0].model or ""))
        if own.expires_at > now and (model is None or own.model in (None, model))
    ]
    if json:
        print_json([asdict(own) | {"expires_at": rfc3339(own.expires_at), "from": source} for own, source in chosen])
        return
    if not chosen:
        print_lines("No principal is exempt.")
        return
    rows = [
        (own.principal, own.model or "all", own.owner, own.reason, rfc3339(own.expires_at), source)
        for own, source in chosen
    ]
    console().print(table(("principal", "model", "owner", "reason", "until", "from"), rows))


def commanded(audits: Iterable[Audit]) -> list[tuple[Exemption, str]]:
    """Returns the exemptions that the commands in ``audits`` left in force, each with its issuer."""
    held: dict[tuple[str, str], tuple[Exemption, str]] = {}
    for audit in sorted(audits, key=lambda audit: audit.occurred_at):
        key, detail = (audit.principal, audit.model), audit.detail
        if audit.kind != "command":
            continue
        if detail.get("kind") == "disallow":
            held.pop(key, None)
        elif detail.get("kind") == "allow":
            model = None if audit.model == EVERYONE else audit.model
            owner, reason, until = (str(detail.get(name, "")) for name in ("owner", "reason", "until"))
            held[key] = Exemption(audit.principal, owner, reason, float(until), model), audit.actor
    return list(held.values())


def _listed(settings: Settings) -> tuple[Exemption, ...]:
    """Returns the exemptions of the settings' file. A list that cannot be read is named, and has none."""
    path = settings.policy.allowlist
    if path is None:
        return ()
    try:
        return parse_allowlist(read_text(path, "policy.allowlist")).exemptions
    except ConfigurationError as error:
        print_note(f"{path} cannot be read, so a detector with it only observes: {error}")
        return ()


def _allow(principal: str, model: str | None, owner: str, reason: str, issuer: str, length: float) -> Command:
    return Command(
        new_id(),
        "allow",
        time.time(),
        issuer,
        model or EVERYONE,
        principal,
        reason,
        duration_seconds=length,
        owner=owner,
    )
