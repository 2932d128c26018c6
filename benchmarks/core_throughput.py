"""Queries per second and core of the detection engine, and bytes of state per principal.

1,000 principals, Zipf 0.8, after a warm-up, in micro-batches of 1,024 rows; CPU time of one thread.
``profile``: all signals with a profile, rows as in ``benchmarks.signals``.
Run: python -m benchmarks.core_throughput [--mode default|compatible|profile]
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import argparse
import statistics
import time

import numpy as np
from numpy.typing import NDArray

from benchmarks._core_streams import batches, uniform
from benchmarks.signals import profile, queries, surface
from detector.contracts.queries import QueryBatch
from detector.core.engine import Engine, EngineConfig

PRINCIPALS = 1000
BATCH = 1024


def engine_of(mode: str, dimension: int) -> Engine:
    if mode == "profile":
        return Engine(EngineConfig(profiles=(profile(dimension),)))
    return Engine(EngineConfig(mode="compatible" if mode == "compatible" else "default"))


def stream(mode: str, generator: np.random.Generator, dimension: int, who: NDArray[np.int64]) -> list[list[QueryBatch]]:
    """One query of each of ``who`` in turn."""
    if mode == "profile":
        parts = np.split(who, range(BATCH, len(who), BATCH))
        return [[queries(surface(generator, len(part), dimension), part)] for part in parts]
    return batches(uniform(generator, len(who), dimension), who, BATCH)


def throughput(mode: str, dimension: int, warm: int, timed: int) -> float:
    """Queries per CPU second: the median over ten parts of the timed queries."""
    generator = np.random.default_rng(0)
    share = 1.0 / np.arange(1, PRINCIPALS + 1) ** 0.8
    who = generator.choice(PRINCIPALS, warm + timed, p=share / share.sum())
    engine = engine_of(mode, dimension)
    for batch in stream(mode, generator, dimension, who[:warm]):
        engine.observe(batch)
    rates = []
    for part in np.array_split(who[warm:], 10):
        own = stream(mode, generator, dimension, part)
        started = time.process_time()
        for batch in own:
            engine.observe(batch)
        rates.append(len(part) / (time.process_time() - started))
    return statistics.median(rates)


def bytes_per_principal(mode: str, dimension: int, count: int) -> int:
    generator = np.random.default_rng(1)
    engine = engine_of(mode, dimension)
    for batch in stream(mode, generator, dimension, np.zeros(count, np.int64)):
        engine.observe(batch)
    return engine.nbytes_of(engine.keys()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=("default", "compatible", "profile"), default="default")
    parser.add_argument("--timed", type=int, default=65_536)
    options = parser.parse_args()
    for dimension, warm in ((64, 300_000), (784, 60_000)):
        rate = throughput(options.mode, dimension, warm, options.timed)
        print(f"{options.mode} d={dimension}: {rate:,.0f} queries/s/core")
    for count in (1, 100, 1000, 5000):
        print(f"{options.mode} d=64 n={count}: {bytes_per_principal(options.mode, 64, count):,} bytes a principal")


if __name__ == "__main__":
    main()
