"""Decayed sums of query scores, over several memories at once, on clocks that advance by a weight per query.

With weight w, a sum S becomes S e^(-w/s) + w v at a query that scores v, where s is the memory. The same sum of v = 1
is the weight so far, and the quotient is an exponentially weighted mean of about the last s queries. Thirty frames of a
video, each of little weight, count as a few queries. The sums of two principals add up.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from detector.core.loops.compiled import compiled

MEMORIES = np.array((8.0, 32.0, 128.0, 512.0))
"""In queries of weight 1."""
DEPTH = len(MEMORIES)

_RATES = -1.0 / MEMORIES  # powers of two, so that a product is the quotient to the bit
_AFTER_ONE = np.array([math.exp(rate) for rate in _RATES.tolist()])

Floats = NDArray[np.float64]


@compiled
def fade(sums: Floats, added: Floats, weights: Floats, clock: NDArray[np.int64], kept: Floats) -> None:
    """Updates ``sums`` (j * memories,), those of one account, by one query, in place: the j-th ones decay by the
    ``clock[j]``-th of ``weights`` (clocks,), from 0 to 1, and grow by ``added[j]``. ``kept`` (clocks, memories)
    receives what is left of 1."""
    for own in range(len(weights)):
        weight = weights[own]
        for memory in range(DEPTH):
            if weight == 0.0:
                kept[own, memory] = 1.0
            elif weight == 1.0:
                kept[own, memory] = _AFTER_ONE[memory]
            else:
                kept[own, memory] = math.exp(weight * _RATES[memory])
    for column in range(len(added)):
        own = clock[column]
        for memory in range(DEPTH):
            at = column * DEPTH + memory
            sums[at] = sums[at] * kept[own, memory] + added[column]
