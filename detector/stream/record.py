"""State records: what the state log holds, one record a micro-batch.

A record is one msgpack map. Its header says whose writing it is and what it covers; its sections hold the change of
state. Kinds:

``fence``   somebody takes the partition; its own offset in the log is the fence number of all that he writes after it
``delta``   what one micro-batch, or one command, changed
``chunk``   the whole state of some principals, replacing what went before (rolling checkpoint)
``round``   ends a round of chunks and names its first, before which the log may be cut
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from detector.contracts.errors import NewerStateLog, StateLogError
from detector.core.batch import Sections

FORMAT = 1

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


def encode(record: StateRecord) -> bytes:
    """The bytes of ``record``; names of fields are kept, so that any msgpack reader can audit the log."""
    fields: dict[str, Any] = {name: getattr(record, name) for name in StateRecord.__slots__}
    fields["outbox"] = [
        [message.topic, message.partition, message.key, message.value, message.headers, message.timestamp]
        for message in record.outbox
    ]
    return msgspec.msgpack.encode({"format": FORMAT} | fields)


def decode(value: bytes) -> StateRecord:
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


def _rebuild(fields: dict[str, Any]) -> StateRecord:
    fields["outbox"] = tuple(
        Message(topic, partition, key, value, tuple((name, data) for name, data in headers), timestamp)
        for topic, partition, key, value, headers, timestamp in fields["outbox"]
    )
    fields["sections"] = {name: (version, data) for name, (version, data) in fields["sections"].items()}
    fields["published"] = tuple(fields["published"])
    fields["source"] = tuple(fields["source"]) if fields["source"] else None
    try:
        return StateRecord(**fields)
    except TypeError as error:
        raise StateLogError(f"a record of the state log has unexpected fields: {error}") from error
