"""Finds the record that ends its worker: a worker notes what it is about to process where the note survives the worker.

The note is in memory that the supervisor makes and the worker inherits: it outlives a killed process, and needs no
disk. When a worker ends twice at the same offsets, these are suspects: the next worker processes each of them alone. A
suspect that ends a worker alone is poison: the next worker sends it to the dead letters, unread.

Standard library only, so that the supervisor has little that can fail.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import struct
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self, TypeVar

BOX_VARIABLE = "WEIRGUARD_BLACK_BOX"
"""Environment variable with the file descriptor of the note."""

CAUTION_VARIABLE = "WEIRGUARD_CAUTION"
"""Environment variable with the suspects and the poison, as JSON."""

_BYTES = 65_536
_LENGTH = struct.Struct("<I")
_MOST = 1_000
"""The most suspects and poison records that are kept: an environment variable has a size limit."""

K = TypeVar("K")
V = TypeVar("V")

Place = tuple[str, int]
"""(source, partition)."""


class Flight(NamedTuple):
    """Records ``first`` to ``last`` of a partition of a source, being processed."""

    source: str
    partition: int
    first: int
    last: int

    @property
    def place(self) -> Place:
        return self.source, self.partition

    def common(self, other: Flight | None) -> Flight | None:
        """The offsets that both have, of one partition."""
        if other is None:
            return None
        first, last = max(self.first, other.first), min(self.last, other.last)
        return Flight(*self.place, first, last) if first <= last else None


class BlackBox:
    """The supervisor's end. Without memory to share there are no ``descriptors``, and nothing is ever noted."""

    def __init__(self) -> None:
        self._fd = _memory()

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptors that the worker has to inherit."""
        return () if self._fd is None else (self._fd,)

    @property
    def environment(self) -> dict[str, str]:
        """Variables for the worker."""
        return {} if self._fd is None else {BOX_VARIABLE: str(self._fd)}

    def clear(self) -> None:
        """Clears the note."""
        if self._fd is not None:
            os.pwrite(self._fd, bytes(_LENGTH.size), 0)

    def read(self) -> list[Flight]:
        """Returns what the worker was processing at its last note; nothing if it had finished."""
        if self._fd is None:
            return []
        (length,) = _LENGTH.unpack(os.pread(self._fd, _LENGTH.size, 0))
        try:
            return [Flight(*entry) for entry in json.loads(os.pread(self._fd, length, _LENGTH.size))] if length else []
        except (ValueError, TypeError):
            return []


def _memory() -> int | None:
    try:
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("weirguard-black-box")
        else:
            with tempfile.TemporaryFile() as file:
                fd = os.dup(file.fileno())
        os.ftruncate(fd, _BYTES)
    except OSError:
        return None
    return fd


class Notes:
    """The worker's end: a few microseconds a note. Without a supervisor, or its memory, ``kept`` is false and nothing
    is noted."""

    def __init__(self, memory: mmap.mmap | None = None) -> None:
        self._memory = memory

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        with contextlib.suppress(KeyError, ValueError, OSError):
            return cls(mmap.mmap(int(environment[BOX_VARIABLE]), _BYTES))
        return cls()

    @property
    def kept(self) -> bool:
        """Whether anything is noted."""
        return self._memory is not None

    def enter(self, flights: Iterable[Flight]) -> None:
        """Notes that ``flights`` begin. Writes the length last, so that a note is never partial."""
        if self._memory is None:
            return
        note = _json(flights)
        self._memory[_LENGTH.size : _LENGTH.size + len(note)] = note
        self._memory[: _LENGTH.size] = _LENGTH.pack(len(note))

    def leave(self) -> None:
        """Notes that they ended well."""
        if self._memory is not None:
            self._memory[: _LENGTH.size] = bytes(_LENGTH.size)


def _json(flights: Iterable[Flight]) -> bytes:
    return json.dumps(list(flights)[:_MOST], separators=(",", ":")).encode()[: _BYTES - _LENGTH.size]


@dataclass(frozen=True, slots=True)
class Caution:
    """The records that a worker must treat with care."""

    suspects: Mapping[Place, Flight] = field(default_factory=dict)
    poison: frozenset[tuple[str, int, int]] = frozenset()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Returns what the supervisor says; no caution where that cannot be read."""
        try:
            said = json.loads(environment.get(CAUTION_VARIABLE, "{}"))
            suspects = [Flight(*entry) for entry in said.get("suspects", ())]
            poison = frozenset((source, partition, offset) for source, partition, offset in said.get("poison", ()))
        except (ValueError, TypeError, AttributeError):
            return cls()
        return cls({flight.place: flight for flight in suspects}, poison)

    def __bool__(self) -> bool:
        return bool(self.suspects or self.poison)

    def suspects_one(self, source: str, partition: int, offset: int) -> bool:
        """Whether this record must be processed alone."""
        flight = self.suspects.get((source, partition)) if self else None
        suspected = flight is not None and flight.first <= offset <= flight.last
        return suspected or self.is_poison(source, partition, offset)

    def is_poison(self, source: str, partition: int, offset: int) -> bool:
        """Whether this record must not be processed."""
        return (source, partition, offset) in self.poison


class PoisonFinder:
    """Finds suspects and poison, from one end of a worker to the next."""

    def __init__(self) -> None:
        self._last: dict[Place, Flight] = {}
        self._suspects: dict[Place, Flight] = {}
        self._poison: dict[tuple[str, int, int], None] = {}

    def ended(self, flights: Sequence[Flight]) -> list[tuple[str, int, int]]:
        """Notes that a worker ended while ``flights`` were processed. Returns new poison."""
        found = [flight for flight in flights if len(flights) == 1 and self._ended_alone(flight)]
        for flight in flights:
            again = flight.common(self._last.get(flight.place))
            if again is not None and flight not in found:
                self._suspects[flight.place] = again
            self._last[flight.place] = flight
        poison = [(*flight.place, flight.first) for flight in found]
        self._poison |= dict.fromkeys(poison)
        _forget(self._last)
        _forget(self._suspects)
        _forget(self._poison)
        return poison

    def _ended_alone(self, flight: Flight) -> bool:
        suspect = flight.common(self._suspects.get(flight.place))
        return suspect is not None and flight.first == flight.last

    @property
    def environment(self) -> dict[str, str]:
        """Variables for the next worker."""
        if not (self._suspects or self._poison):
            return {}
        found = {"suspects": list(self._suspects.values()), "poison": list(self._poison)}
        return {CAUTION_VARIABLE: json.dumps(found, separators=(",", ":"))}


def _forget(known: dict[K, V]) -> None:
    for oldest in list(known)[: max(len(known) - _MOST, 0)]:
        del known[oldest]
