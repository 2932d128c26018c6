"""``weirguard redteam``: run an extraction attack on a model of your own, and write its log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from detector.cli.files import file_for
from detector.cli.screen import console, note, verbatim

if TYPE_CHECKING:
    from rich.console import Console

    from detector.lab.experiment import AttackPlan
    from detector.lab.query_log import QueryLog


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
    own: Annotated[
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
    from detector.contracts.errors import ConfigurationError, LabError
    from detector.lab.endpoint import CutShort
    from detector.lab.experiment import AttackPlan
    from detector.lab.query_log import write_query_log

    if out.suffix != ".parquet":
        raise ConfigurationError(f"{out}: the log is Parquet; name it FILE.parquet")
    file_for(out)
    plan = AttackPlan(attack, target, data, wrapper, budget, seed, pause=1 / rate)
    try:
        with _bar(console(stderr=True), plan) as progress:
            log = _over_http(plan, mapping, own, progress) if "://" in target else _in_process(plan, progress)
    except CutShort as cut:
        write_query_log(out, cut.log)
        raise LabError(f"{cut}. The attack ended there. {_sentence(cut.log, out)}") from cut
    write_query_log(out, log)
    note(_sentence(log, out))


def _over_http(plan: AttackPlan, mapping: str, own: str | None, progress: Callable[[int], None]) -> QueryLog:
    from detector.lab.endpoint import check_allowed, conduct_over_http
    from detector.lab.mappings import mapping_of

    check_allowed(plan.victim, own)
    return conduct_over_http(plan, mapping_of(mapping), progress)


def _in_process(plan: AttackPlan, progress: Callable[[int], None]) -> QueryLog:
    from detector.lab.experiment import conduct

    return conduct(plan, progress)


@contextmanager
def _bar(screen: Console, plan: AttackPlan) -> Iterator[Callable[[int], None]]:
    """A progress bar over the attack's budget; call what it yields with the number of further answered queries."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.completed:,}"), TimeElapsedColumn())
    with Progress(*columns, console=screen) as progress:
        task = progress.add_task(verbatim(plan.attack), total=plan.budget)
        yield lambda queries: progress.advance(task, queries)


def _sentence(log: QueryLog, out: Path) -> str:
    run = log.run
    clone = "no clone"
    if run.curve:
        last = run.curve[-1]
        clone = f"a clone that agrees with it on {last.test:.1%} of natural and {last.uniform:.1%} of uniform inputs"
    return (
        f"{run.attack} on {run.victim}: {run.sent:,} queries, {run.useful:,} of them useful, and {clone}. "
        f"{len(log.queries):,} queries in {out}."
    )
