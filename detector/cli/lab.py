"""``weirguard demo``, ``serve-demo``, ``traffic`` and ``redteam``: the demo and its parts, and attacks on a server."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.cli.files import bar, file_for
from detector.cli.screen import print_note, verbatim
from detector.contracts.errors import ConfigurationError, LabError

if TYPE_CHECKING:
    from detector.lab.query_log import QueryLog

Seed = Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same queries.")]


def demo(
    observe: Annotated[bool, typer.Option("--observe", help="Find the thieves and do not stop them.")] = False,
    seconds: Annotated[float, typer.Option(min=30, max=100, help="Duration of the traffic.")] = 50.0,
    seed: Seed = 0,
) -> None:
    """Watch the detector find and stop two model thieves and a ring; broker, detector, model server and clients run
    here.

    One thief copies a network that reads digits, the other a decision tree. Exit status 0 if the first was refused
    before the 400th query, the second before the 200th, and no honest client was flagged (with --observe: both were
    flagged and nobody was refused), 1 otherwise, 2 if the demo could not run.
    """
    from rich.console import Console

    from detector.cli.foreign import from_scikit_learn
    from detector.lab.demo.report import render_report
    from detector.lab.demo.run import run_demo
    from detector.lab.demo.script import DemoOptions

    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    screen = Console()
    outcome = run_demo(DemoOptions(observe=observe, seconds=seconds, seed=seed), from_scikit_learn, screen)
    screen.print(render_report(outcome))
    raise typer.Exit(1 if outcome.broken_promises() else 0)


def serve_demo(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 in a container.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port.")] = 8000,
) -> None:
    """Serve digits on POST /predict and tumours on POST /tumours/predict; logs queries and applies decisions.

    Kafka is that of the detector's WEIRGUARD_* settings.
    """
    import uvicorn

    from detector.lab.server import create_demo, guard
    from detector.runtime.settings import load_settings

    app = guard(create_demo(), load_settings().kafka)
    uvicorn.run(app, host=host, port=port, log_level="warning")


def traffic(
    target: Annotated[str, typer.Option(help="URL to POST to, for example http://127.0.0.1:8000/predict.")],
    accounts: Annotated[int, typer.Option(min=1, max=500, help="Number of honest accounts.")] = 24,
    seconds: Annotated[float, typer.Option(min=1, help="Duration.")] = 60.0,
    thief: Annotated[bool, typer.Option("--thief", help="Add one Jacobian-augmentation thief.")] = False,
    seed: Seed = 0,
) -> None:
    """Send queries of honest users, and with --thief of a model thief, to a server of 8 by 8 digits.

    Exit status 1 if a query got no valid answer; a refusal (429) is a valid answer.
    """
    from rich.console import Console

    from detector.lab.traffic import (
        Theft,
        TrafficGenerator,
        account_table,
        connections,
        honest_accounts,
        jacobian_thief,
    )
    from detector.lab.victims.digits import load_split

    split = load_split()
    clients = TrafficGenerator(target, split, accounts=honest_accounts(accounts), seed=seed, tempo=1.0)

    async def send() -> None:
        async with connections() as http:
            await clients.run(http, seconds, *([Theft(jacobian_thief(split, seed), 0)] if thief else []))

    asyncio.run(send())
    Console().print(account_table(clients.tallies.values()))
    raise typer.Exit(1 if any(tally.failed for tally in clients.tallies.values()) else 0)


def redteam(
    *,
    attack: Annotated[str, typer.Option(help="Name of the attack; a wrong name lists them all.", show_default=False)],
    target: Annotated[str, typer.Option(help="URL that predicts, or a built-in victim's name.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Labelled query log to write, .parquet.", show_default=False)],
    data: Annotated[
        str, typer.Option(help="Data that the thief has: a built-in data set, or .npz with features and labels.")
    ] = "digits",
    mapping: Annotated[
        str, typer.Option(help="JSON of the URL: kserve-v1, kserve-v2, or a YAML file with request and answer.")
    ] = "kserve-v1",
    budget: Annotated[
        int, typer.Option(min=1, help="Queries of the attack; for a URL with cover traffic and retries.")
    ] = 1_000,
    rate: Annotated[float, typer.Option(min=0.001, help="Queries per second; simulated for a built-in victim.")] = 10.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same queries for the same answers.")] = 0,
    wrapper: Annotated[str, typer.Option(help="How the thief hides; a wrong name lists them all.")] = "plain",
    owned_host: Annotated[
        str | None,
        typer.Option(
            "--i-own-this-endpoint",
            help="Host of the URL, if it is not this machine; you must be allowed to attack it.",
        ),
    ] = None,
) -> None:
    """Run a model extraction attack on a model server of your own, or on a built-in victim among honest accounts.

    A URL first gets 600 queries, whose answers measure the fidelity of clones. The log labels each query; its metadata
    has the fidelity of the clone during the attack. If the server fails, the answers until then are kept and the exit
    status is 2.
    """
    from detector.lab.endpoint import CutShort, check_allowed, conduct_over_http
    from detector.lab.experiment import AttackPlan, conduct
    from detector.lab.mappings import mapping_of
    from detector.lab.query_log import write_query_log

    if out.suffix != ".parquet":
        raise ConfigurationError(f"{out}: the log is Parquet; name it FILE.parquet")
    file_for(out)
    plan = AttackPlan(attack, target, data, wrapper, budget, seed, pause=1 / rate)
    try:
        with bar(verbatim(attack), budget) as progress:
            if "://" in target:
                check_allowed(target, owned_host)
                log = conduct_over_http(plan, mapping_of(mapping), progress)
            else:
                log = conduct(plan, progress)
    except CutShort as cut:
        write_query_log(out, cut.log)
        raise LabError(f"{cut}. The attack ended there. {_describe(cut.log, out)}") from cut
    write_query_log(out, log)
    print_note(_describe(log, out))


def _describe(log: QueryLog, out: Path) -> str:
    run = log.run
    clone = "no clone"
    if run.curve:
        last = run.curve[-1]
        clone = f"a clone that agrees with it on {last.test:.1%} of natural and {last.uniform:.1%} of uniform inputs"
    return (
        f"{run.attack} on {run.victim}: {run.sent:,} queries, {run.useful:,} of them useful, and {clone}. "
        f"{len(log.queries):,} queries in {out}."
    )
