"""A thief behind the real middleware, over HTTP, who hides queries: found as early as without, and to the query."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import Broker
from tests.core.honest import honest
from tests.e2e.campaign import Thief, ask_honestly, environment
from tests.e2e.evasions import combined, infinity, padded, plain, random_key, wide_first
from tests.e2e.lenient_server import Serving, serving
from tests.e2e.service import running_service

TRIED = (wide_first, infinity, padded, random_key, combined)
MORE = 50
"""How many more answers an evasion may bring."""


def test_no_evasion_brings_many_answers_more_and_every_one_is_accounted_for(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    settings = environment(tmp_path)
    with running_service(broker, prefix, tmp_path, **settings) as service, serving(service.kafka) as guarded:
        guarded.gate.wait_until_ready(30)
        assert _honest(guarded, 0) == [30] * 3
        found = {evasion.__name__: Thief(evasion).steal(service, guarded) for evasion in (plain, *TRIED)}
        assert _honest(guarded, 1) == [30] * 3
    alone = found["plain"].answers
    assert alone is not None
    assert {name: one.answered - one.accounted for name, one in found.items()} == dict.fromkeys(found, 0)
    assert {name for name, one in found.items() if one.answers is None or one.answers > alone + MORE} == set()


def _honest(guarded: Serving, turn: int) -> list[int]:
    """How many of thirty queries of three honest accounts each are answered."""
    rows = [honest("user", 70 + 10 * turn + at, 30).features for at in range(3)]
    return [ask_honestly(guarded, f"user-{at}", row) for at, row in enumerate(rows)]
