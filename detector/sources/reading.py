"""The options and the state of reading one set of logs: mapping, plans and notes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detector.sources.looks import Look
from detector.sources.mapping import Sources
from detector.sources.paths import partitions
from detector.sources.plan import Plan, make_plan


@dataclass(slots=True)
class Reading:
    """``sources``: the column mapping given by the user. ``tell`` is called once with each assumption. ``merge``: read
    several logs as one, sorted by ``occurred_at``, instead of one after another. Logs with the same columns share a
    plan. Rows without a time are numbered through all logs."""

    sources: Sources = field(default_factory=dict)
    tell: Callable[[str], None] = lambda _: None
    merge: bool = False
    _plans: dict[frozenset[str], Plan] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)
    _timeless: int = 0

    def plan(self, path: Path, looks: Callable[[], dict[str, Look]], names: frozenset[str]) -> Plan:
        """Returns the plan for the table in ``path`` with columns ``names``. Calls ``looks`` only for new columns.
        Raises ConfigurationError."""
        if names not in self._plans:
            given = {name: Look("text", varied=True) for name in partitions(path)}
            plan = self._plans[names] = make_plan(path, given | looks(), self.sources)
            for one in plan.notes:
                if one not in self._told:
                    self._told.add(one)
                    self.tell(f"{path}: {one}")
        return self._plans[names]

    def times(self, rows: int) -> NDArray[np.float64]:
        """Returns times for the next ``rows`` rows without a time, float64 (rows,), seconds UTC."""
        first = self._timeless + 1
        self._timeless += rows
        return np.arange(first, first + rows, dtype=np.float64)
