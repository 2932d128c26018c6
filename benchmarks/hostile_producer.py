"""A million records of structured nonsense among 100,000 good ones, on Apache Kafka: nothing stops, all good is judged.

Types, sizes, encodings, compressions, timestamps, keys, headers, transactions and commands as no sane producer sends
them (``tests/chaos/nonsense.py``), to one worker, and good queries in the same batches. Every principal's queries in
the state log are held against what was sent. A flood of newcomers comes first, so that what the worker holds by
principal is full before the first record of nonsense; its memory, and what it counts as its state, are looked at every
second.
Run: python -m benchmarks.hostile_producer [--records N] [--seed S]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.brokers.node import KafkaNode
from tests.chaos.looks import Look
from tests.chaos.onslaught import Onslaught, run

NEWCOMERS = 60_000
"""Three in four have an account of unjudged queries, of which 40,000 are kept, and the others a state, of which 4,000
are: more than there is room for."""

_SHARES = (0.05, 0.25, 0.5, 0.75, 1.0)


def main() -> int:
    """Exit status 1 where a good query was not judged, or the worker stopped."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile_producer", description=__doc__)
    parser.add_argument("--records", type=int, default=100_000, help="of nonsense; a tenth as many are good")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", type=Path, help="folder for the worker's log")
    options = parser.parse_args()
    if shutil.which("java") is None:
        print("no Java here, and so no Apache Kafka: not run")
        return 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory() as folder,
        KafkaNode(Path(folder) / "kafka") as node,
        Progress(*columns, console=Console(stderr=True)) as bar,
    ):
        task = bar.add_task("records sent", total=options.records)
        found = run(
            node.bootstrap,
            options.log or Path(folder),
            records=options.records,
            good=options.records // 10,
            newcomers=NEWCOMERS,
            seed=options.seed,
            progress=lambda records: bar.advance(task, records),
        )
    _print(found)
    return 1 if found.unjudged or found.restarts else 0


def _print(found: Onslaught) -> None:
    refused = ", ".join(f"{reason} {count:,}" for reason, count in found.counted.most_common() if count)
    rows = {
        "records of nonsense": f"{found.sent.records:,}",
        "good records, and queries in them": f"{found.sent.good:,}, {found.sent.due.total():,}",
        "records in aborted transactions": f"{found.sent.given_up:,}",
        "good queries judged": f"{sum((found.judged & found.sent.due).values()):,}",
        "principals with another number of judged queries": f"{len(found.unjudged):,}",
        "queries judged in all": f"{found.rows:,}",
        "refused rows and records": f"{found.counted.total():,}",
        "dead letters, and what is in none": f"{found.letters:,}, {found.not_kept:,}",
        "restarts": f"{found.restarts:,}",
        "seconds, and CPU seconds of the worker": f"{found.seconds:,.0f}, {found.cpu_seconds:,.0f}",
    }
    for name, value in rows.items():
        print(f"| {name} | {value} |")
    print(f"refused: {refused}")
    _print_memory(found)


def _print_memory(found: Onslaught) -> None:
    looks: dict[str, Look | None] = {"at start": found.began, "newcomers applied": found.full}
    looks |= {f"{share:.0%} sent": found.at(share) for share in _SHARES}
    looks |= {"all applied": found.rested}
    print("| | resident, MB | state, MB | records waiting |")
    print("|---|---|---|---|")
    for when, look in looks.items():
        if look is not None:
            print(f"| {when} | {look.resident:,.0f} | {look.state:,.1f} | {look.waiting:,} |")


if __name__ == "__main__":
    sys.exit(main())
