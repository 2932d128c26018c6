"""Rings in an unlabelled log are found among accounts that they excuse, and honest crowds are not rings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from detector.contracts.queries import QueryBatch
from detector.replay.rings import FoundRing, find_rings
from tests.core.honest import honest
from tests.groups.rings import others, ring, uniform

HONEST = others(30)


def _found(accounts: Sequence[QueryBatch]) -> list[FoundRing]:
    """The rings among ``accounts``, who all send at the same time."""
    when = [
        replace(account, occurred_at=1_000 * (np.arange(len(account)) + 0.5) / len(account)) for account in accounts
    ]
    return find_rings(when, 0.01)


def test_a_theft_that_is_dealt_to_twelve_accounts_is_one_ring() -> None:
    [found] = _found([*HONEST, *ring(12, 120)])
    assert found.members == tuple(f"ring-{at:03}" for at in range(12))
    assert found.merged.score > 1
    assert found.merged.queries == 120
    assert {"sign_steps", "extreme_steps"} & {name for name, *_ in found.merged.parts[:3]}


def test_uniform_queries_of_many_accounts_are_one_ring() -> None:
    [found] = _found([*HONEST, *uniform(12, 10)])
    assert len(found.members) == 12
    assert all(name.startswith("ring") for name in found.members)


def test_honest_accounts_and_an_office_that_scores_one_file_are_no_ring() -> None:
    shared = honest("office", 7_000, 40)
    assert _found([*HONEST, *(replace(shared, principals=[f"office-{at}"]) for at in range(12))]) == []


def test_few_accounts_are_not_searched() -> None:
    assert _found(ring(10, 100)) == []
