"""What the worker tells the outside: health for the watchdog and the probes, metrics for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from detector.stream.intake import SourceRecord

if TYPE_CHECKING:
    from detector.stream.partition import Partition, Step


@dataclass(slots=True)
class Reporter:
    """Gathers facts from the owner; times are seconds of ``clock``, which never goes back."""

    clock: Callable[[], float] = time.monotonic
    partitions_assigned: int = 0
    partitions_recovered: int = 0
    assigned_at: float | None = None
    absorbed_at: float | None = None
    applied_at: float | None = None
    applied: dict[tuple[str, int], int] = field(default_factory=dict)

    def assigned(self, partitions: int) -> None:
        self.partitions_assigned, self.partitions_recovered = partitions, 0
        self.assigned_at = self.absorbed_at = self.clock()

    def absorbed(self) -> None:
        self.absorbed_at = self.clock()

    def recovered(self, partitions: int) -> None:
        self.partitions_recovered = partitions
        self.applied_at = self.clock()

    def took(self, stage: str, seconds: float) -> None:
        """A stage of one micro-batch took ``seconds``."""

    def applied_record(self, partition: Partition, last: SourceRecord, step: Step) -> None:
        """A micro-batch is applied and all that follows from it is published."""
        self.applied_at = self.clock()
        self.applied[last.source, partition.number] = last.offset

    def logged(self, step: Step) -> None:
        """A state record is on the broker."""
