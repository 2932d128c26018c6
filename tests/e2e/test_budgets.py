"""An exposure budget of an organisation whose accounts are in all partitions of a service."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from detector.contracts.topics import partition_of
from detector.serving import Gate, QueryLogger
from tests.conftest import Broker
from tests.core.exposures import Queries, asked, profile, stream, tree
from tests.e2e.service import PARTITIONS, running_service

MODEL = stream(asked(1, 2), ["ann"] * 2).model
EACH, FEW, LIMIT = 20, 9, 60.0
"""Queries of each account, and further ones until all must be slowed: two accounts stay below the limit with these."""
BUDGETS = [{"name": "firms", "per": "organisation", "for_life": LIMIT}]


def accounts(prefix: str) -> list[str]:
    """Two in each partition, which alone spend less than the budget."""
    names: dict[int, list[str]] = {}
    for number in range(200):
        names.setdefault(partition_of(f"{prefix}-{number}", PARTITIONS), []).append(f"{prefix}-{number}")
    return [name for own in names.values() for name in own[:2]]


def log(logger: QueryLogger, names: Sequence[str], organisation: str, queries: Queries) -> None:
    """``queries`` in turn."""
    answers = tree().outputs(queries.features)
    for at, (row, answer) in enumerate(zip(queries.features, answers, strict=True)):
        logger.log(names[at % len(names)], MODEL, "1", row, answer, organisation=organisation)


def test_accounts_of_one_organisation_are_slowed_together_in_every_partition(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    path = tmp_path / "credit.profile"
    path.write_bytes(profile().to_bytes())
    variables = {
        "WEIRGUARD_DETECTION__PROFILES": json.dumps([str(path)]),
        "WEIRGUARD_POLICY__BUDGETS": json.dumps(BUDGETS),
    }
    acme, others = accounts("acme"), accounts("other")
    with (
        running_service(broker, prefix, tmp_path, **variables) as service,
        QueryLogger(service.connection) as logger,
        Gate(service.connection) as gate,
    ):
        log(logger, acme, "acme", asked(81, EACH * len(acme)))
        for at, name in enumerate(others):
            log(logger, [name], f"firm-{at}", asked(90 + at, EACH))
        left = list(acme)
        for seed in range(FEW):
            log(logger, left, "acme", asked(100 + seed, len(left)))
            deadline = time.monotonic() + 3
            while left and time.monotonic() < deadline:
                time.sleep(0.1)
                left = [name for name in left if gate.check(MODEL, name).queries_per_second is None]
        assert left == [], service.log_tail()
        assert [name for name in others if gate.check(MODEL, name).decision_id is not None] == []
