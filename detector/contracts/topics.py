"""Names of the topics, which share a prefix that is a setting, and the partition of a principal."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

STATE_TABLE = "state"


class _TopicName:
    """The name of a topic: the prefix, and the name of the attribute with hyphens."""

    def __set_name__(self, owner: type[object], name: str) -> None:
        self._suffix = name.replace("_", "-")

    def __get__(self, topics: Topics, owner: type[object]) -> str:
        return f"{topics.prefix}.{self._suffix}"


@dataclass(frozen=True, slots=True)
class Topics:
    """Topic names under ``prefix``; the prefix is also the application id."""

    prefix: str = "weirguard"

    queries = _TopicName()
    rekeyed = _TopicName()
    """Misrouted queries: a producer wrote them to another partition than their principal's."""
    judged = _TopicName()
    """Judged queries on their way to the partition that watches the groups of their model version."""
    commands = _TopicName()
    groups = _TopicName()
    alerts = _TopicName()
    decisions = _TopicName()
    audit = _TopicName()
    scores = _TopicName()
    gates = _TopicName()
    """Reports of gates."""
    dead_letters = _TopicName()

    @property
    def application(self) -> str:
        return self.prefix

    @property
    def state_log(self) -> str:
        """The changelog topic of the Faust table that holds the state log; Faust sets the form of its name."""
        return f"{self.prefix}-{STATE_TABLE}-changelog"


_MASK = 0xFFFFFFFF
_MULTIPLIER = 0x5BD1E995
_SEED = 0x9747B28C


def murmur2(data: bytes) -> int:
    """Returns Kafka's 32-bit murmur2 of ``data``, unsigned (org.apache.kafka.common.utils.Utils.murmur2)."""
    length = len(data)
    state = (_SEED ^ length) & _MASK
    blocks = length & ~3
    for at in range(0, blocks, 4):
        word = int.from_bytes(data[at : at + 4], "little")
        word = (word * _MULTIPLIER) & _MASK
        word ^= word >> 24
        word = (word * _MULTIPLIER) & _MASK
        state = ((state * _MULTIPLIER) & _MASK) ^ word
    if length > blocks:
        state ^= int.from_bytes(data[blocks:], "little")
        state = (state * _MULTIPLIER) & _MASK
    state ^= state >> 13
    state = (state * _MULTIPLIER) & _MASK
    return state ^ (state >> 15)


def watch_partition(model: str, model_version: str, partitions: int) -> int:
    """Returns the partition, of ``partitions``, whose owner watches the groups of a model version."""
    return partition_of(f"{model}\0{model_version}", partitions)


@lru_cache(maxsize=65_536)
def partition_of(principal: str, partitions: int) -> int:
    """Returns the partition, of ``partitions``, of the queries, commands and decisions of ``principal``.

    Producers in Java, Python or librdkafka (``murmur2_random``) that key records by principal choose the same one.
    """
    return (murmur2(principal.encode()) & 0x7FFFFFFF) % partitions
