"""The accounts that stand out in an unlabelled log."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detector.contracts.queries import QueryBatch
from detector.core.calibration.calibrate import calibrate
from detector.core.calibration.crossfit import COLUMNS
from detector.core.calibration.exemplars import SIMULATED, LargestD
from detector.core.calibration.scan import ENOUGH, Ranking, Scan, line, outstanding, scan
from detector.core.configuration import EngineConfig
from detector.core.engine import Engine
from tests.core.honest import DIMENSION, account, crowd, thief

BUDGET = 0.01
CROWD = crowd(32)


def uniform(name: str, seed: int, rows: int = 80) -> QueryBatch:
    """An account that sends arbitrary queries."""
    return account(name, np.random.default_rng(seed).uniform(-1.5, 2.5, (rows, DIMENSION)), seed)


def line_walker(name: str, seed: int) -> QueryBatch:
    """One who walks along lines between natural inputs, finer and finer."""
    rng = np.random.default_rng(seed)
    ends = rng.random((20, 2, DIMENSION))
    shares = np.cumsum(0.5 ** np.arange(1, 9))[None, :, None]
    return account(name, (ends[:, :1] + shares * (ends[:, 1:] - ends[:, :1])).reshape(-1, DIMENSION), seed)


def names(found: Scan) -> list[str]:
    return [account.name for account in found.accounts]


def out(found: Scan) -> set[str]:
    return {account.name for account in found.accounts if account.stands_out}


@pytest.fixture(scope="module")
def three() -> Scan:
    return scan([*CROWD, thief(), uniform("trudy", 1), line_walker("walter", 2)], BUDGET)


def test_thieves_of_three_kinds_are_first_and_left_out(three: Scan) -> None:
    assert set(names(three)[:3]) == {"mallory", "trudy", "walter"} <= out(three)
    assert len(out(three)) <= 4
    assert (
        set(three.screened.left_out) == {account.name for account in three.accounts if account.left_out} == out(three)
    )
    assert not out(three).intersection(three.screened.calibration.accounts)
    scores = [account.score for account in three.accounts]
    assert scores == sorted(scores, reverse=True) and len(scores) == 35


def test_who_stands_out_is_flagged_by_the_profile_and_crosses_where_it_says(three: Scan) -> None:
    """As the engine judges, that is as ``replay`` and the service do."""
    for own, queries in (("mallory", thief()), ("trudy", uniform("trudy", 1))):
        found = next(one for one in three.accounts if one.name == own)
        seen = Engine(EngineConfig(profiles=(three.screened.calibration.profile,))).observe([queries])
        course = seen.signals["suspicion"]
        assert found.crossed == int(np.argmax(course > found.line)) and found.row == int(course.argmax())
        assert found.unexplained == pytest.approx(course.max(), abs=1e-9)
        assert found.unexplained == pytest.approx(sum(added for *_, added in found.parts))


def test_two_of_one_kind_do_not_hide_each_other() -> None:
    accounts = [*CROWD, uniform("trudy", 1), uniform("trent", 3)]
    own = calibrate(accounts, BUDGET)
    thieves = {own.accounts.index("trudy"), own.accounts.index("trent")}
    assert any(own.largest[at] < own.profile.standards.threshold for at in thieves)
    assert outstanding(own, BUDGET) == thieves
    found = scan(accounts, BUDGET)
    assert out(found) == {"trudy", "trent"} == set(names(found)[:2])


def test_the_same_under_other_names_and_in_another_order(three: Scan) -> None:
    accounts = [*CROWD, thief(), uniform("trudy", 1), line_walker("walter", 2)]
    order = np.random.default_rng(4).permutation(len(accounts)).tolist()
    called = {accounts[at].principals[0]: f"key-{place}" for place, at in enumerate(order)}
    again = scan([replace(accounts[at], principals=[f"key-{place}"]) for place, at in enumerate(order)], BUDGET)
    assert names(again) == [called[name] for name in names(three)]
    for one, other in zip(again.accounts, three.accounts, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-9)


def test_among_honest_accounts_alone_nobody_stands_out() -> None:
    found = scan(CROWD, BUDGET)
    assert not out(found) and not found.screened.left_out
    assert found.screened.calibration.profile.to_bytes() == calibrate(CROWD, BUDGET).profile.to_bytes()


def test_of_few_accounts_there_is_an_order_and_no_more() -> None:
    few = scan([*CROWD[: ENOUGH - 2], thief()], BUDGET)
    assert not few.enough and not out(few) and not few.screened.left_out
    assert names(few)[0] == "mallory" and few.accounts[0].score > 1
    enough = scan([*CROWD[: ENOUGH - 1], thief()], BUDGET)
    assert enough.enough and out(enough) >= {"mallory"}


def found_by(**added: float) -> LargestD:
    columns = np.array([added.get(name, 0.0) for name in COLUMNS])
    return LargestD(float(columns.sum()), columns, frozenset(), 0, SIMULATED, 0 * columns)


def test_the_line_is_nearer_for_evidence_of_two_kinds_and_farther_for_few_accounts_and_groups() -> None:
    one, two = found_by(novelty=12.0), found_by(novelty=10.0, sign_steps=2.0)
    assert line(one, 5.0, COLUMNS, 60) == pytest.approx(5 * (1.5 + 0.1))
    assert line(two, 5.0, COLUMNS, 60) == pytest.approx(5 * (1.0 + 0.1))
    assert line(two, 5.0, COLUMNS, 12) > line(two, 5.0, COLUMNS, 60)
    structure, content = found_by(parallel_steps=12.0), found_by(unseen_values=12.0)
    assert line(structure, 5.0, COLUMNS, 60, together=True) == pytest.approx(5 * (4.0 + 0.1))
    assert line(content, 5.0, COLUMNS, 60, together=True) == pytest.approx(5 * (2.2 + 0.1))
    both = found_by(parallel_steps=8.0, leaps=4.0)
    assert line(both, 5.0, COLUMNS, 60, together=True) == pytest.approx(5 * (2.2 + 0.1))
    assert line(two, 60.0, COLUMNS, 60) == line(two, 30.0, COLUMNS, 60)


def test_more_evidence_is_never_a_lower_score() -> None:
    rng = np.random.default_rng(7)
    for _ in range(50):
        less = dict(zip(COLUMNS, rng.exponential(2.0, len(COLUMNS)) * (rng.random(len(COLUMNS)) < 0.3), strict=True))
        more = less | {name: less[name] + rng.exponential(1.0) for name in rng.choice(COLUMNS, 3).tolist()}
        for together in (False, True):
            low, high = (
                own.d / line(own, 5.0, COLUMNS, 40, together=together) for own in (found_by(**less), found_by(**more))
            )
            assert high >= low


def test_who_is_gone_excuses_nobody() -> None:
    own = calibrate([*CROWD, uniform("trudy", 1), uniform("trent", 3)], BUDGET)
    trudy, trent = own.accounts.index("trudy"), own.accounts.index("trent")
    before, after = Ranking(own, BUDGET), Ranking(own, BUDGET, [trent])
    assert after.results[trudy].d > 3 * before.results[trudy].d
    assert after.results[trudy].d == own.comparison.largest_d(trudy, [trent]).d
