"""What a response costs the request that waits for it: one vector of 100 classes, and a row of a batch of 1,000.

python -m benchmarks.responses

Times are of the processor, in microseconds, the noise's key included; the median and the 90th percentile over the
vectors of a sure model (most of the probability in few classes) and of an unsure one. The last column compares a batch
with what any server does with it: argmax and a copy.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from detector.serving.responses import RESPONSES, Draws, NoiseKey, Response

CLASSES, ROWS, FEATURES = 100, 1_000, 64
GOAL_MICROSECONDS = 200.0
CONCENTRATIONS = {"sure": 0.02, "unsure": 1.0}

_KEY = NoiseKey(b"a key for benchmarks")
_BATCHES = 9


def spent(call: Callable[[], object]) -> float:
    """Returns the microseconds of processor time that ``call`` takes."""
    begun = time.thread_time_ns()
    call()
    return (time.thread_time_ns() - begun) / 1_000


def answered(response: Response, features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    draws = _KEY.draws("principal", "model", features, len(rows)) if response.keyed else Draws.none(len(rows))
    return response.change(rows, draws, response.checked({}))


def measured(response: Response, concentration: float) -> tuple[float, float, float]:
    """Returns median and 90th percentile of one vector, and the median of a row in a batch."""
    rng = np.random.default_rng(0)
    rows, features = rng.dirichlet(np.full(CLASSES, concentration), ROWS), rng.random((ROWS, FEATURES))
    for at in range(20):
        answered(response, features[at : at + 1], rows[at : at + 1])
    single = [spent(lambda at=at: answered(response, features[at : at + 1], rows[at : at + 1])) for at in range(ROWS)]  # type: ignore[misc]
    batch = [spent(lambda: answered(response, features, rows)) / ROWS for _ in range(_BATCHES)]
    return float(np.median(single)), float(np.percentile(single, 90)), float(np.median(batch))


def main() -> None:
    rows = np.random.default_rng(0).dirichlet(np.full(CLASSES, 0.02), ROWS)
    plain = float(np.median([spent(lambda: (rows.argmax(axis=1), rows.copy())) / ROWS for _ in range(200)]))
    print(
        f"argmax and copy of {ROWS:,} x {CLASSES}: {plain:.3f} us a row; goal: one vector < {GOAL_MICROSECONDS:.0f} us"
    )
    print("response         model   vector p50     p90   row of a batch   times argmax and copy")
    for name, response in RESPONSES.items():
        for kind, concentration in CONCENTRATIONS.items():
            p50, p90, row = measured(response, concentration)
            print(f"{name:16} {kind:7} {p50:9.1f} {p90:7.1f} {row:16.2f} {row / plain:17.0f}")


if __name__ == "__main__":
    main()
