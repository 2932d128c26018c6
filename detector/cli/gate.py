"""``weirguard gate``: serve a gate to proxies, and list which gates run, how stale, and what they enforced."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated

import typer

from detector.cli.operator import as_json
from detector.cli.options import Json, SettingsFile
from detector.cli.screen import console, print_json, print_lines, table
from detector.contracts.findings import GateReport
from detector.replay.topics import read_gates
from detector.runtime.settings import load_settings
from detector.runtime.text import rfc3339

app = typer.Typer(help="Serve a gate to proxies, and list all gates.", no_args_is_help=True)

_MISSED_REPORTS = 3
_WOULD_HAVE = "would_have_"
_OUTCOMES = ("allowed", "slowed", "refused")
_HEAD = ("gate", "version", "since", "state", "stale s", "known", *_OUTCOMES, "would have", "served")


@app.command()
def serve(settings: SettingsFile = None) -> None:
    """Serve the gate to NGINX (auth_request) and Envoy (ext_authz), until SIGTERM; see the section gate of the
    settings."""
    from detector.gateway.service import serve as run
    from detector.runtime.logging import configure_logging

    loaded = load_settings(settings)
    configure_logging(loaded.logging)
    run(loaded)


@app.command("list")
def list_(
    everything: Annotated[bool, typer.Option("--all", help="Also those that closed in the last two days.")] = False,
    json: Json = False,
    settings: SettingsFile = None,
) -> None:
    """List the gates, how old their decisions are, and what they did since they started."""
    now = time.time()
    reports = [report for report in read_gates(load_settings(settings).kafka) if report.running or everything]
    if json:
        print_json([{"state": state(report, now), **as_json(report)} for report in reports])
    elif reports:
        console().print(table(_HEAD, (_row(report, now) for report in reports), texts=4))
    else:
        print_lines("No gate has reported.")


def state(report: GateReport, now: float) -> str:
    """Returns the state of the gate in words, by its last report and its age at ``now``, seconds UTC."""
    if not report.running:
        return "closed"
    age = now - report.occurred_at
    if age > _MISSED_REPORTS * report.report_seconds:
        return f"silent for {age:.0f} s"
    if report.stale_seconds is not None and report.stale_seconds <= report.max_stale_seconds:
        return "current"
    does = ", ".join(f"{does} {model}" for model, does in sorted(report.when_stale.items()))
    return f"{'never in contact' if report.stale_seconds is None else 'stale'}: {does}"


def _row(report: GateReport, now: float) -> tuple[str, ...]:
    counts = report.counts
    stale = "never" if report.stale_seconds is None else f"{report.stale_seconds:.1f}"
    would = {name.removeprefix(_WOULD_HAVE): n for name, n in counts.items() if name.startswith(_WOULD_HAVE)}
    outcomes = (str(counts.get(name, 0)) for name in _OUTCOMES)
    head = (report.gate, report.version, rfc3339(report.started_at), state(report, now), stale, str(report.known))
    return (*head, *outcomes, _totals(would), _totals(report.responses))


def _totals(totals: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {total}" for name, total in sorted(totals.items()) if total)
