"""Agreement of state and sources: the state of a source must belong to the topic that exists now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from detector.contracts.errors import ConfigurationError, StateLogError
from detector.contracts.topics import Topics
from detector.stream.topic_watch import cut_short, made_again

if TYPE_CHECKING:
    from detector.stream.partition import Partition

SECTION = "sources"
"""The section of each state record with the identities of the source topics of its offsets."""
_VERSION = 1
_SIGHTINGS = 3
"""A topic must end too early this often in a row: after a change of leaders it may seem to for a moment."""


class Broker(Protocol):
    """What is asked of the broker; all raise BrokerError, and ``look`` ConfigurationError."""

    def look(self) -> Mapping[str, str]: ...
    def ends(self, topic: str, partitions: Sequence[int]) -> dict[int, int]: ...
    def holds(self, topic: str, partition: int, offset: int) -> bool: ...


def agree(broker: Broker, topics: Topics, sources: Sequence[str], partitions: Sequence[Partition]) -> dict[int, int]:
    """Give restored ``partitions`` the identities of their sources; the end offsets of queries, by partition.

    Raises ConfigurationError where a source was deleted and made again since the state was written, BrokerError.
    """
    identities, ends = broker.look(), {}
    for source in sources:
        topic = getattr(topics, source)
        ends[source] = broker.ends(topic, [partition.number for partition in partitions])
        for partition in partitions:
            _require_same(topics, topic, partition.identities.get(source), identities.get(topic))
            applied = partition.applied.get(source, -1)
            end = ends[source][partition.number]
            if applied >= end and not broker.holds(topic, partition.number, applied):
                raise ConfigurationError(cut_short(topics, topic, partition.number, end, applied + 1))
    for partition in partitions:
        now = {source: identities.get(getattr(topics, source)) for source in sources}
        partition.identities |= {source: identity for source, identity in now.items() if identity}
    return ends["queries"]


def _require_same(topics: Topics, topic: str, known: str | None, identity: str | None) -> None:
    if known and identity and known != identity:
        raise ConfigurationError(made_again(topics, topic))


class Reach:
    """Whether sources go on ending where they must, by what each fetch says. Pure."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._short: Counter[tuple[str, int]] = Counter()

    def check(self, ends: Mapping[tuple[str, int], int], applied: Mapping[tuple[str, int], int]) -> None:
        """Take the latest ``ends`` and last ``applied`` offsets by (source, partition). Raises ConfigurationError."""
        short = {place: end for place, end in ends.items() if end <= applied.get(place, -1)}
        self._short = Counter({place: self._short[place] + 1 for place in short})
        for (source, number), times in self._short.items():
            if times >= _SIGHTINGS:
                due, end = applied[source, number] + 1, ends[source, number]
                raise ConfigurationError(cut_short(self._topics, getattr(self._topics, source), number, end, due))


def encode(identities: Mapping[str, str]) -> tuple[int, bytes]:
    """The section that stands in a state record for ``identities``, by source."""
    return _VERSION, msgspec.msgpack.encode(identities)


def decode(section: tuple[int, bytes]) -> dict[str, str]:
    """The identities in ``section``, by source. Raises StateLogError."""
    try:
        return msgspec.msgpack.decode(section[1], type=dict[str, str])
    except msgspec.DecodeError as error:
        raise StateLogError(f"the identities of the sources are unreadable ({error})") from error
