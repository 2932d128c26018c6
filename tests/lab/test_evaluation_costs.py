"""What it costs a thief to stay unseen, from the curves of runs."""

from __future__ import annotations

import pytest

from detector.lab.evaluation.costs import LEVELS, OWN_ROWS, cheapest, queries_to, thief_costs
from detector.lab.evaluation.report import cheapest_table, cost_table, html, markdown
from detector.lab.evaluation.results import AttackResult
from tests.lab.labelled import evaluation, fidelity, result, run_of

CURVE = (fidelity(100, 0.5, 0.1), fidelity(300, 0.9, 0.3), fidelity(400, 0.8, 0.2), fidelity(500, 1.0, 0.4))
SLOW = (fidelity(100, 0.5, 0.1), fidelity(1_000, 1.0, 0.4))


def thief(first_verdict: int | None = None, **changes: object) -> AttackResult:
    return result("crossover", first_verdict, **{"curve": CURVE, "natural": 60} | changes)


def natural(reached: float, first_verdict: int | None = None) -> AttackResult:
    return result(OWN_ROWS, first_verdict, curve=(fidelity(50, 0.2, 0.0), fidelity(150, reached, 0.0)))


@pytest.mark.parametrize(
    ("goal", "limit", "queries"),
    [
        (0.5, 1e9, 100),
        (0.7, 1e9, 200),
        (0.9, 1e9, 300),
        (0.95, 1e9, 475),
        (0.7, 199, None),
        (0.7, 201, 200),
        (1.1, 1e9, None),
    ],
)
def test_a_level_is_reached_where_the_curve_first_crosses_it(goal: float, limit: float, queries: float | None) -> None:
    assert queries_to(run_of(curve=CURVE), "test", goal, limit) == (queries and pytest.approx(queries))


def test_a_thief_whom_nobody_finds_pays_nothing_and_one_found_first_cannot() -> None:
    for first_verdict, expected in ((None, (1, 1, 1)), (400, (1, None, None)), (90, (None,) * 3)):
        [own] = thief_costs([thief(first_verdict)])
        assert tuple(cost.multiplier for cost in own.costs["test"]) == expected
        assert own.found_after == (None if first_verdict is None else first_verdict - 60)


def test_care_costs_what_it_takes_longer_than_the_same_attack_unwatched() -> None:
    blind, careful = thief(90), thief(knows="code", curve=SLOW)
    costs = {own.result.run.knows: own.costs for own in thief_costs([careful, blind])}
    first, second, _ = costs["code"]["test"]
    assert [first.unwatched, second.unwatched] == pytest.approx([300, 475])
    assert [first.unseen, second.unseen] == pytest.approx([820, 910])
    assert first.multiplier == pytest.approx(820 / 300)
    assert [cost.multiplier for cost in costs["none"]["test"]] == [None] * 3


def test_natural_rows_alone_may_be_the_cheapest_way() -> None:
    [own] = [each for each in thief_costs([thief(90), natural(0.91)]) if each.result.run.attack == "crossover"]
    first, second, _ = own.costs["test"]
    assert first.by_rows
    assert first.multiplier == 1
    assert first.rows == pytest.approx(50 + 100 * 0.7 / 0.71)
    assert first.unseen is None
    assert second.unwatched == pytest.approx(475)
    assert (second.unseen, second.multiplier) == (None, None)
    assert not second.by_rows
    assert own.costs["uniform"][0].multiplier is None


def test_natural_rows_that_are_found_are_no_way() -> None:
    costs = thief_costs([thief(90), natural(0.91, first_verdict=60)])
    [own] = [each for each in costs if each.result.run.attack == "crossover"]
    assert [cost.rows for cost in own.costs["test"]] == [None] * 3


def test_all_thieves_of_a_victim_are_held_against_the_best_clone_and_the_quickest_way_to_it() -> None:
    poor = result("poor", curve=(fidelity(50, 0.92, 0.1), fidelity(500, 0.93, 0.1)))
    costs = {own.result.run.attack: own.costs["test"] for own in thief_costs([poor, thief()])}
    assert [cost.unwatched for cost in costs["crossover"]] == [50, pytest.approx(475), pytest.approx(495)]
    assert costs["crossover"][0].multiplier == pytest.approx(300 / 50)
    assert [cost.multiplier for cost in costs["poor"]] == [1, None, None]


def test_a_victim_whom_nobody_attacks_unwatched_is_left_out() -> None:
    assert thief_costs([thief(knows="code"), thief(wrapper="diluted")]) == ()
    assert len(thief_costs([thief(), thief(victim="other", knows="code")])) == 1


def test_the_cheapest_is_who_gets_there_unseen_with_the_fewest_queries() -> None:
    costs = thief_costs([thief(90), thief(wrapper="diluted", curve=SLOW), thief(wrapper="washed", knows="code")])
    own = cheapest(costs, "test", 0.95)
    assert own is not None
    assert own.result.run.wrapper == "washed"
    assert cheapest([each for each in costs if each.result.run.knows == "none"], "test", 0.95) == costs[1]
    assert cheapest(costs[:1], "test", 0.95) is None


def test_the_table_has_a_row_for_each_thief_and_both_reports_have_the_table() -> None:
    costs = thief_costs([thief(90), natural(0.91), thief(knows="code")])
    head, rows = cost_table(costs).head, cost_table(costs).rows
    row = dict(zip(head, next(row for row in rows if row[1] == "crossover" and row[3] == "none"), strict=True))
    assert row["found after"] == "30"
    assert row["cost multiplier, natural"] == "1.0 rows / never / never"
    assert row["cost multiplier, uniform"] == "never / never / never"
    assert row["cost multiplier, natural"].count("/") == len(LEVELS) - 1
    assert cheapest_table(costs).rows == [
        ("small", "none", "never", "never"),
        ("small", "code", "1.0 (crossover)", "1.0 (crossover)"),
    ]
    shown = evaluation(*(cost.result for cost in costs))
    assert "1.0 rows / never / never" in html(shown, "", costs)
    assert "| 1.0 rows / never / never |" in markdown(shown, False, costs)
    assert "Cost of staying unseen" not in html(shown, "") + markdown(shown, False)
