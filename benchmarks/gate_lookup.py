"""What a look-up in the gate costs the request that waits for it, with 100,000 decisions in memory.

python -m benchmarks.gate_lookup
"""

from __future__ import annotations

import time

import numpy as np

from detector.contracts.codecs import decision_key, encode
from detector.contracts.findings import Action, Decision
from detector.serving import Connection, Gate

DECISIONS = 100_000
LOOKUPS = 200_000
GOAL_MICROSECONDS = 5.0


def filled_gate() -> Gate:
    """A gate in contact, half of whose principals are refused and half slowed."""
    gate = Gate(Connection("127.0.0.1:9"), max_staleness_seconds=3_600)
    gate._started = True
    now = time.time()
    for number in range(DECISIONS):
        action = Action("slow", 1.0) if number % 2 else Action("refuse")
        one = Decision(f"{number:032x}", "digits", f"p{number}", action, "enforce", (1, 1), now, now + 3_600, (), "1")
        gate._table.apply(decision_key(one.model, one.principal), encode(one))
    gate._background.note_contact()
    return gate


def timed(gate: Gate, principals: list[str]) -> np.ndarray:
    """Microseconds of each look-up, the clock's own cost included."""
    spent = np.empty(len(principals))
    for number, principal in enumerate(principals):
        begun = time.perf_counter_ns()
        gate.check("digits", principal)
        spent[number] = time.perf_counter_ns() - begun
    return spent / 1_000


def main() -> None:
    gate = filled_gate()
    numbers = np.random.default_rng(1).integers(0, DECISIONS, LOOKUPS).tolist()
    cases = {"no decision": ("honest-{}", 1), "refuse": ("p{}", 0), "slow": ("p{}", 1)}
    print(f"gate look-up, {DECISIONS:,} decisions, {LOOKUPS:,} look-ups (us)")
    for case, (name, odd) in cases.items():
        p50, p99 = np.percentile(timed(gate, [name.format(number // 2 * 2 + odd) for number in numbers]), [50, 99])
        print(f"{case:12}  p50 {p50:5.2f}  p99 {p99:5.2f}  goal p50 < {GOAL_MICROSECONDS}")


if __name__ == "__main__":
    main()
