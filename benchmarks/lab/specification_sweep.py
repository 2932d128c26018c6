"""The sweep of a model zoo, beside a thief who knows no cell."""

from __future__ import annotations

import numpy as np

from benchmarks.lab._markdown import percent, table
from benchmarks.lab._workers import Workers
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.augmentation import JacobianAugmentation
from detector.lab.attackers.specification_sweep import SpecificationSweep
from detector.lab.fidelity import agreement
from detector.lab.victims.digits import load_split
from tests.lab import zoo
from tests.lab.zoo import blind_offline, sweep_offline

LATENCIES = ((2.0, "3 hidden units"), (4.0, "6 hidden units"), (10.0, "12 hidden units"))
BUDGET = 1_000
SEEDS = range(3)


def stolen(latency: float, seed: int) -> tuple[int, float, float]:
    """Queries until the cell is found; agreement with the wanted model by the sweep, and without."""
    split = load_split()
    models, knowledge = zoo.new(split, 0), Knowledge.of(split)
    wanted = models.models[models.best_within(latency)].victim
    sweep = SpecificationSweep(knowledge, budget=BUDGET, seed=seed, latency=latency)
    to_cell = _to_cell(SpecificationSweep(knowledge, budget=BUDGET, seed=seed, latency=latency), models)
    sweep_offline(sweep, models)
    blind = JacobianAugmentation(knowledge, BUDGET, seed)
    blind_offline(blind, models, latency=latency, budget=BUDGET, rng=np.random.default_rng([2, seed]))
    informed, other = (agreement(wanted, thief.clone(), split.test.features) for thief in (sweep, blind))
    return to_cell, informed, other


def _to_cell(sweep: SpecificationSweep, models: zoo.Zoo) -> int:
    queries = 0
    while sweep.cell is None:
        batch = sweep.next_batch()
        sweep.observe(batch, models.answer(batch, sweep.next_specifications()))
        queries += len(batch)
    return queries


def tables(workers: Workers) -> str:
    means = workers.means(stolen, [(latency,) for latency, _ in LATENCIES], SEEDS)
    columns = ("latency allowed", "wanted model", "queries to its cell", "sweep", "no sweep")
    rows = [
        (f"{latency:g} ms", wanted, f"{to_cell:g}", percent(informed), percent(blind))
        for (latency, wanted), (to_cell, informed, blind) in zip(LATENCIES, means, strict=True)
    ]
    return table(columns, rows)
