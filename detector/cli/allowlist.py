"""``weirguard allowlist``: exempt principals from automatic decisions, in the running detector."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from detector.cli.operator import carry_out, new_command, principal_of, seconds
from detector.cli.options import ApiKey, Issuer, Json, Reason, SettingsFile, Wait
from detector.cli.screen import console, print_json, print_lines, print_note, table
from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import Audit, Command, ExemptionScope
from detector.contracts.principals import EVERYONE
from detector.policy.allowlist import MOST_SECONDS, SCOPES, Exemption, parse_allowlist
from detector.replay.topics import audits_since
from detector.runtime.settings import Settings, load_settings
from detector.runtime.text import read_text, rfc3339

app = typer.Typer(help="Exempt principals from automatic decisions.", no_args_is_help=True)

Model = Annotated[str | None, typer.Option("--model", help="For this model alone; for all if not set.")]
Scope = Annotated[
    ExemptionScope, typer.Option("--scope", help="What NAME is; organisations and networks as the queries have them.")
]
Owner = Annotated[str, typer.Option("--owner", help="The person responsible for the exemption.")]

_FILE = "file"


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="A principal, or what --scope says.", show_default=False)],
    *,
    owner: Owner,
    reason: Reason,
    issuer: Issuer,
    expires: Annotated[str, typer.Option(help="For how long: 12h, 30d; at most 90d.")] = "30d",
    scope: Scope = "principal",
    model: Model = None,
    api_key: ApiKey = False,
    wait: Wait = 30.0,
    settings: SettingsFile = None,
) -> None:
    """Exempt NAME from automatic decisions: current ones end at once, and alerts say that decisions are withheld. An
    operator's decision still applies.
    """
    loaded = load_settings(settings)
    exemption = Exemption(principal_of(loaded, name, api_key), owner, reason, 0.0, model, scope)
    _send(loaded, _allow(exemption, issuer, seconds(expires)), wait)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="A principal, or what --scope says.", show_default=False)],
    *,
    reason: Reason,
    issuer: Issuer,
    scope: Scope = "principal",
    model: Model = None,
    api_key: ApiKey = False,
    wait: Wait = 30.0,
    settings: SettingsFile = None,
) -> None:
    """End the exemption of NAME; a suspect gets a decision at once."""
    loaded = load_settings(settings)
    principal = principal_of(loaded, name, api_key)
    _send(loaded, new_command("disallow", issuer, model or EVERYONE, principal, reason, scope=scope), wait)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="Allowlist in TOML, as policy.allowlist has it.")],
    *,
    issuer: Issuer,
    wait: Wait = 30.0,
    settings: SettingsFile = None,
) -> None:
    """Exempt all principals of FILE. Expired entries are left out; those longer than 90 days are cut to 90 days."""
    loaded, now = load_settings(settings), time.time()
    allowlist, refused = parse_allowlist(read_text(file, "allowlist")), 0
    for exempt in allowlist.exemptions:
        if exempt.expires_at <= now:
            print_note(f"left out: the exemption of {exempt.principal} has expired")
            continue
        if exempt.expires_at > now + MOST_SECONDS:
            print_note(f"cut to {MOST_SECONDS / 86_400:g} days: the exemption of {exempt.principal}")
        length = min(exempt.expires_at - now, MOST_SECONDS)
        refused += not _carry_out(loaded, _allow(exempt, issuer, length), wait)
    if refused:
        raise typer.Exit(1)


@app.command("list")
def list_(
    model: Annotated[str | None, typer.Option(help="Only those that apply to this model.")] = None,
    json: Json = False,
    settings: SettingsFile = None,
) -> None:
    """List all exemptions in force, from the settings' file and by command, with the person responsible for each."""
    loaded, now = load_settings(settings), time.time()
    exemptions = [(exemption, _FILE) for exemption in _listed(loaded)]
    exemptions += commanded(audits_since(loaded.kafka, now - MOST_SECONDS))
    chosen = [
        (exemption, source)
        for exemption, source in sorted(exemptions, key=lambda entry: (entry[0].principal, entry[0].model or ""))
        if exemption.expires_at > now and (model is None or exemption.model in (None, model))
    ]
    if json:
        print_json(
            [
                asdict(exemption) | {"expires_at": rfc3339(exemption.expires_at), "from": source}
                for exemption, source in chosen
            ]
        )
        return
    if not chosen:
        print_lines("No principal is exempt.")
        return
    rows = [
        (
            exemption.principal,
            exemption.scope,
            exemption.model or "all",
            exemption.owner,
            exemption.reason,
            rfc3339(exemption.expires_at),
            source,
        )
        for exemption, source in chosen
    ]
    console().print(table(("name", "scope", "model", "owner", "reason", "until", "from"), rows))


def commanded(audits: Iterable[Audit]) -> list[tuple[Exemption, str]]:
    """Returns the exemptions that the commands in ``audits`` left in force, each with its issuer."""
    in_force: dict[tuple[str, str, ExemptionScope], tuple[Exemption, str]] = {}
    for audit in sorted(audits, key=lambda audit: audit.occurred_at):
        detail = audit.detail
        scope = next((known for known in SCOPES if known == detail.get("scope")), SCOPES[0])
        key = audit.principal, audit.model, scope
        if audit.kind != "command":
            continue
        if detail.get("kind") == "disallow":
            in_force.pop(key, None)
        elif detail.get("kind") == "allow":
            model = None if audit.model == EVERYONE else audit.model
            owner, reason, until = (str(detail.get(name, "")) for name in ("owner", "reason", "until"))
            in_force[key] = Exemption(audit.principal, owner, reason, float(until), model, scope), audit.actor
    return list(in_force.values())


def _listed(settings: Settings) -> tuple[Exemption, ...]:
    """Returns the exemptions of the settings' file. Names a list that cannot be read, and treats it as empty."""
    path = settings.policy.allowlist
    if path is None:
        return ()
    try:
        return parse_allowlist(read_text(path, "policy.allowlist")).exemptions
    except ConfigurationError as error:
        print_note(f"{path} cannot be read, so a detector that uses it only observes: {error}")
        return ()


def _allow(exempt: Exemption, issuer: str, length: float) -> Command:
    fields = {"duration_seconds": length, "owner": exempt.owner, "scope": exempt.scope}
    return new_command("allow", issuer, exempt.model or EVERYONE, exempt.principal, exempt.reason, **fields)


def _send(settings: Settings, command: Command, wait: float) -> None:
    if not _carry_out(settings, command, wait):
        raise typer.Exit(1)


def _carry_out(settings: Settings, command: Command, wait: float) -> bool:
    """Sends ``command`` to the owner of its principal, or of each partition, and prints the result. Returns whether
    none refused it."""
    everywhere = command.scope not in (None, "principal")
    partitions = range(settings.kafka.partitions) if everywhere else [None]
    summaries = Counter[tuple[str, str]]()
    for partition in partitions:
        routed = command if partition is None else replace(command, id=f"{command.id}-{partition}")
        answer = carry_out(settings.kafka, routed, wait, partition)
        summaries[answer.kind, answer.summary] += 1
    for (_, summary), number in summaries.items():
        where = f" ({number} of {len(partitions)} partitions)" if everywhere else ""
        print_lines(f"{command.model} {command.principal}: {summary}{where}")
    return all(kind != "command_refused" for kind, _ in summaries)
