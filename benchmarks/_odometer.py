"""How well the odometer ranks thieves by the fidelity of their clones, and its curve from agreement to fidelity.

All attacks that handle a victim, on five victims, each after 15, 31, 62 and so on up to 1,000 answers. The clones are
those of the attacks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab._workers import workers
from detector.contracts.errors import LabError
from detector.core.exposure import Validation
from detector.core.reference.reference import scale_and_ranges
from detector.lab.attackers import ATTACKS, EVASIONS
from detector.lab.attackers.attacker import Knowledge
from detector.lab.experiment import PAUSE, thief_trace, victim_of
from detector.lab.fidelity import Yardstick
from detector.lab.session import AttackSession, InProcess
from detector.lab.wrappers import PLAIN, WRAPPERS
from detector.replay.odometer import Odometer

VICTIMS = (
    ("multilayer perceptron", "digits"),
    ("logistic regression", "digits"),
    ("decision tree", "categorical"),
    ("gradient boosting", "credit"),
    ("multilayer perceptron", "mnist"),
)
CHECKPOINTS = (15, 31, 62, 125, 250, 500, 1_000)
KNOTS = np.linspace(0, 1, 11)
_NEAREST = 0.15
_FEWEST = 30

Points = NDArray[np.float64]
"""(n, 2): agreement of the small clones, and fidelity of the thief's."""


def points(victim: str, dataset: str, attack: str) -> Points:
    """Those of ``attack`` at each checkpoint; none where it does not handle the victim."""
    data, model = victim_of(dataset, victim)
    try:
        attacker = ATTACKS[attack](Knowledge.of(data), CHECKPOINTS[-1], 0)
        disguise = WRAPPERS[PLAIN](data, PAUSE, 0)
        session = AttackSession(attacker, InProcess(model), disguise, Yardstick.of(model, data, 0), CHECKPOINTS)
        session.run()
        trace = thief_trace(attack, session)
    except LabError:
        return np.empty((0, 2))
    features = np.nan_to_num(trace.features)
    odometer = odometer_of(victim, dataset)
    found = [
        (odometer.agreement(features[: one.queries], trace.outputs[: one.queries], "probabilities"), one.test)
        for one in session.curve
    ]
    return np.array([own for own in found if own[0] is not None], np.float64).reshape(-1, 2)


@lru_cache(maxsize=len(VICTIMS))
def odometer_of(victim: str, dataset: str) -> Odometer:
    """As the owner has it: with the training rows and the model's answers as validation set."""
    data, model = victim_of(dataset, victim)
    rows = data.training.features
    validation = Validation.of(rows, model.probabilities(rows).argmax(axis=1))
    kept = validation.features
    return Odometer(validation, scale_and_ranges(kept, np.zeros(len(kept), np.int64))[0])


def measured() -> dict[tuple[str, str], Points]:
    """Of each of VICTIMS."""
    attacks = sorted(set(ATTACKS) - EVASIONS)
    calls = [(*victim, attack) for victim in VICTIMS for attack in attacks]
    with workers("odometer") as pool:
        found = pool.each(points, calls)
    return {
        victim: np.concatenate(found[at * len(attacks) : (at + 1) * len(attacks)]) for at, victim in enumerate(VICTIMS)
    }


def curve(found: Points) -> NDArray[np.float64]:
    """Returns (11, 4): agreement, and the lowest tenth, the median and the highest tenth of the fidelity of the points
    nearest to it, none falling."""
    count = max(int(_NEAREST * len(found)), _FEWEST)
    columns = []
    for knot in KNOTS:
        nearest = np.argsort(np.abs(found[:, 0] - knot), kind="stable")[:count]
        columns.append(np.quantile(found[nearest, 1], (0.1, 0.5, 0.9)))
    return np.column_stack((KNOTS, np.maximum.accumulate(columns, axis=0)))


def rank_correlation(found: Points) -> float:
    """Spearman's."""
    from scipy.stats import spearmanr

    return float(spearmanr(found[:, 0], found[:, 1]).statistic)


def within(found: Mapping[tuple[str, str], Points], left_out: tuple[str, str]) -> tuple[float, float]:
    """The share of a victim's clones inside the interval of a curve fitted to the other victims, and the mean distance
    from the estimate."""
    fitted = curve(np.concatenate([own for victim, own in found.items() if victim != left_out]))
    own = found[left_out]
    low, middle, high = (np.interp(own[:, 0], fitted[:, 0], column) for column in fitted.T[1:])
    inside = (own[:, 1] >= low - 1e-9) & (own[:, 1] <= high + 1e-9)
    return float(inside.mean()), float(np.abs(own[:, 1] - middle).mean())


COLUMNS = ("victim", "clones", "rank correlation", "inside the interval, %", "mean error, points")


def lines(found: Mapping[tuple[str, str], Points]) -> list[Sequence[str]]:
    every = np.concatenate(list(found.values()))
    shares = {victim: within(found, victim) for victim in found}
    rows: list[Sequence[str]] = [
        (
            f"{victim[0]} on {victim[1]}",
            f"{len(own):,}",
            f"{rank_correlation(own):.2f}",
            f"{100 * shares[victim][0]:.0f}",
            f"{100 * shares[victim][1]:.1f}",
        )
        for victim, own in found.items()
    ]
    weights = [len(own) for own in found.values()]
    inside, error = (np.average([share[at] for share in shares.values()], weights=weights) for at in (0, 1))
    rows.append(
        ("all", f"{len(every):,}", f"{rank_correlation(every):.3f}", f"{100 * inside:.0f}", f"{100 * error:.1f}")
    )
    return rows
