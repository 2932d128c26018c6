"""Finds the record that ends its worker: a worker notes what it is about to process, and the note outlives the worker.

The note is in memory that the supervisor makes and the worker inherits: it outlives a killed process, and needs no
disk. When a worker ends twice at the same offsets, these are suspects: the next worker processes each of them alone. A
suspect that ends a worker alone is poison: the next worker sends it to the dead letters, unread.

Standard library only, so that the supervisor has little that can fail.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self, TypeVar

NOTE_VARIABLE = "WEIRGUARD_BLACK_BOX"
"""Environment variable with the file descriptor of the note."""

QUARANTINE_VARIABLE = "WEIRGUARD_CAUTION"
"""Environment variable with the suspects and the poison, as JSON."""

_BYTES = 65_536
_LENGTH = struct.Struct("<I")
_MAX_KEPT = 1_000
"""The most suspects and poison records that are kept: an environment variable has a size limit."""

K = TypeVar("K")
V = TypeVar("V")

SourcePartition = tuple[str, int]
"""(source, partition)."""


class OffsetRange(NamedTuple):
    """Records ``first`` to ``last`` of a partition of a source, being processed."""

    source: str
    partition: int
    first: int
    last: int

    @property
    def source_partition(self) -> SourcePartition:
        return self.source, self.partition

    def common(self, other: OffsetRange | None) -> OffsetRange | None:
        """Returns the offsets that both have, of the same partition; None for none."""
        if other is None:
            return None
        first, last = max(self.first, other.first), min(self.last, other.last)
        return OffsetRange(*self.source_partition, first, last) if first <= last else None


class InFlightNote:
    """The ranges that a worker is processing, in memory that supervisor and worker share: a few microseconds a note.
    Without such memory, or a supervisor, it is not ``enabled`` and nothing is ever noted."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor

    @classmethod
    def create(cls) -> Self:
        """Returns the supervisor's end."""
        try:
            if hasattr(os, "memfd_create"):
                descriptor = os.memfd_create("weirguard-black-box")
            else:
                with tempfile.TemporaryFile() as file:
                    descriptor = os.dup(file.fileno())
            os.ftruncate(descriptor, _BYTES)
        except OSError:
            return cls()
        return cls(descriptor)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Returns the worker's end."""
        try:
            descriptor = int(environment[NOTE_VARIABLE])
            os.pread(descriptor, 1, 0)
        except (KeyError, ValueError, OSError):
            return cls()
        return cls(descriptor)

    @property
    def enabled(self) -> bool:
        """Whether anything is noted."""
        return self._descriptor is not None

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptors that the worker has to inherit."""
        return () if self._descriptor is None else (self._descriptor,)

    @property
    def environment(self) -> dict[str, str]:
        """Variables for the worker."""
        return {} if self._descriptor is None else {NOTE_VARIABLE: str(self._descriptor)}

    def begin(self, ranges: Iterable[OffsetRange]) -> None:
        """Notes that the records of ``ranges`` are being processed. Writes the length last, so that a note is never
        partial."""
        if self._descriptor is not None:
            note = json.dumps(list(ranges)[:_MAX_KEPT], separators=(",", ":")).encode()[: _BYTES - _LENGTH.size]
            os.pwrite(self._descriptor, note, _LENGTH.size)
            os.pwrite(self._descriptor, _LENGTH.pack(len(note)), 0)

    def end(self) -> None:
        """Notes that nothing is being processed."""
        if self._descriptor is not None:
            os.pwrite(self._descriptor, bytes(_LENGTH.size), 0)

    def read(self) -> list[OffsetRange]:
        """Returns what the worker was processing at its last note; nothing if it had finished."""
        if self._descriptor is None:
            return []
        (length,) = _LENGTH.unpack(os.pread(self._descriptor, _LENGTH.size, 0))
        try:
            return [
                OffsetRange(*entry) for entry in json.loads(os.pread(self._descriptor, length, _LENGTH.size) or "[]")
            ]
        except (ValueError, TypeError):
            return []


@dataclass(frozen=True, slots=True)
class Quarantine:
    """The records that a worker must process alone, or not at all."""

    suspects: Mapping[SourcePartition, OffsetRange] = field(default_factory=dict)
    poison: frozenset[tuple[str, int, int]] = frozenset()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Returns what the supervisor found; nothing where that cannot be read."""
        try:
            found = json.loads(environment.get(QUARANTINE_VARIABLE, "{}"))
            suspects = [OffsetRange(*entry) for entry in found.get("suspects", ())]
            poison = frozenset((source, partition, offset) for source, partition, offset in found.get("poison", ()))
        except (ValueError, TypeError, AttributeError):
            return cls()
        return cls({suspect.source_partition: suspect for suspect in suspects}, poison)

    def __bool__(self) -> bool:
        return bool(self.suspects or self.poison)

    def is_suspect(self, source: str, partition: int, offset: int) -> bool:
        """Returns whether this record must be processed alone."""
        suspect = self.suspects.get((source, partition)) if self else None
        suspected = suspect is not None and suspect.first <= offset <= suspect.last
        return suspected or self.is_poison(source, partition, offset)

    def is_poison(self, source: str, partition: int, offset: int) -> bool:
        """Returns whether this record must not be processed."""
        return (source, partition, offset) in self.poison


class PoisonFinder:
    """Finds suspects and poison, from one end of a worker to the next."""

    def __init__(self) -> None:
        self._last: dict[SourcePartition, OffsetRange] = {}
        self._suspects: dict[SourcePartition, OffsetRange] = {}
        self._poison: dict[tuple[str, int, int], None] = {}

    def worker_ended(self, in_flight: Sequence[OffsetRange]) -> list[tuple[str, int, int]]:
        """Notes that a worker ended while it processed the records ``in_flight``. Returns new poison."""
        poison = []
        for records in in_flight:
            suspect = records.common(self._suspects.get(records.source_partition))
            again = records.common(self._last.get(records.source_partition))
            if suspect is not None and len(in_flight) == 1 and records.first == records.last:
                poison.append((*records.source_partition, records.first))
            elif again is not None:
                self._suspects[records.source_partition] = again
            self._last[records.source_partition] = records
        self._poison |= dict.fromkeys(poison)
        _forget(self._last)
        _forget(self._suspects)
        _forget(self._poison)
        return poison

    @property
    def environment(self) -> dict[str, str]:
        """Variables for the next worker."""
        if not (self._suspects or self._poison):
            return {}
        found = {"suspects": list(self._suspects.values()), "poison": list(self._poison)}
        return {QUARANTINE_VARIABLE: json.dumps(found, separators=(",", ":"))}


def _forget(known: dict[K, V]) -> None:
    for oldest in list(known)[: max(len(known) - _MAX_KEPT, 0)]:
        del known[oldest]
