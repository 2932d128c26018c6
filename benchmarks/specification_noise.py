"""Noise on the specification that a request asks of a model zoo: what the sweep of a thief gets, and what honest users.

python -m benchmarks.specification_noise

Goodput is the share of honest requests, each for what one of the models offers, that a model with that accuracy or more
and that latency or less answers. Fidelity is to the model that the thief wants, of the clone after 1,000 queries.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab._markdown import percent, table
from benchmarks.lab._workers import workers
from detector.lab.answers import Answers
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.specification_sweep import SpecificationSweep
from detector.lab.fidelity import agreement
from detector.lab.victims.digits import load_split
from detector.serving.responses import NoiseKey
from detector.serving.responses.noise import specification_noise
from tests.lab import zoo
from tests.lab.zoo import sweep_offline

SCALES = (0.0, 0.02, 0.05, 0.1, 0.2)
LATENCY = 10.0
BUDGET, SEEDS, HONEST_REQUESTS = 1_000, (0, 1), 4_000

Rows = NDArray[np.float32]


class NoisyZoo(zoo.Zoo):
    """Chooses a model by what is requested and noise of ``scale``."""

    def __init__(self, models: tuple[zoo.ZooModel, ...], scale: float, seed: int) -> None:
        super().__init__(models)
        self._scale, self._key = scale, NoiseKey(b"key of the zoo %2d" % seed)

    def answer(self, features: Rows, specifications: Rows) -> Answers:
        draws = self._key.draws("account", "zoo", features, len(features))
        offered = [(model.accuracy, model.latency) for model in self.models]
        noisy = specification_noise(specifications, draws, self._scale, offered)
        possible = (self.chosen(specifications) >= 0)[:, None]
        return super().answer(features, np.where(possible, noisy, specifications).astype(np.float32))


def measured(scale: float, seed: int) -> tuple[float, float]:
    """Fidelity of the clone, and goodput."""
    split = load_split()
    plain = zoo.new(split, 0)
    wanted = plain.models[plain.best_within(LATENCY)].victim
    sweep = SpecificationSweep(Knowledge.of(split), budget=BUDGET, seed=seed, latency=LATENCY)
    sweep_offline(sweep, NoisyZoo(plain.models, scale, seed))
    return agreement(wanted, sweep.clone(), split.test.features), goodput(plain, scale, seed)


def goodput(plain: zoo.Zoo, scale: float, seed: int) -> float:
    rng = np.random.default_rng(seed)
    offered = np.array([(model.accuracy, model.latency) for model in plain.models], np.float32)
    asked = offered[rng.integers(len(offered), size=HONEST_REQUESTS)]
    draws = NoiseKey(b"key of the zoo %2d" % seed).draws("honest", "zoo", rng.random((len(asked), 8)), len(asked))
    served = offered[plain.chosen(specification_noise(asked, draws, scale, offered).astype(np.float32))]
    return float(((served[:, 0] >= asked[:, 0]) & (served[:, 1] <= asked[:, 1])).mean())


def main() -> None:
    with workers("specification noise") as pool:
        means = pool.means(measured, [(scale,) for scale in SCALES], SEEDS)
    rows = [(f"{scale:g}", *map(percent, mean)) for scale, mean in zip(SCALES, means, strict=True)]
    print(table(("scale", "fidelity", "goodput"), rows))


if __name__ == "__main__":
    main()
