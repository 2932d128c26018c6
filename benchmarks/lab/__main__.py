"""Prints the tables of docs/lab.md as Markdown; all of them, or those that are named.

Run: python -m benchmarks.lab [TABLE ...]
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import argparse
import time
from collections.abc import Callable

from benchmarks.lab import (
    answers,
    hardened,
    inversion_and_evasion,
    linear,
    path_finding,
    specification_sweep,
    substitutes,
)
from benchmarks.lab._workers import Workers, workers

TABLES: dict[str, Callable[[Workers], str]] = {
    "hardened": hardened.tables,
    "answers": answers.tables,
    "specification-sweep": specification_sweep.tables,
    "path-finding": path_finding.tables,
    "inversion-and-evasion": inversion_and_evasion.tables,
    "linear": linear.tables,
    "substitutes": substitutes.tables,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.lab", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", nargs="*", metavar="TABLE", help=f"one of: {', '.join(TABLES)}")
    names = parser.parse_args().table or list(TABLES)
    if unknown := sorted(set(names) - set(TABLES)):
        parser.error(f"no table is called {', '.join(unknown)}; there are {', '.join(TABLES)}")
    for name in names:
        started = time.monotonic()
        with workers(name) as crew:
            text = TABLES[name](crew)
        print(f"{name}, {time.monotonic() - started:.0f} s\n\n{text}\n", flush=True)


if __name__ == "__main__":
    main()
