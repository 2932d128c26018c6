"""What both meters have in common as signals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import NotMergeable
from detector.core.signals.base import Delta, Proposal
from detector.core.state.arrays import Array


def metered(statistic: NDArray[np.float64], delta: Delta) -> Proposal:
    """Returns a proposal with an exposure, ``statistic`` float64 (n,) in percent, that raises no alarm."""
    count = len(statistic)
    return Proposal(statistic, np.full(count, np.nan), np.zeros(count, np.bool_), np.nan, {}, delta)


def silent(count: int) -> Proposal:
    """Returns an empty proposal for ``count`` rows."""
    return metered(np.full(count, np.nan), {})


def one_tag(states: Sequence[Delta]) -> Array:
    """Returns uint64 (slots,): the validation set of all members' ``slot_tag``, 0 if they have none. Raises
    NotMergeable if there are several."""
    tags = np.stack([state["slot_tag"] for state in states])
    tag: Array = tags.max(axis=0)
    if ((tags != tag) & (tags != 0)).any():
        raise NotMergeable("these exposures were measured by different validation sets; clear these principals")
    return tag
