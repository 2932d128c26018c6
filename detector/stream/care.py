"""How source records are taken: so many at once, and those that have ended workers one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from detector.stream.black_box import Caution, Flight, Notes
from detector.stream.intake import SourceRecord
from detector.stream.partition import Partition

Work = tuple[Partition, list[SourceRecord]]
"""A partition and its next micro-batch, or command."""


@dataclass(frozen=True, slots=True)
class Care:
    """``microbatch_bytes``: the most that one micro-batch has. ``notes``: where it stands what is being processed."""

    microbatch_bytes: int
    caution: Caution = field(default_factory=Caution)
    notes: Notes = field(default_factory=Notes)

    def micro_batches(self, partition: int, records: Sequence[SourceRecord]) -> Iterator[list[SourceRecord]]:
        """``records`` of one source, in order; a command, or a suspect, is one by itself."""
        batch: list[SourceRecord] = []
        room, alone = self.microbatch_bytes, False
        for record in records:
            before, alone = alone, record.source == "commands" or self._is_suspect(partition, record)
            if batch and (record.nbytes > room or before or alone):
                yield batch
                batch, room = [], self.microbatch_bytes
            batch.append(record)
            room -= record.nbytes
        if batch:
            yield batch

    def groups(self, work: list[Work]) -> list[list[Work]]:
        """What of ``work`` may be processed together: all of it, unless a suspect is among it."""
        if self.caution and any(self._is_suspect(partition.number, records[0]) for partition, records in work):
            return [[one] for one in work]
        return [work]

    def is_poison(self, partition: int, record: SourceRecord) -> bool:
        """Whether ``record`` must be passed by, unread."""
        return bool(self.caution) and self.caution.is_poison(record.source, partition, record.offset)

    def _is_suspect(self, partition: int, record: SourceRecord) -> bool:
        return bool(self.caution) and self.caution.suspects_one(record.source, partition, record.offset)


def flights(work: Iterable[Work]) -> Iterator[Flight]:
    """What is noted of ``work``."""
    for partition, records in work:
        yield Flight(records[0].source, partition.number, records[0].offset, records[-1].offset)
