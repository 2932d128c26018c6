"""CPU of all signals over that of `prada` alone on the lab's image accounts, of 64 and of 784 features.

Each account by itself from its first query on, in micro-batches of 256 in fresh engines, both turn by turn, the least
of three runs, one thread; the profile is of twelve other honest accounts. Beside honest users of all habits and
thieves, two that repeat one image, the second with noise of a millionth. Run: python -m
benchmarks.signals_on_images
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import statistics
import time
from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks._detecting import Account, account
from benchmarks.calibrated import carried_out, honest, stolen
from detector.contracts.batches import cut
from detector.core.calibration.calibrate import calibrate
from detector.core.engine import Engine, EngineConfig
from detector.core.profile import Profile
from detector.core.signals import SIGNALS
from detector.lab.answers import Victim
from detector.lab.data import Dataset
from detector.lab.experiment import victim_of

VICTIMS = ("digits:multilayer perceptron", "mnist:convolutional network")
THIEVES = ("jbda", "n-fgsm", "knockoff random", "copycat", "cloudleak pgd", "equation solving", "finite differences")
CALIBRATION, HONEST = 12, 20
BATCH, RUNS, SAME = 256, 3, 512
SEED = 31


def same(dataset: Dataset, victim: Victim, noise: float) -> Account:
    """One image for ever, but for ``noise``."""
    rows = np.repeat(dataset.honest.features[:1], SAME, axis=0)
    rows = (rows + np.random.default_rng(SEED).normal(0, noise, rows.shape)).astype(np.float32)
    return account("same", "one for ever", rows, victim.answer(rows).probabilities)


def kinds(dataset: Dataset, victim: Victim, progress: Progress) -> Iterator[tuple[str, list[Account]]]:
    yield "honest", honest(dataset, victim, 1, HONEST, SEED + 1)
    names = progress.track(THIEVES, description=f"attacks on {dataset.name}")
    yield "thieves", [stolen(name, carried_out(dataset, victim, name, SEED)) for name in names]
    yield "one image repeated", [same(dataset, victim, 0.0)]
    yield "the same with noise", [same(dataset, victim, 1e-6)]


def cost(own: Account, profile: Profile) -> tuple[float, float]:
    """CPU microseconds a query: (`prada` alone, all signals)."""
    runs = [_run(own, profile) for _ in range(RUNS)]
    alone, every = (min(times) / len(own.queries) * 1e6 for times in zip(*runs, strict=True))
    return alone, every


def _run(own: Account, profile: Profile) -> tuple[float, float]:
    engines = (Engine(EngineConfig(), {"prada": SIGNALS["prada"]}), Engine(EngineConfig(profiles=(profile,))))
    times = [0.0, 0.0]
    for start in range(0, len(own.queries), BATCH):
        batch = [cut(own.queries, start, min(start + BATCH, len(own.queries)))]
        for at, engine in enumerate(engines):
            started = time.process_time()
            engine.observe(batch)
            times[at] += time.process_time() - started
    return times[0], times[1]


def main() -> None:
    print("| features | accounts | `prada` alone | all signals | ratio | largest ratio |")
    print("|---|---|---|---|---|---|")
    with Progress(console=Console(stderr=True)) as progress:
        for target in VICTIMS:
            dataset, victim = victim_of(*target.split(":"))
            others = [own.queries for own in honest(dataset, victim, 0, CALIBRATION, SEED)]
            profile = calibrate(others, 0.01).profile
            for kind, accounts in kinds(dataset, victim, progress):
                costs = [cost(own, profile) for own in progress.track(accounts, description=kind)]
                alone, every = (statistics.median(column) for column in zip(*costs, strict=True))
                ratios = [whole / part for part, whole in costs]
                cells = (others[0].dimension, f"{kind}, {len(accounts)}", f"{alone:.0f} us", f"{every:.0f} us")
                print(f"| {' | '.join(map(str, cells))} | {statistics.median(ratios):.2f} | {max(ratios):.2f} |")


if __name__ == "__main__":
    main()
