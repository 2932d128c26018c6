"""The partition of a principal, by Kafka's murmur2: producers in Java, Python or librdkafka (``murmur2_random``) that
key records by principal choose the same one."""

from __future__ import annotations

from functools import lru_cache

_MASK = 0xFFFFFFFF
_MULTIPLIER = 0x5BD1E995
_SEED = 0x9747B28C


def murmur2(data: bytes) -> int:
    """Kafka's 32-bit murmur2 of ``data``, unsigned (org.apache.kafka.common.utils.Utils.murmur2)."""
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


@lru_cache(maxsize=65_536)
def partition_of(principal: str, partitions: int) -> int:
    """The partition, of ``partitions``, of the queries, commands and decisions of ``principal``."""
    return (murmur2(principal.encode()) & 0x7FFFFFFF) % partitions
