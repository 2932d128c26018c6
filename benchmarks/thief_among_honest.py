"""What one thief among fifty accounts that are taken for honest does to the threshold, and to what is found after.

Run: python -m benchmarks.thief_among_honest
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from detector.contracts.queries import QueryBatch
from detector.core.calibration.scan import Screened, calibrate_screened
from detector.core.calibration.traffic import accounts_of
from detector.core.engine import Engine, EngineConfig
from detector.core.profile import Profile
from detector.lab.data import Dataset
from detector.lab.experiment import AttackPlan, Trace, honest_traces, log_of, session_of, thief_trace, victim_of
from detector.lab.fidelity import Yardstick
from detector.lab.query_log import THIEF, Run
from detector.lab.session import InProcess

DATASET, VICTIM = "digits", "multilayer perceptron"
THIEVES = ("jbda", "knockoff random")
"""Both who hides among the honest accounts, and who is judged afterwards."""
ACCOUNTS, JUDGED, SECONDS = 50, 100, 240.0
BUDGET, THIEF_QUERIES = 0.01, 1_000
CALIBRATION_SEED, JUDGED_SEED = 11, 12


def main() -> None:
    crowd = accounts(honest_traces(*_service(), ACCOUNTS, CALIBRATION_SEED, SECONDS))
    judged = accounts(honest_traces(*_service(), JUDGED, JUDGED_SEED, SECONDS))
    later = {attack: stolen(attack, JUDGED_SEED) for attack in THIEVES}
    heads = ["thief among them", "what is done", "threshold", *(f"{attack} found at" for attack in THIEVES)]
    print("| " + " | ".join([*heads, f"honest flagged, of {len(judged)}"]) + " |")
    print("| --- | --- |" + " --: |" * (len(heads) - 1))
    for attack, done, screened in calibrations(crowd):
        profile = screened.calibration.profile
        found = [_told(first_verdict(profile, later[name])) for name in THIEVES]
        flagged = sum(first_verdict(profile, account) is not None for account in judged)
        print(
            f"| {attack} | {done} | {profile.standards.threshold:.1f} | {' | '.join(found)} | {flagged} |", flush=True
        )


def calibrations(crowd: Sequence[QueryBatch]) -> Iterator[tuple[str, str, Screened]]:
    """Without a thief, and with each: kept, and left out."""
    yield "none", "", calibrate_screened(crowd, BUDGET)
    for attack in THIEVES:
        mixed = sorted([*crowd, stolen(attack, CALIBRATION_SEED)], key=lambda account: account.principals)
        screened = calibrate_screened(mixed, BUDGET)
        yield attack, _done(screened), screened
        yield attack, "left out as asked", calibrate_screened(mixed, BUDGET, [THIEF])


def _done(screened: Screened) -> str:
    named = {outlier.name for outlier in screened.outliers}
    honest = f", and {len(named - {THIEF})} honest named" if named - {THIEF} else ""
    return ("named" if THIEF in named else "not named") + honest


def _service() -> tuple[Dataset, InProcess]:
    dataset, victim = victim_of(DATASET, VICTIM)
    return dataset, InProcess(victim)


def stolen(attack: str, seed: int) -> QueryBatch:
    """Returns the queries of an unhindered thief."""
    dataset, victim = victim_of(DATASET, VICTIM)
    plan = AttackPlan(attack, VICTIM, DATASET, budget=THIEF_QUERIES, seed=seed)
    course = session_of(plan, dataset, InProcess(victim), Yardstick.of(victim, dataset, seed))
    course.run()
    [account] = accounts([thief_trace(attack, course)])
    return account


def accounts(traces: Sequence[Trace]) -> list[QueryBatch]:
    """One batch for each account of ``traces``."""
    run = Run("none", VICTIM, "plain", 0, 0, 0, 0, (), "")
    return accounts_of([log_of(run, _service()[1].output_kind, traces).queries])


def first_verdict(profile: Profile, account: QueryBatch) -> int | None:
    """At which query, from 1, ``account`` is flagged; None if never."""
    seen = Engine(EngineConfig(profiles=(profile,))).observe([account])
    return int(np.argmax(seen.flagged)) + 1 if seen.flagged.any() else None


def _told(query: int | None) -> str:
    return "never" if query is None else str(query)


if __name__ == "__main__":
    main()
