"""State records: the content of the state log, one record per micro-batch.

A record is one msgpack map. Its header says who wrote it and what it covers; its sections hold the change of state.
Kinds:

``fence``   a new owner takes the partition; its offset in the log is the fence number of all that this owner writes
``delta``   the change of one micro-batch, or one command
``chunk``   the whole state of some principals, replacing what went before (rolling checkpoint)
``round``   ends a round of chunks and names its first, before which the log may be cut
``part``    a piece of one of these that is too large for one record; it counts once all its parts are there
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from detector.contracts.errors import NewerStateLog, StateLogError, StateLogHole
from detector.core.engine import Sections

FORMAT = 2
"""The newest that is read. Whole records are written in format 1, which earlier versions read, and parts in 2."""

_WHOLE_FORMAT = 1
RECORD_BYTES = 8_388_608
"""Most bytes of a record of the state log, unless the settings say otherwise."""

_BATCH_BYTES = 128
"""Most that Kafka adds to a record that is alone in its batch."""

_PART_BYTES = 1_024
"""Room for what stands around the data of a part, for its key, and for what Kafka adds."""

Kind = Literal["fence", "delta", "chunk", "round"]
Position = tuple[int, int]
"""(fence, sequence): the place of a record in the order of all that counts."""


@dataclass(frozen=True, slots=True)
class Message:
    """Something to publish because of a state record; ``partition`` None lets the key decide."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp: float | None = None

    @property
    def nbytes(self) -> int:
        """The most bytes that a batch with this message alone has on the broker."""
        headers = sum(_header_bytes(name, data) for name, data in self.headers)
        return _BATCH_BYTES + len(self.key or b"") + len(self.value) + headers


def within(headers: Iterable[tuple[str, bytes]], room: int) -> Iterator[tuple[str, bytes]]:
    """Those of ``headers``, one after another, that fit into ``room`` bytes."""
    for name, data in headers:
        nbytes = _header_bytes(name, data)
        if nbytes <= room:
            room -= nbytes
            yield name, data


def _header_bytes(name: str, data: bytes) -> int:
    return 10 + len(name.encode()) + len(data)


@dataclass(frozen=True, slots=True)
class StateRecord:
    """One record of the state log.

    ``applied``: source ("queries", "rekeyed", "commands") to the last offset that the state holds. ``origins``:
    partition of first arrival to the last offset of it that came in re-keyed. ``source`` and ``rows``: which offsets
    of ``queries`` this record itself covers (first, last) and how many rows it counted. ``policy_time``: running
    maximum of record timestamps, seconds UTC. ``learn_until``: queries below this offset are learned from, never
    enforced. ``published``: every record up to here has its outbox on the broker. ``first_chunk``: log offset of the
    first chunk of the round that this record ends.
    """

    kind: Kind
    fence: int
    sequence: int
    applied: dict[str, int] = field(default_factory=dict)
    origins: dict[int, int] = field(default_factory=dict)
    source: tuple[int, int] | None = None
    rows: int = 0
    policy_time: float = 0.0
    learn_until: int = 0
    published: Position = (-1, 0)
    outbox: tuple[Message, ...] = ()
    sections: Sections = field(default_factory=dict)
    first_chunk: int | None = None
    owner: str = ""
    configuration: str = ""

    @property
    def position(self) -> Position:
        return self.fence, self.sequence


@dataclass(frozen=True, slots=True)
class Part:
    """Piece ``number`` of the ``count`` pieces of a state record of kind ``of``. They have sequences in a row, of which
    the first is the record's own."""

    of: Kind
    fence: int
    sequence: int
    number: int
    count: int
    data: bytes
    kind: Literal["part"] = "part"

    @property
    def position(self) -> Position:
        return self.fence, self.sequence


class Assembly:
    """Puts records that came in parts together again. A record of which an owner wrote some parts and died is dropped:
    what it covers was not acknowledged, and the next owner applies it anew."""

    def __init__(self) -> None:
        self._parts: list[Part] = []

    def whole(self, record: StateRecord | Part) -> StateRecord | None:
        """``record`` itself, or what it completes; None while parts are to come. Records must come in the order of
        their positions. Raises StateLogHole where a part is missing, NewerStateLog, StateLogError."""
        if self._parts and self._parts[-1].fence != record.fence:
            self._parts = []
        if isinstance(record, StateRecord) or record.number != len(self._parts):
            if self._parts or isinstance(record, Part):
                raise StateLogHole(f"the parts of a state record before {record.position} are not all there")
            return record
        self._parts.append(record)
        if len(self._parts) < record.count:
            return None
        value, self._parts = b"".join(part.data for part in self._parts), []
        found = decode(value)
        if isinstance(found, Part):
            raise StateLogError(f"the state record that ends at {record.position} is a part of a part")
        return found


def written(record: StateRecord, most: int = RECORD_BYTES) -> list[bytes]:
    """``record`` as values of at most ``most`` bytes, with key and all that Kafka adds: its bytes, or its parts."""
    value, room = encode(record), most - _PART_BYTES
    if len(value) <= room:
        return [value]
    pieces = [value[start : start + room] for start in range(0, len(value), room)]
    return [
        encode_part(Part(record.kind, record.fence, record.sequence + number, number, len(pieces), piece))
        for number, piece in enumerate(pieces)
    ]


def encode_part(part: Part) -> bytes:
    """The bytes of ``part``."""
    return msgspec.msgpack.encode({"format": FORMAT} | {name: getattr(part, name) for name in Part.__slots__})


def encode(record: StateRecord) -> bytes:
    """The bytes of ``record``; names of fields are kept, so that any msgpack reader can audit the log."""
    fields: dict[str, Any] = {name: getattr(record, name) for name in StateRecord.__slots__}
    fields["outbox"] = [
        [message.topic, message.partition, message.key, message.value, message.headers, message.timestamp]
        for message in record.outbox
    ]
    return msgspec.msgpack.encode({"format": _WHOLE_FORMAT} | fields)


def decode(value: bytes) -> StateRecord | Part:
    """The record in ``value``.

    Raises NewerStateLog for a record of a later version, StateLogError for bytes that are no state record.
    """
    try:
        fields = msgspec.msgpack.decode(value)
        version = fields.pop("format")
    except (msgspec.DecodeError, AttributeError, TypeError, KeyError) as error:
        why = f"a record of the state log is unreadable ({error}); was the topic written to by others?"
        raise StateLogError(why) from error
    if version > FORMAT:
        raise NewerStateLog(
            f"the state log was written in format {version} and this version reads up to {FORMAT}; "
            "run the version that wrote it or a later one"
        )
    return _rebuild(fields)


def _rebuild(fields: dict[str, Any]) -> StateRecord | Part:
    try:
        return Part(**fields) if fields.get("kind") == "part" else _rebuild_whole(fields)
    except (TypeError, KeyError, ValueError) as error:
        raise StateLogError(f"a record of the state log has unexpected fields: {error}") from error


def _rebuild_whole(fields: dict[str, Any]) -> StateRecord:
    fields["outbox"] = tuple(
        Message(topic, partition, key, value, tuple((name, data) for name, data in headers), timestamp)
        for topic, partition, key, value, headers, timestamp in fields["outbox"]
    )
    fields["sections"] = {name: (version, data) for name, (version, data) in fields["sections"].items()}
    fields["published"] = tuple(fields["published"])
    fields["source"] = tuple(fields["source"]) if fields["source"] else None
    return StateRecord(**fields)
