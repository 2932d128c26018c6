"""The state log: its records, one per micro-batch, and the rules by which a partition's owners read them.

A record is one msgpack map. Its header records who wrote it and what it covers; its sections hold the change of state.
Kinds:

``fence``   a new owner takes the partition; its offset in the log is the fence number of all that this owner writes
``delta``   the change of one micro-batch, or one command
``chunk``   the whole state of some principals, replacing what went before (rolling checkpoint)
``round``   ends a round of chunks and names its first, before which the log may be cut
``part``    a piece of one of these that is too large for one record; it counts once all its parts are there
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from detector.contracts.errors import NewerStateLog, OwnershipLost, StateLogError, StateLogHole

FORMAT = 2
"""The newest format. Whole records are written in format 1, which earlier versions read, and parts in 2."""

RECORD_BYTES = 8_388_608
"""Most bytes of a record of the state log, unless the settings say otherwise."""

_BATCH_BYTES = 128
"""Most that Kafka adds to a record that is alone in its batch."""

_PART_BYTES = 1_024
"""Room for the fields of a part except its data, for its key, and for what Kafka adds."""

Kind = Literal["fence", "delta", "chunk", "round"]
Position = tuple[int, int]
"""(fence, sequence): the place of a record in the order of all that counts."""


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Something to publish because of a state record; ``partition`` None lets the key decide. ``timestamp`` in seconds
    UTC."""

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


def headers_within(headers: Iterable[tuple[str, bytes]], room: int) -> Iterator[tuple[str, bytes]]:
    """Yields those of ``headers``, in order, that fit into ``room`` bytes together."""
    for name, data in headers:
        nbytes = _header_bytes(name, data)
        if nbytes <= room:
            room -= nbytes
            yield name, data


def _header_bytes(name: str, data: bytes) -> int:
    return 10 + len(name.encode()) + len(data)


class StateRecord(msgspec.Struct, frozen=True, tag_field="format", tag=1, forbid_unknown_fields=True):
    """One record of the state log. The names of the fields are in the log, so that any msgpack reader can audit it.

    ``applied``: source ("queries", "rekeyed", "judged", "commands") to the last offset that the state holds.
    ``origins``: partition of first arrival to the last offset of it that came in re-keyed. ``source`` and ``rows``:
    which offsets of ``queries`` this record itself covers (first, last) and how many rows it counted.
    ``policy_time``: running maximum of record timestamps, seconds UTC. ``learn_until``: queries below this offset are
    learned from, never enforced. ``published``: every record up to here has its outbox on the broker. ``sections``: by
    component, the version of its format and its bytes. ``first_chunk``: log offset of the first chunk of the round that
    this record ends.
    """

    kind: Kind
    fence: int
    sequence: int
    applied: dict[str, int] = {}
    origins: dict[int, int] = {}
    source: tuple[int, int] | None = None
    rows: int = 0
    policy_time: float = 0.0
    learn_until: int = 0
    published: Position = (-1, 0)
    outbox: tuple[Message, ...] = ()
    sections: dict[str, tuple[int, bytes]] = {}
    first_chunk: int | None = None
    owner: str = ""
    configuration: str = ""

    @property
    def position(self) -> Position:
        return self.fence, self.sequence


class RecordPart(msgspec.Struct, frozen=True, tag_field="format", tag=FORMAT, forbid_unknown_fields=True):
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


class _Version(msgspec.Struct):
    format: int


_decoder: msgspec.msgpack.Decoder[StateRecord | RecordPart] = msgspec.msgpack.Decoder(StateRecord | RecordPart)

encode = msgspec.msgpack.encode


def encode_in_parts(record: StateRecord, most: int = RECORD_BYTES) -> list[bytes]:
    """Returns ``record`` as values of at most ``most`` bytes, with key and all that Kafka adds: its bytes, or its
    parts."""
    value, room = encode(record), most - _PART_BYTES
    if len(value) <= room:
        return [value]
    pieces = [value[start : start + room] for start in range(0, len(value), room)]
    return [
        encode(RecordPart(record.kind, record.fence, record.sequence + number, number, len(pieces), piece))
        for number, piece in enumerate(pieces)
    ]


def decode(value: bytes) -> StateRecord | RecordPart:
    """Returns the record in ``value``.

    Raises NewerStateLog for a record of a later version, StateLogError for bytes that are no state record.
    """
    try:
        return _decoder.decode(value)
    except msgspec.DecodeError as error:
        _refuse_newer(value)
        raise StateLogError(
            f"a record of the state log is unreadable ({error}); was the topic written to by others?"
        ) from error


def _refuse_newer(value: bytes) -> None:
    try:
        version = msgspec.msgpack.decode(value, type=_Version).format
    except msgspec.DecodeError:
        return
    if version > FORMAT:
        raise NewerStateLog(
            f"the state log was written in format {version} and this version reads up to {FORMAT}; "
            "run the version that wrote it or a later one"
        )


class Assembly:
    """Puts records that came in parts together again. A record of which an owner wrote some parts and died is dropped:
    what it covers was not acknowledged, and the next owner applies it again."""

    def __init__(self) -> None:
        self._parts: list[RecordPart] = []

    def add(self, record: StateRecord | RecordPart) -> StateRecord | None:
        """Returns ``record`` itself, or the record that it completes; None while parts are to come. Records must come
        in the order of their positions. Raises StateLogHole where a part is missing, NewerStateLog, StateLogError."""
        if self._parts and self._parts[-1].fence != record.fence:
            self._parts = []
        if isinstance(record, StateRecord) or record.number != len(self._parts):
            if self._parts or isinstance(record, RecordPart):
                raise StateLogHole(f"the parts of a state record before {record.position} are not all there")
            return record
        self._parts.append(record)
        if len(self._parts) < record.count:
            return None
        value, self._parts = b"".join(part.data for part in self._parts), []
        complete = decode(value)
        if isinstance(complete, RecordPart):
            raise StateLogError(f"the state record that ends at {record.position} is a part of a part")
        return complete


class FencedCursor:
    """The last position that counts: ``fence`` and ``sequence``. ``live``: this worker writes there itself.

    ``stale_records``: the number of late records of former owners.
    """

    def __init__(self, partition: int) -> None:
        self.fence = -1
        self.sequence = 0
        self.live = False
        self.stale_records = 0
        self._partition = partition

    @property
    def position(self) -> Position:
        return self.fence, self.sequence

    def admits(self, offset: int, record: StateRecord | RecordPart) -> bool:
        """Returns whether ``record``, read at ``offset`` of the log, is the next to apply; if it is, moves on to it.

        Raises StateLogHole where one is missing before it, OwnershipLost for a newer fence than our own while live.
        """
        if record.kind == "fence":
            self._pass_fence(offset)
            return False
        if self.fence < 0:
            self._start_at_cut(record)
        elif record.fence < self.fence:
            self.stale_records += 1
            return False
        elif not self._is_next(record):
            return False
        self.sequence = record.sequence
        return True

    def go_live(self, fence: int) -> None:
        """Becomes the writer behind our own ``fence``, which recovery must have read. Raises OwnershipLost."""
        if fence != self.fence:
            raise OwnershipLost(
                f"partition {self._partition}: recovered through fence {self.fence}, our own is {fence}"
            )
        self.live = True

    def advance(self) -> Position:
        """Returns the position of the next record to write."""
        self.sequence += 1
        return self.position

    def _pass_fence(self, offset: int) -> None:
        if offset <= self.fence:
            return
        if self.live:
            raise OwnershipLost(
                f"partition {self._partition}: another worker's fence stands at {offset}, ours at {self.fence}"
            )
        self.fence, self.sequence = offset, 0

    def _start_at_cut(self, record: StateRecord | RecordPart) -> None:
        first_part = isinstance(record, RecordPart) and record.of == "chunk" and record.number == 0
        if record.kind != "chunk" and not first_part:
            raise StateLogHole(
                f"partition {self._partition}: the state log begins with a {record.kind} record; it was cut elsewhere "
                "than at a checkpoint (is retention unlimited on it?)"
            )
        self.fence = record.fence

    def _is_next(self, record: StateRecord | RecordPart) -> bool:
        if record.fence > self.fence or record.sequence > self.sequence + 1:
            raise StateLogHole(
                f"partition {self._partition}: read {record.position} of the state log after {self.position}"
            )
        return record.sequence == self.sequence + 1
