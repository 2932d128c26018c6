"""``weirguard groups``: list groups of accounts that share one theft, show one, and dismiss one."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from detector.cli.operator import as_json, new_command, send
from detector.cli.options import Issuer, Json, Reason, SettingsFile, Wait
from detector.cli.screen import console, print_json, print_lines, table
from detector.contracts.findings import GroupAlert
from detector.contracts.topics import watch_partition
from detector.replay.topics import find_group, partitions_of, read_decisions, read_groups
from detector.runtime.settings import load_settings
from detector.runtime.text import printable, rfc3339

app = typer.Typer(help="Show groups of accounts, and dismiss one.", no_args_is_help=True)


@app.command("list")
def list_(
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    json: Json = False,
    settings: SettingsFile = None,
) -> None:
    """List the groups, the newest first."""
    groups = [group for group in read_groups(load_settings(settings).kafka) if model in (None, group.model)]
    if json:
        print_json([as_json(group) for group in groups])
    elif not groups:
        print_lines("There are no groups.")
    else:
        head = ("group", "model", "version", "accounts", "score", "since", "state", "what the members share")
        console().print(table(head, map(_row, groups)))


@app.command()
def show(
    group: Annotated[str, typer.Argument(help="The id of the group.")],
    json: Json = False,
    settings: SettingsFile = None,
) -> None:
    """Show the members of GROUP, the rarest first, each with their decision."""
    kafka = load_settings(settings).kafka
    found = find_group(read_groups(kafka), group)
    decisions = read_decisions(kafka, time.time()).current
    current = {member.principal: decisions.get((found.model, member.principal)) for member in found.members}
    if json:
        in_force = {name: as_json(decision) for name, decision in current.items() if decision is not None}
        print_json(as_json(found) | {"decisions": in_force})
        return
    print_lines(
        f"{printable(found.model)} {printable(found.model_version)}: {_state(found)}, {found.size:,} accounts, "
        f"score {found.score:.3g} (1 is the verdict), {rfc3339(found.occurred_at)}",
        f"the members share: {_evidence(found)}",
    )
    rows = [
        (
            member.principal,
            f"{member.queries:,}",
            f"{member.rarity:.2g}",
            "" if (decision := current[member.principal]) is None else f"{decision.action.name} ({decision.mode})",
        )
        for member in found.members
    ]
    console().print(table(("account", "queries", "share of honest accounts", "decision"), rows))
    if found.size > len(found.members):
        print_lines(f"and {found.size - len(found.members):,} more")


@app.command()
def dismiss(
    group: Annotated[str, typer.Argument(help="The id of the group.")],
    *,
    reason: Reason,
    issuer: Issuer,
    wait: Wait = 30.0,
    settings: SettingsFile = None,
) -> None:
    """Dismiss GROUP: release its members and those who join later. Each account is still judged alone."""
    loaded = load_settings(settings)
    found = find_group(read_groups(loaded.kafka), group)
    partition = watch_partition(
        found.model, found.model_version, partitions_of(loaded.kafka, loaded.kafka.topics.commands)
    )
    command = new_command("dismiss", issuer, found.model, found.id, reason, model_version=found.model_version)
    send(loaded, command, wait, partition)


def _row(group: GroupAlert) -> tuple[str, ...]:
    return (
        group.id,
        group.model,
        group.model_version,
        f"{group.size:,}",
        f"{group.score:.2f}",
        rfc3339(group.occurred_at),
        _state(group),
        _evidence(group),
    )


def _state(group: GroupAlert) -> str:
    return "under a verdict" if group.dismissed_by is None else f"dismissed by {group.dismissed_by}"


def _evidence(group: GroupAlert) -> str:
    return ", ".join(f"{value.name} {value.value:.2g}" for value in group.evidence)
