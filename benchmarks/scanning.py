"""How long a scan of a log of a thousand accounts of a thousand queries at 64 features takes, in how much memory, and
how large its report is.

Accounts as in ``benchmarks.calibrating``, and three who ask uniformly at random. Run: python -m benchmarks.scanning
[--quick]
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks._detecting import account
from benchmarks.calibrating import crowd
from detector.contracts.queries import QueryBatch

ACCOUNTS, QUERIES, DIMENSION, CLASSES = 1_000, 1_000, 64, 10
QUICK = (60, 100)
THIEVES = 3


def accounts(count: int, queries: int) -> Iterator[QueryBatch]:
    """The honest ones and then the thieves."""
    yield from crowd(count, queries, DIMENSION)
    rng = np.random.default_rng(9)
    for number in range(THIEVES):
        rows = rng.uniform(-1, 1, (queries, DIMENSION)).astype(np.float32)
        yield account(f"thief-{number}", "", rows, rng.dirichlet(np.ones(CLASSES), queries)).queries


def write(path: Path, count: int, queries: int) -> None:
    """The log as Parquet, an account after the other."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = None
    for number, own in enumerate(accounts(count, queries)):
        columns = {
            "event_id": [f"{number}-{row}" for row in range(queries)],
            "occurred_at": 1_767_225_600.0 + own.occurred_at,
            "principal": own.principals * queries,
            "model": ["m"] * queries,
            "model_version": ["1"] * queries,
            "features": pa.FixedSizeListArray.from_arrays(own.features.ravel(), DIMENSION),
            "outputs": pa.FixedSizeListArray.from_arrays(own.outputs.ravel(), CLASSES),
        }
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few accounts, to see that it runs")
    count, queries = QUICK if parser.parse_args().quick else (ACCOUNTS, QUERIES)
    with TemporaryDirectory() as folder:
        log, out = Path(folder) / "log.parquet", Path(folder) / "report"
        write(log, count, queries)
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "detector.cli.main", "scan", log, "--out", out], check=True)
        seconds = time.perf_counter() - started
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        sizes = {path.name: f"{path.stat().st_size / 1e6:.2f} MB" for path in sorted(out.iterdir())}
    most = used.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    print(f"{count + THIEVES:,} accounts, {(count + THIEVES) * queries:,} queries: {seconds:.0f} s, ", end="")
    print(f"{used.ru_utime + used.ru_stime:.0f} s of computing, {most:,.0f} MB at most; {sizes}")


if __name__ == "__main__":
    main()
