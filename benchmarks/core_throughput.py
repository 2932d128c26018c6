"""Queries per second and core of the detection engine, and bytes of state per principal.

1,000 principals, Zipf 0.8, after a warm-up, in micro-batches of 1,024 rows; CPU time of one thread.
Run: python benchmarks/core_throughput.py [--mode default|compatible]
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import argparse
import statistics
import time

import numpy as np

from benchmarks._core_streams import batches, uniform
from detector.core.configuration import EngineMode
from detector.core.engine import Engine, EngineConfig

PRINCIPALS = 1000
BATCH = 1024


def throughput(mode: EngineMode, dimension: int, warm: int, timed: int) -> float:
    """Queries per CPU second: the median over ten parts of the timed queries."""
    generator = np.random.default_rng(0)
    share = 1.0 / np.arange(1, PRINCIPALS + 1) ** 0.8
    who = generator.choice(PRINCIPALS, warm + timed, p=share / share.sum())
    engine = Engine(EngineConfig(mode=mode))
    for batch in batches(uniform(generator, warm, dimension), who[:warm], BATCH):
        engine.observe(batch)
    rates = []
    for part in np.array_split(who[warm:], 10):
        queries = batches(uniform(generator, len(part), dimension), part, BATCH)
        started = time.process_time()
        for batch in queries:
            engine.observe(batch)
        rates.append(len(part) / (time.process_time() - started))
    return statistics.median(rates)


def bytes_per_principal(mode: EngineMode, dimension: int, queries: int) -> int:
    generator = np.random.default_rng(1)
    engine = Engine(EngineConfig(mode=mode))
    for batch in batches(uniform(generator, queries, dimension), np.zeros(queries, int), BATCH):
        engine.observe(batch)
    return engine.nbytes_of(engine.keys()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=("default", "compatible"), default="default")
    parser.add_argument("--timed", type=int, default=65_536)
    options = parser.parse_args()
    for dimension, warm in ((64, 300_000), (784, 60_000)):
        rate = throughput(options.mode, dimension, warm, options.timed)
        print(f"{options.mode} d={dimension}: {rate:,.0f} queries/s/core")
    for queries in (1, 100, 1000, 5000):
        print(f"{options.mode} d=64 n={queries}: {bytes_per_principal(options.mode, 64, queries):,} bytes a principal")


if __name__ == "__main__":
    main()
