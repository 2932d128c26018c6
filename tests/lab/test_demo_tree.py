"""The demo's tree: who has a hand in its profile, and that it tells its thief from its users."""

from __future__ import annotations

import asyncio

import httpx
import numpy as np
import pytest

from detector.cli.foreign import from_scikit_learn
from detector.contracts.queries import QueryBatch
from detector.core.engine import Engine, EngineConfig
from detector.core.profile import Profile
from detector.lab.demo.script import DemoOptions, Script, profile_of_tumours, scripts
from detector.lab.server import create_app
from detector.lab.traffic import Client, Tally, path_finding_thief
from detector.lab.victims.digits import MODEL_VERSION
from detector.lab.victims.tabular import TreeVictim

SEED = 0
ENOUGH = 120


@pytest.fixture(scope="module")
def script() -> Script:
    return scripts(DemoOptions(seed=SEED))[1]


@pytest.fixture(scope="module")
def profile() -> Profile:
    return profile_of_tumours(SEED, from_scikit_learn)


def suspected(profile: Profile, script: Script, account: str, rows: np.ndarray) -> int | None:
    """The query, counted from 1, at which ``account`` became a suspect."""
    count = len(rows)
    batch = QueryBatch(
        model=script.model,
        model_version=MODEL_VERSION,
        output_kind="probabilities",
        event_ids=[str(number) for number in range(count)],
        occurred_at=np.zeros(count),
        principals=[account],
        principal_index=np.zeros(count, np.int32),
        features=rows,
        outputs=script.victim().answer(rows).probabilities.astype(np.float32),
    )
    findings = Engine(EngineConfig(profiles=(profile,))).observe([batch]).findings
    assert all(finding.signal == "suspicion" for finding in findings)
    return findings[0].row + 1 if findings else None


def test_the_thief_is_suspected_long_before_he_knows_the_tree(profile: Profile, script: Script) -> None:
    thief, rows, leaves = script.thief(), list[np.ndarray](), list[int]()
    while sum(map(len, rows)) < ENOUGH:
        rows.append(thief.next_batch())
        answers = script.victim().answer(rows[-1])
        assert answers.leaf is not None
        leaves += answers.leaf.tolist()
        thief.observe(rows[-1], answers)
    first = suspected(profile, script, "mallory", np.concatenate(rows))
    assert first is not None
    assert first < ENOUGH
    assert script.leaves is not None
    assert len(set(leaves[:ENOUGH])) > 1
    assert len(set(leaves[:first])) <= len(set(leaves)) < script.leaves / 2


def test_no_honest_account_of_the_show_is_suspected(profile: Profile, script: Script) -> None:
    for account in script.accounts:
        rng, rows, now = np.random.default_rng([SEED, 2, account.number]), list[np.ndarray](), 0.0
        for ask in account.habit.behaviour(script.dataset.honest, rng):
            now += ask.pause
            if now > DemoOptions().seconds:
                break
            rows.append(ask.rows)
        assert not rows or suspected(profile, script, account.name, np.concatenate(rows)) is None


def test_the_owner_s_tree_is_the_one_that_is_served(profile: Profile, script: Script) -> None:
    rows = np.random.default_rng(1).uniform(-1, 1, (500, 30)).astype(np.float32)
    assert profile.owner_model is not None
    np.testing.assert_allclose(profile.owner_model.outputs(rows), script.victim().probabilities(rows))
    assert profile.margins is not None
    assert profile.validation is not None


def test_over_http_the_thief_is_told_the_leaf_and_learns_as_he_would_here(script: Script) -> None:
    victim = TreeVictim(script.dataset)
    near, far = (path_finding_thief(script.dataset, SEED) for _ in range(2))
    tally = Tally("mallory", "thief")

    async def ask(rows: np.ndarray) -> None:
        transport = httpx.ASGITransport(create_app(victim, script.dataset.dimension))
        async with httpx.AsyncClient(transport=transport) as http:
            told = await Client(http, "http://server/predict", tally).ask(rows)
            assert told is not None and told.leaf is not None
            assert tally.leaves[-len(rows) :] == told.leaf.tolist()
            far.observe(rows, told)

    for _ in range(3):
        rows = near.next_batch()
        np.testing.assert_array_equal(rows, far.next_batch())
        near.observe(rows, victim.answer(rows))
        asyncio.run(ask(rows))
    assert len(rows)
