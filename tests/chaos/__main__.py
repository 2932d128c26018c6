"""``make chaos``: the whole of it on Apache Kafka. Ends with status 1 where a single query, alert or decision differs.

Writes ``chaos.json`` (all figures), ``chaos.md`` (the table for the documentation) and the workers' logs.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.brokers.moving import MovingNode
from tests.chaos.faults import SERIES
from tests.chaos.harness import Result, Scale, run_series
from tests.chaos.markdown import as_markdown

CODECS = ("producer", "uncompressed", "gzip", "lz4", "snappy", "zstd")

_COLUMNS = (
    "series",
    "faults",
    "seconds",
    "queries",
    "commits",
    "void",
    "alerts",
    "decisions",
    "problems",
    "differences",
)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console()
    with tempfile.TemporaryDirectory() as data:
        results = _play(Path(data), options, console)
    console.print(_table(results))
    for result in results:
        for line in [*result.problems[:20], *result.differences[:20]]:
            console.print(f"{result.series}: {line}", highlight=False, markup=False, soft_wrap=True)
    return 0 if all(result.passed for result in results) else 1


def _play(data: Path, options: argparse.Namespace, console: Console) -> list[Result]:
    """One series after the other, each on a node of its own, with a line that says what is going on."""
    scale, results = Scale(options.rate, options.partitions), []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        for number, name in enumerate(options.series or SERIES):
            task = bar.add_task(name)
            directory = options.out / f"{number + 1}-{name.replace(' ', '-')}"
            say = partial(_say, bar, task, name)
            with MovingNode(data / str(number), f"compression.type={options.compression}") as node:
                how = {"seed": options.seed + number, "scale": scale, "say": say, "instruments": node.steady}
                results.append(run_series(name, SERIES[name], node, directory, **how))
            _write(results, options.out)
            say("all equal, no problem" if results[-1].passed else "FAILED")
            bar.update(task, total=1, completed=1)
    return results


def _say(bar: Progress, task: TaskID, name: str, text: str) -> None:
    bar.update(task, description=f"{name}: {text}")
    if not bar.console.is_terminal:
        bar.console.print(f"{name}: {text}", highlight=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--series", action="append", choices=list(SERIES), help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=1, help="of queries and moments; each series adds one")
    parser.add_argument("--rate", type=float, default=400.0, help="queries per second")
    parser.add_argument("--partitions", type=int, default=6)
    parser.add_argument("--compression", choices=CODECS, default="producer", help="the broker's compression.type")
    parser.add_argument("--out", type=Path, default=Path("build/chaos"), help="folder for figures and logs")
    return parser


def _write(results: list[Result], out: Path) -> None:
    where = {"machine": platform.machine(), "python": platform.python_version(), "finished": time.strftime("%Y-%m-%d")}
    record = where | {"series": [result.plain() for result in results]}
    (out / "chaos.json").write_text(json.dumps(record, indent=1) + "\n")
    (out / "chaos.md").write_text(as_markdown(results))


def _table(results: list[Result]) -> Table:
    table = Table(*_COLUMNS)
    for result in results:
        figures = [result.audit["commits"], result.audit["void_records"]]
        figures += [result.outcome["alerts"], result.outcome["decisions"]]
        figures += [len(result.problems), len(result.differences)]
        start = [result.series, len(result.faults), round(result.seconds), result.queries]
        table.add_row(*(str(cell) for cell in [*start, *figures]))
    return table


if __name__ == "__main__":
    sys.exit(main())
