"""What each measure is worth: the lab's attacks on four small victims without it, and with it alone.

Calibration and judged accounts as in ``benchmarks.calibrated``. Tables where leaving one out changes little tell that
the measures back each other up, not that it is worth nothing: see the column *alone*. Run: python -m
benchmarks.ablation
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

from dataclasses import dataclass
from functools import partial
from statistics import median

from rich.console import Console
from rich.progress import Progress

from benchmarks._detecting import Account, account, judge
from benchmarks.calibrated import BUDGETS, CALIBRATION, SEED, honest
from detector.core.calibration.calibrate import calibrate
from detector.core.calibration.crossfit import COLUMNS
from detector.lab.experiment import AttackPlan, session_of, thief_trace, victim_of
from detector.lab.fidelity import Yardstick
from detector.lab.session import InProcess

_IMAGES = (*(name for name in BUDGETS if not name.startswith("cloudleak")), "cloudleak pgd")
_LINEAR = ("equation solving", "lowd-meek", "line-search retraining", "adaptive retraining", "uniform retraining")
TARGETS = {
    ("digits", "multilayer perceptron"): _IMAGES,
    ("digits", "logistic regression"): _IMAGES,
    ("categorical", "decision tree"): ("path finding bottom-up", "path finding top-down"),
    ("breast cancer", "logistic regression"): _LINEAR,
}
BUDGET = 500
JUDGED = 50


@dataclass(frozen=True, slots=True)
class Case:
    """One victim: honest accounts to calibrate on and to judge, and a thief an attack."""

    calibration: list[Account]
    honest: list[Account]
    thieves: list[Account]


def case(dataset: str, victim: str, attacks: tuple[str, ...]) -> Case:
    data, model = victim_of(dataset, victim)
    thieves = []
    for name in attacks:
        plan = AttackPlan(name, victim, dataset, budget=BUDGET, seed=SEED)
        course = session_of(plan, data, InProcess(model), Yardstick.of(model, data, 0, 10))
        course.run()
        trace = thief_trace(name, course)
        thieves.append(account("thief", name, trace.features, trace.outputs))
    return Case(honest(data, model, 0, CALIBRATION, SEED), honest(data, model, 1, JUDGED, SEED + 1), thieves)


def outcome(cases: list[Case], measures: tuple[str, ...]) -> str:
    """Attacks found, the median first verdict, and honest accounts flagged, as cells."""
    firsts, flagged, judged, thieves = [], 0, 0, 0
    for case in cases:
        accounts = [each.queries for each in case.calibration]
        profile = calibrate(accounts, 0.01, measures=measures).profile
        found = [judge(thief, profile).first for thief in case.thieves]
        firsts += [first for first in found if first]
        flagged += sum(judge(each, profile).first is not None for each in case.honest)
        judged, thieves = judged + len(case.honest), thieves + len(found)
    when = f"{median(firsts):.0f}" if firsts else ""
    return f"{len(firsts)} of {thieves} | {when} | {flagged} of {judged}"


def main() -> None:
    with Progress(console=Console(stderr=True)) as progress:
        making = progress.add_task("attacks", total=len(TARGETS))
        cases = []
        for (dataset, victim), attacks in TARGETS.items():
            cases.append(case(dataset, victim, attacks))
            progress.advance(making)
        ablation = progress.add_task("ablation", total=2 * len(COLUMNS) + 1)
        tell = partial(outcome, cases)
        print("| measures | found | median first query | honest flagged |\n|---|---|---|---|")
        print(f"| all | {tell(COLUMNS)} |", flush=True)
        for name in COLUMNS:
            without = tuple(other for other in COLUMNS if other != name)
            print(f"| without `{name}` | {tell(without)} |", flush=True)
            progress.advance(ablation)
            print(f"| `{name}` alone | {tell((name,))} |", flush=True)
            progress.advance(ablation)


if __name__ == "__main__":
    main()
