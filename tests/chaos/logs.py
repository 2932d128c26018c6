"""What the audit reads: records as the broker holds them, decoded by code of its own."""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

Place = tuple[str, int]
"""(topic, partition)."""

CONSUMER_OFFSETS = "__consumer_offsets"


@dataclass(frozen=True, slots=True)
class Entry:
    """One record as it lies on the broker; ``at`` is its timestamp in milliseconds."""

    partition: int
    offset: int
    at: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(slots=True)
class Logs:
    """Everything read so far, by topic and partition, in offset order."""

    entries: dict[Place, list[Entry]] = field(default_factory=lambda: defaultdict(list))

    def add(self, topic: str, entry: Entry) -> None:
        self.entries[topic, entry.partition].append(entry)

    def of(self, topic: str) -> list[Entry]:
        """All records of ``topic``, partition after partition."""
        return [entry for place in sorted(self.entries) if place[0] == topic for entry in self.entries[place]]

    def partitions(self, topic: str) -> list[int]:
        return sorted(partition for name, partition in self.entries if name == topic)

    def copy(self) -> Logs:
        """The current state, while a tail continues to write."""
        return Logs(defaultdict(list, {place: list(entries) for place, entries in list(self.entries.items())}))


def rows_of(entry: Entry) -> int:
    """How many queries a source record carries: as many as event ids in a packed one, one in a JSON one."""
    assert entry.value is not None
    if dict(entry.headers).get("content-type", b"").endswith(b"msgpack"):
        return len(msgspec.msgpack.decode(entry.value)["event_ids"])
    return 1 if "event_id" in json.loads(entry.value) else 0


def header_of(entry: Entry) -> dict[str, Any]:
    """A state record, or a part of one, as a plain map without its sections."""
    assert entry.value is not None
    fields: dict[str, Any] = msgspec.msgpack.decode(entry.value)
    if fields["kind"] != "part":
        fields.pop("sections")
    return fields


class Joining:
    """Puts state records that came in parts together. ``open``: by fence, the parts that wait for more."""

    def __init__(self) -> None:
        self.open: dict[int, list[tuple[Entry, dict[str, Any]]]] = {}

    def add(self, entry: Entry, part: dict[str, Any]) -> Entry | None:
        """The record that ``part`` completes: where its first part stands, there since its last one came. A part that
        is not the next one begins anew."""
        before = self.open.get(part["fence"], [])
        parts = [*before, (entry, part)]
        if [one["number"] for _, one in parts] != list(range(len(parts))):
            parts = [(entry, part)]
        self.open[part["fence"]] = parts
        if len(parts) < part["count"]:
            return None
        del self.open[part["fence"]]
        value = b"".join(one["data"] for _, one in parts)
        return replace(parts[0][0], at=entry.at, value=value)


def poison_of(entry: Entry, prefix: str) -> tuple[int, int] | None:
    """Partition and offset of the query that a dead letter is about; None for one about something else."""
    printed = json.loads(dict(entry.headers)["weirguard.dead-letter"])
    return (printed["partition"], printed["offset"]) if printed["topic"] == f"{prefix}.queries" else None


@dataclass(frozen=True, slots=True)
class Commit:
    """An offset commit: everything of this partition below ``offset`` was acknowledged at ``at``."""

    topic: str
    partition: int
    offset: int
    at: int


def commit_of(entry: Entry, group: str) -> Commit | None:
    """The commit in a record of the offsets topic; None for other groups, group metadata and tombstones."""
    if entry.key is None or entry.value is None or struct.unpack_from(">h", entry.key)[0] > 1:
        return None
    name, position = _text(entry.key, 2)
    topic, position = _text(entry.key, position)
    if name != group:
        return None
    (partition,) = struct.unpack_from(">i", entry.key, position)
    (offset,) = struct.unpack_from(">q", entry.value, 2)
    return Commit(topic, partition, offset, entry.at)


def _text(data: bytes, position: int) -> tuple[str, int]:
    (length,) = struct.unpack_from(">h", data, position)
    return data[position + 2 : position + 2 + length].decode(), position + 2 + length
