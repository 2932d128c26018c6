"""``weirguard decisions``: list current decisions, and add or delete an operator's own."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import Annotated, Literal

import typer

from detector.cli.operator import (
    as_json,
    new_command,
    new_id,
    note_uncalibrated,
    principal_of,
    seconds,
    send,
    write_record,
)
from detector.cli.options import ApiKey, Issuer, Json, Reason, SettingsFile, Wait
from detector.cli.screen import console, print_json, print_lines, print_sentence, table
from detector.contracts.actions import ACTIONS, RATE, Parameters, describe_action, make_action
from detector.contracts.codecs import KILL_SWITCH_KEY, encode
from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import Action, Cause, Decision
from detector.contracts.principals import EVERYONE
from detector.policy.records import UNCALIBRATED
from detector.replay.topics import CurrentDecisions, known_keys, read_decisions
from detector.runtime.settings import Settings, load_settings
from detector.runtime.text import rfc3339
from detector.serving.responder import check_response

app = typer.Typer(help="List, add and delete decisions.", no_args_is_help=True)

_IMPOSED = [name for name in ACTIONS if name != "none"]
_ACTION_NAMES = ", ".join(_IMPOSED)
_KILL_SWITCH_PARTITION = 0
_NEAREST = 3
_NO_EXPIRY = 253_402_300_799.0
"""The last second of the year 9999: the expiry of a kill switch without a duration."""


@app.command("list")
def list_(
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    principal: Annotated[str | None, typer.Option(help="Only this principal.")] = None,
    origin: Annotated[
        str | None, typer.Option(help="Only with a cause of this origin: signal, signal:prada, operator.")
    ] = None,
    json: Json = False,
    settings: SettingsFile = None,
) -> None:
    """List the current decisions."""
    decisions = read_decisions(load_settings(settings).kafka, time.time())
    chosen = [
        decision
        for _, decision in sorted(decisions.current.items())
        if model in (None, decision.model)
        and principal in (None, decision.principal)
        and (origin is None or _has_origin(decision, origin))
    ]
    if json:
        switch = decisions.kill_switch
        listing = {"kill_switch": switch and as_json(switch), "decisions": [as_json(decision) for decision in chosen]}
        print_json(listing)
    else:
        _print_table(decisions, chosen)


@app.command()
def add(
    model: str,
    principal: str,
    *,
    action: Annotated[str, typer.Option(help=f"What the gates do: {_ACTION_NAMES}.", autocompletion=lambda: _IMPOSED)],
    reason: Reason,
    issuer: Issuer,
    duration: Annotated[str, typer.Option(help="How long: 90s, 15m, 1h30m, 2d.")] = "1h",
    queries_per_second: Annotated[
        float | None, typer.Option(help="Rate that queries are limited to; 1 for slow if not set.")
    ] = None,
    parameter: Annotated[
        list[str] | None, typer.Option(help="A parameter of the action: digits=2, response=reverse_sigmoid.")
    ] = None,
    observe: Annotated[bool, typer.Option("--observe", help="Publish it; gates do not act on it.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Even if PRINCIPAL is not known yet.")] = False,
    api_key: ApiKey = False,
    wait: Wait = 30.0,
    settings: SettingsFile = None,
) -> None:
    """Add a decision against PRINCIPAL of MODEL, next to other causes; your second decision replaces your first.

    It is enforced in any mode of the policy, unless you give --observe.
    """
    loaded = load_settings(settings)
    name = principal_of(loaded, principal, api_key)
    length = seconds(duration)
    if not force:
        _check_known(loaded, model, name)
    rate = 1.0 if action == "slow" and queries_per_second is None else queries_per_second
    parameters = _parameters(parameter or []) | ({} if rate is None else {RATE: rate})
    imposed = make_action(action, parameters)
    check_response(imposed)
    fields = {"action": imposed, "mode": "observe" if observe else "enforce", "duration_seconds": length}
    send(loaded, new_command("add", issuer, model, name, reason, **fields), wait)


@app.command()
def delete(
    model: str,
    principal: str,
    *,
    reason: Reason,
    issuer: Issuer,
    cause: Annotated[str | None, typer.Option(help="The id of one cause; all if not set.")] = None,
    api_key: ApiKey = False,
    wait: Wait = 30.0,
    settings: SettingsFile = None,
) -> None:
    """Delete one cause, or all causes, against PRINCIPAL of MODEL; a signal's cause returns only if the signal fires
    again."""
    loaded = load_settings(settings)
    name = principal_of(loaded, principal, api_key)
    send(loaded, new_command("delete", issuer, model, name, reason, cause_id=cause), wait)


@app.command("kill-switch")
def kill_switch(
    state: Annotated[Literal["on", "off"], typer.Argument(help="on: no gate enforces any decision.")],
    reason: Reason,
    issuer: Issuer,
    duration: Annotated[str | None, typer.Option(help="Time until enforcement resumes: 90s, 15m, 1h30m, 2d.")] = None,
    settings: SettingsFile = None,
) -> None:
    """Stop all enforcement at once, or resume it. Gates read it directly; no detector is involved."""
    kafka = load_settings(settings).kafka
    write_record(
        kafka,
        kafka.topics.decisions,
        key=KILL_SWITCH_KEY,
        value=encode(_switched_off(issuer, reason, duration)) if state == "on" else None,
        partition=_KILL_SWITCH_PARTITION,
        headers=[("issuer", issuer.encode()), ("reason", reason.encode())],
    )
    print_lines("Enforcement is OFF: every gate passes all requests." if state == "on" else "Enforcement is on again.")


def _switched_off(issuer: str, reason: str, duration: str | None) -> Decision:
    now = time.time()
    expires_at = _NO_EXPIRY if duration is None else now + seconds(duration)
    return Decision(
        id=new_id(),
        model=EVERYONE,
        principal=EVERYONE,
        action=Action("none"),
        mode="enforce",
        epoch=(0, 0),
        issued_at=now,
        expires_at=expires_at,
        causes=(Cause(new_id(), f"operator:{issuer}", expires_at, reason),),
        policy_version="operator",
    )


def _parameters(given: Iterable[str]) -> Parameters:
    """Returns the values of ``name=value`` by name; a text that is a number becomes that number."""
    parameters: Parameters = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not (name and separator and value):
            raise typer.BadParameter(f"{text!r} is not a parameter; write it like digits=2")
        try:
            parameters[name] = float(value)
        except ValueError:
            parameters[name] = value
    return parameters


def _check_known(settings: Settings, model: str, principal: str) -> None:
    """Raises ConfigurationError for a principal without records: the name may be mistyped."""
    known = known_keys(settings.kafka)
    if (model, principal) in known:
        return
    models, names = {key[0] for key in known}, {key[1] for key in known if key[0] == model}
    if model in models:
        what = f"there is no score, alert or decision of {principal!r} on {model!r}; {_nearest(principal, names)}"
    else:
        what = f"the model {model!r} is not known; {_nearest(model, models)}"
    raise ConfigurationError(f"{what}; to add the decision anyway, give --force")


def _nearest(name: str, names: Collection[str]) -> str:
    """Lists the closest of ``names``, or some of them if none is close."""
    close = get_close_matches(name, names, n=_NEAREST)
    if close:
        return f"nearest: {', '.join(map(repr, close))}"
    some = ", ".join(map(repr, sorted(names)[:_NEAREST]))
    return f"known: {len(names):,}, such as {some}" if some else "no names are known yet"


def _has_origin(decision: Decision, origin: str) -> bool:
    return any(cause.origin == origin or cause.origin.startswith(f"{origin}:") for cause in decision.causes)


def _print_table(decisions: CurrentDecisions, chosen: list[Decision]) -> None:
    screen = console()
    switch = decisions.kill_switch
    if switch is not None:
        why = ", ".join(f"{cause.origin}: {cause.reason}" for cause in switch.causes)
        print_sentence(screen, f"The kill switch is on: no gate enforces anything ({why}).", style="bold red")
    if not chosen:
        print_lines("There are no decisions.")
        return
    rows = [
        (
            *(
                decision.model,
                decision.principal,
                describe_action(decision.action),
                decision.mode,
                rfc3339(decision.expires_at),
            ),
            [f"{cause.origin} {cause.id} {cause.reason}".rstrip() for cause in decision.causes],
        )
        for decision in chosen
    ]
    screen.print(table(("model", "principal", "action", "mode", "until", "causes"), rows))
    note_uncalibrated(
        decision.model for decision in chosen if any(cause.reason == UNCALIBRATED for cause in decision.causes)
    )
