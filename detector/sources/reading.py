"""One reading of logs, from the first to the last: how their columns are named, and what was found out on the way."""

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
    """``sources``: what was said of columns; ``tell`` is told, once each, what was assumed; ``merge``: several logs are
    read as one, by ``occurred_at``, else one after another. Logs that have the same columns are read alike, and rows
    without a time follow one another over all logs."""

    sources: Sources = field(default_factory=dict)
    tell: Callable[[str], None] = lambda _: None
    merge: bool = False
    _plans: dict[frozenset[str], Plan] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)
    _timeless: int = 0

    def plan(self, path: Path, looks: Callable[[], dict[str, Look]], names: frozenset[str]) -> Plan:
        """The plan for the table in ``path`` with columns ``names``, whose ``looks`` are asked for where no table
        before had the same. Raises ConfigurationError."""
        if names not in self._plans:
            given = {name: Look("text", varied=True) for name in partitions(path)}
            plan = self._plans[names] = make_plan(path, given | looks(), self.sources)
            for one in plan.notes:
                if one not in self._told:
                    self._told.add(one)
                    self.tell(f"{path}: {one}")
        return self._plans[names]

    def times(self, rows: int) -> NDArray[np.float64]:
        """The times of the next ``rows`` rows that have none, float64 (rows,), seconds UTC."""
        first = self._timeless + 1
        self._timeless += rows
        return np.arange(first, first + rows, dtype=np.float64)
