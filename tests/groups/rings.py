"""Rings of accounts among honest ones, as one stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from detector.contracts.batches import take
from detector.contracts.queries import QueryBatch
from detector.core.calibration.calibrate import calibrate
from detector.core.profile import Profile
from detector.groups.calibration import crowd_of
from tests.core.honest import account, honest, thief


@cache
def calibrated() -> Profile:
    """The profile of 30 honest accounts, with their crowd."""
    accounts = [honest(f"user-{number:02}", 100 + number, 60) for number in range(30)]
    calibration = calibrate(accounts, 0.01)
    return replace(calibration.profile, crowd=crowd_of(calibration, accounts))


def ring(accounts: int, rows: int) -> list[QueryBatch]:
    """One thief's ``rows`` steps, without the natural inputs before them, dealt to ``accounts`` accounts in turn."""
    own = take(thief(rows=rows + 10), np.arange(10, rows + 10))
    return [_named(take(own, np.arange(at, rows, accounts)), f"ring-{at:03}") for at in range(accounts)]


def uniform(accounts: int, rows: int) -> list[QueryBatch]:
    """Accounts that each send ``rows`` uniform queries from twice the range of honest ones."""
    rng = np.random.default_rng(3)
    return [account(f"ring-{at:03}", 2 * rng.random((rows, 6)) - 0.5, at) for at in range(accounts)]


def others(count: int, seed: int = 900, rows: int = 40) -> list[QueryBatch]:
    """Honest accounts that are not of the calibration."""
    return [honest(f"honest-{at:03}", seed + at, rows) for at in range(count)]


def stream(accounts: Sequence[QueryBatch]) -> QueryBatch:
    """All queries of ``accounts`` as one log, each account evenly from the begin to the end."""
    when = np.concatenate([(np.arange(len(account)) + 0.5) / len(account) for account in accounts])
    whose = np.repeat(np.arange(len(accounts)), [len(account) for account in accounts])
    order = np.lexsort((whose, when))
    return replace(
        accounts[0],
        event_ids=[str(at) for at in range(len(order))],
        occurred_at=1_700_000_000 + 1_000 * when[order],
        principals=[account.principals[0] for account in accounts],
        principal_index=whose[order].astype(np.int32),
        features=np.concatenate([account.features for account in accounts])[order],
        outputs=np.concatenate([account.outputs for account in accounts])[order],
    )


def _named(queries: QueryBatch, name: str) -> QueryBatch:
    return replace(queries, principals=[name])
