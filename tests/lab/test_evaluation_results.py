"""What labelled logs come to when they are judged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detector.contracts.errors import LabError
from detector.lab.evaluation.judging import JudgedLog, judge_labelled
from detector.lab.evaluation.results import CloneAgreement, Evaluation, HonestResult, evaluation_of
from detector.policy.config import Policy
from detector.replay.report import replay
from tests.contracts.batches import make_batch
from tests.lab.labelled import COMPATIBLE, fidelity, result, run_of, traffic, write_traffic
from tests.sources.logs import rows_of, write_parquet


def judged(*paths: Path) -> Evaluation:
    logs = [judge_labelled(path, engine_config=COMPATIBLE, policy=Policy()) for path in paths]
    return evaluation_of(logs, "prada", ("prada",))


def test_the_verdicts_are_those_of_replay(tmp_path: Path) -> None:
    log = write_traffic(tmp_path / "log.parquet", traffic())
    summary = replay([log], tmp_path / "out", engine_config=COMPATIBLE, policy=Policy())
    first = {entry["principal"]: entry["first_flagged"] for entry in summary["principals"]}
    (attack,) = judged(log).attacks
    assert first["thief"] > 60
    assert attack.first_verdict == first["thief"] + 1
    assert first["ana"] is first["bo"] is None
    assert [(each.kind, each.accounts, each.flagged) for each in judged(log).honest] == [
        ("light", 1, 0),
        ("steady", 1, 0),
    ]


def test_logs_do_not_influence_one_another(tmp_path: Path) -> None:
    log = write_traffic(tmp_path / "log.parquet", traffic())
    (alone,), both = judged(log).attacks, judged(log, log).attacks
    assert both == (alone, alone)


def test_progress_counts_every_row_and_refused_ones_are_told(tmp_path: Path) -> None:
    queries = traffic(300)
    queries.outputs[7] = 7
    log = write_traffic(tmp_path / "log.parquet", queries)
    done: list[int] = []
    judge_labelled(log, engine_config=COMPATIBLE, policy=Policy(), progress=done.append)
    assert sum(done) == 300
    assert judged(log).refused == 1


def test_a_log_without_labels_is_refused(tmp_path: Path) -> None:
    log = write_parquet(tmp_path / "log.parquet", rows_of(make_batch()))
    with pytest.raises(LabError, match="no labelled query log"):
        judged(log)


def log_of(account: str, honest: str, flagged: str, seed: int = 0) -> JudgedLog:
    """A log a letter a row: whose it is, h for honest, f for flagged, g for a member of a group."""
    names = sorted(set(account))
    mark = np.array([letter == "h" for letter in honest])
    kind = np.where(mark, "steady", "steps").astype(np.object_)
    run = run_of(sent=int((~mark).sum()), useful=1, seed=seed)
    numbers = np.array([names.index(letter) for letter in account])
    verdict = np.array([letter == "f" for letter in flagged])
    grouped = np.array([letter == "g" for letter in flagged])
    return JudgedLog(run, [("m", name) for name in names], numbers, mark, kind, verdict, grouped, refused=0)


@pytest.mark.parametrize(
    ("account", "honest", "flagged", "query"),
    [
        ("aaaa", "....", "..ff", 3),
        ("abab", "....", "...f", 4),
        ("abab", ".h.h", ".f.f", None),
        ("aaaa", ".h.h", ".f..", 1),
        ("aaaa", "hh..", "ff..", None),
        ("aaaa", "hh..", "ffff", 1),
    ],
    ids=["third query", "second account", "another's", "at cover", "before the theft", "suspect before the theft"],
)
def test_the_first_verdict_counts_what_the_thief_had_sent(
    account: str, honest: str, flagged: str, query: int | None
) -> None:
    (attack,) = evaluation_of([log_of(account, honest, flagged)], "prada", ("prada",)).attacks
    assert attack.first_verdict == query
    assert attack.accounts == len({who for who, mark in zip(account, honest, strict=True) if mark == "."})


@pytest.mark.parametrize(("flagged", "query", "by_group"), [(".g.f", 2, True), (".f.g", 2, False), ("..fg", 3, False)])
def test_a_collusion_run_is_caught_by_its_group_or_its_accounts(flagged: str, query: int, by_group: bool) -> None:
    evaluation = evaluation_of([log_of("abab", "....", flagged)], "prada", ("prada",))
    (attack,) = evaluation.attacks
    assert (attack.first_verdict, attack.by_group, evaluation.in_groups) == (query, by_group, 0)


def test_honest_accounts_in_groups_are_counted_once_for_a_seed() -> None:
    logs = [log_of("abc", "hh.", "gg."), log_of("abc", "hh.", "g.g"), log_of("a", "h", "g", seed=1)]
    assert evaluation_of(logs, "prada", ("prada",)).in_groups == 3


def test_an_account_that_steals_is_not_counted_among_the_honest() -> None:
    (kind,) = evaluation_of([log_of("abca", "hhh.", "f.f.")], "prada", ("prada",)).honest
    assert (kind.kind, kind.accounts, kind.flagged) == ("steady", 2, 1)


def test_the_same_honest_user_in_two_logs_of_a_seed_is_counted_once() -> None:
    again = [log_of("ab", "hh", ".."), log_of("ab", "hh", "f."), log_of("ab", "hh", "..")]
    (kind,) = evaluation_of(again, "prada", ("prada",)).honest
    assert (kind.accounts, kind.flagged) == (2, 1)
    (kind,) = evaluation_of([*again, log_of("ab", "hh", "..", seed=1)], "prada", ("prada",)).honest
    assert (kind.accounts, kind.flagged) == (4, 1)


def test_fidelity_is_read_off_the_curve_at_the_verdict_and_at_the_end() -> None:
    caught = result(first_verdict=200)
    then = caught.clone_at_verdict
    assert then is not None
    assert (then.test, then.uniform) == pytest.approx((0.7, 0.2))
    assert caught.clone_at_end == CloneAgreement(0.95, 0.35)
    assert caught.agreement_unseen == pytest.approx(0.7)
    early = result(first_verdict=99)
    assert early.clone_at_verdict is None
    assert early.agreement_unseen == 0
    missed = result()
    assert missed.clone_at_verdict is None
    assert missed.agreement_unseen == 0.95
    assert result(curve=()).clone_at_end is None


def test_the_cost_is_queries_sent_for_each_useful_one() -> None:
    assert result().sent_per_useful == 4
    assert result(useful=0).sent_per_useful == float("inf")


def test_missed_attacks_stand_first_and_the_best_clone_first_among_them() -> None:
    logs = [
        replace(log_of("a" * 9, "." * 9, flagged), run=run_of(sent=9, attack=name, curve=(fidelity(1, reached),)))
        for name, reached, flagged in [
            ("caught late", 0.9, "........f"),
            ("missed, poor", 0.3, "." * 9),
            ("missed, good", 0.8, "." * 9),
            ("caught, poor", 0.2, ".f......."),
        ]
    ]
    names = [attack.run.attack for attack in evaluation_of(logs, "prada", ("prada",)).attacks]
    assert names == ["missed, good", "missed, poor", "caught late", "caught, poor"]


def test_the_interval_is_clopper_pearson_s() -> None:
    ten = HonestResult.of("steady", 10, 1)
    assert (ten.low, ten.high) == pytest.approx((0.00253, 0.44502), abs=1e-5)
    none = HonestResult.of("steady", 20, 0)
    assert (none.low, none.high) == pytest.approx((0, 1 - 0.025 ** (1 / 20)))


def test_the_kinds_most_often_flagged_stand_first_and_all_are_summed() -> None:
    logs = [log_of("abc", "hhh", "f..")]
    (kind,) = evaluation_of(logs, "prada", ("prada",)).honest
    everybody = evaluation_of(logs, "prada", ("prada",)).all_honest
    assert everybody is not None
    assert (everybody.accounts, everybody.flagged, everybody.high) == (3, 1, kind.high)
    assert evaluation_of([], "prada", ("prada",)).all_honest is None


def test_the_run_survives_the_file(tmp_path: Path) -> None:
    log = write_traffic(tmp_path / "log.parquet", traffic(90), attack="a|b", wrapper="dummies")
    (attack,) = judged(log).attacks
    assert (attack.run.attack, attack.run.wrapper, attack.run.curve) == ("a|b", "dummies", run_of().curve)
    assert json.dumps(attack.sent_per_useful) == json.dumps(attack.run.sent / attack.run.useful)
