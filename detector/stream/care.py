"""How source records are processed: in micro-batches of bounded size, and one by one where they have ended workers."""

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
    """``microbatch_bytes``: the most bytes of a micro-batch. ``notes``: where the worker notes what it processes."""

    microbatch_bytes: int
    caution: Caution = field(default_factory=Caution)
    notes: Notes = field(default_factory=Notes)

    def micro_batches(self, partition: int, records: Sequence[SourceRecord]) -> Iterator[list[SourceRecord]]:
        """Yields ``records`` of one source in micro-batches, in order; a command, or a suspect, is one by itself."""
        batch: list[SourceRecord] = []
        room, alone = self.microbatch_bytes, False
        for record in records:
            suspect = self.caution.suspects_one(record.source, partition, record.offset)
            before, alone = alone, suspect or record.source == "commands"
            if batch and (record.nbytes > room or before or alone):
                yield batch
                batch, room = [], self.microbatch_bytes
            batch.append(record)
            room -= record.nbytes
        if batch:
            yield batch

    def groups(self, work: list[Work]) -> list[list[Work]]:
        """Returns ``work`` in groups to process together: all of it, unless a suspect is among it."""
        suspect = any(self.caution.suspects_one(*flight[:3]) for flight in flights(work))
        return [[one] for one in work] if suspect else [work]

    def is_poison(self, partition: int, record: SourceRecord) -> bool:
        """Returns whether ``record`` must be skipped unread."""
        return self.caution.is_poison(record.source, partition, record.offset)


def flights(work: Iterable[Work]) -> Iterator[Flight]:
    """Returns the notes of ``work``."""
    for partition, records in work:
        yield Flight(records[0].source, partition.number, records[0].offset, records[-1].offset)
