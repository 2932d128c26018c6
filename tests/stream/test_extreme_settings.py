"""A number that the settings accept is one that a worker can work with: the largest and the smallest of each."""

from __future__ import annotations

from contextlib import suppress
from functools import reduce
from typing import Any

import pytest
from pydantic import ValidationError

from detector.core.engine import Engine
from detector.groups.owner import GroupOwner
from detector.policy.ledger import Ledger
from detector.runtime.settings import Settings, leaves
from detector.stream.checkpoint import Checkpointer
from detector.stream.dead_letters import LetterLimits
from detector.stream.detection_config import engine_config, policy_config
from detector.stream.detector import Detector
from detector.stream.intake import RecordDecoder
from detector.stream.partition import LogWriter, Partition
from tests.stream.world import TOPICS, World, queries, source

SECTIONS = {"detection", "policy"}
LARGEST = [1 << 80, 1 << 62, 1 << 40, 1e300, 1 << 20, 65_536, 4_096, 512, 256, 150, 10, 1 - 2**-53]
SMALLEST = [5e-324, 1, 2, 8, 10, 128]


def _accepted(key: tuple[str, ...], value: Any) -> Settings | None:
    for name in reversed(key):
        value = {name: value}
    with suppress(ValidationError):
        return Settings(**value)
    return None


def _extremes() -> list[Any]:
    """Of each number among the settings of detection and policy the first of either list that is accepted."""
    found = []
    for key in leaves(Settings):
        default = reduce(getattr, key, Settings())
        mapping = key[-1] == "dimensions"
        is_number = isinstance(default, int | float) and not isinstance(default, bool)
        if key[0] not in SECTIONS or not (mapping or is_number):
            continue
        for values in (LARGEST, SMALLEST):
            tried = ({"m": value} if mapping else value for value in values)
            some = next((value for value in tried if _accepted(key, value) is not None), None)
            found.append(pytest.param(key, some, id=f"{'.'.join(key)}={some}"))
    return found


@pytest.mark.parametrize(("key", "value"), _extremes())
def test_a_worker_judges_with_the_most_extreme_numbers_that_are_accepted(key: tuple[str, ...], value: Any) -> None:
    settings = _accepted(key, value)
    assert settings is not None
    world = World(source(queries(120, 1), [30] * 4))
    judge = Detector(Engine(engine_config(settings)), Ledger(policy_config(settings), "test"))
    groups = GroupOwner((), "test", settings.detection.group_bytes)
    partition = Partition(
        RecordDecoder(0, 1, TOPICS),
        judge,
        groups,
        Checkpointer(judge, groups, 1, 3_000),
        LogWriter("w", "test", letters=LetterLimits(per_minute=1)),
    )
    partition.takeover(partition.cursor.fence, 0)
    world.run(partition, 4)
    assert partition.applied == {"queries": 3}
