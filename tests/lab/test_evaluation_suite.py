"""Suites make each log once, resume where they were stopped, and make the same logs for the same plans."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from detector.contracts.errors import LabError
from detector.lab.attackers import ATTACKS
from detector.lab.datasets import DATASETS
from detector.lab.evaluation import suite
from detector.lab.evaluation.suite import SUITES, log_path, make_log, make_logs, plans_of, progress_of
from detector.lab.experiment import AttackPlan
from detector.lab.query_log import PARTIAL, QueryLog, read_run
from detector.lab.victims import VICTIMS
from detector.lab.wrappers import PLAIN, WRAPPERS
from tests.contracts.batches import make_batch
from tests.lab.labelled import run_of

PLAN = AttackPlan("jbda", "logistic regression", "iris", budget=20, accounts=2)


class Conduct:
    """Stands in for the experiment: counts, refuses one attack and, while it is ``broken``, fails at another."""

    def __init__(self) -> None:
        self.plans: list[AttackPlan] = []
        self.broken = True

    def __call__(self, plan: AttackPlan) -> QueryLog:
        self.plans.append(plan)
        if plan.attack == "impossible":
            raise LabError("the victim has no leaves")
        if plan.attack == "faulty" and self.broken:
            raise ZeroDivisionError("a fault of ours")
        return QueryLog(make_batch(rows=1), [], run_of(attack=plan.attack))


@pytest.fixture
def conducted(monkeypatch: pytest.MonkeyPatch) -> Conduct:
    conduct = Conduct()
    monkeypatch.setattr(suite, "conduct", conduct)
    monkeypatch.setattr(suite, "write_query_log", lambda path, log: path.write_text(log.run.attack))
    monkeypatch.setattr(suite, "_made", lambda missing: map(make_log, missing, missing.values()))
    return conduct


def test_a_suite_that_was_stopped_goes_on_where_it_was(tmp_path: Path, conducted: Conduct) -> None:
    plans = [replace(PLAN, seed=seed) for seed in range(4)]
    done: list[int] = []
    make_logs(plans[:2], tmp_path, done.append)
    assert progress_of(plans, tmp_path).left == 2
    make_logs(plans, tmp_path, done.append)
    assert conducted.plans == plans
    assert progress_of(plans, tmp_path).logs == [log_path(tmp_path, plan) for plan in plans]
    assert (sum(done[:3]), sum(done[3:])) == (2, 4)


def test_a_plan_that_cannot_be_is_noted_and_not_tried_again(tmp_path: Path, conducted: Conduct) -> None:
    plans = [replace(PLAN, attack="impossible"), PLAN]
    for _ in range(2):
        make_logs(plans, tmp_path)
        progress = progress_of(plans, tmp_path)
        assert (progress.logs, progress.unfit, progress.left) == ([log_path(tmp_path, PLAN)], 1, 0)
    assert conducted.plans == plans
    (note,) = tmp_path.glob("*.txt")
    assert "the victim has no leaves" in note.read_text()
    assert "impossible" in note.read_text()


def test_a_plan_that_fails_is_noted_ends_no_other_and_is_tried_again(tmp_path: Path, conducted: Conduct) -> None:
    plans = [replace(PLAN, attack="faulty"), PLAN]
    make_logs(plans, tmp_path)
    progress = progress_of(plans, tmp_path)
    assert (progress.logs, progress.failed, progress.left) == ([log_path(tmp_path, PLAN)], 1, 0)
    (note,) = tmp_path.glob("*.failed.txt")
    assert "ZeroDivisionError: a fault of ours" in note.read_text()
    conducted.broken = False
    make_logs(plans, tmp_path)
    progress = progress_of(plans, tmp_path)
    assert (len(progress.logs), progress.failed) == (2, 0)
    assert [plan.attack for plan in conducted.plans] == ["faulty", "jbda", "faulty"]


@pytest.mark.usefixtures("conducted")
def test_what_was_half_written_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / f"{log_path(tmp_path, PLAN).name}.17{PARTIAL}").write_text("half a l")
    make_logs([PLAN], tmp_path)
    assert not list(tmp_path.glob(f"*{PARTIAL}"))


def test_two_do_not_make_logs_in_one_folder(tmp_path: Path, conducted: Conduct) -> None:
    def again(_: int) -> None:
        with pytest.raises(LabError, match="another process makes logs there"):
            make_logs([PLAN], tmp_path)

    make_logs([PLAN], tmp_path, again)
    assert conducted.plans == [PLAN]


KILLED = """
import sys
from pathlib import Path
from detector.lab.evaluation.suite import make_logs
from detector.lab.experiment import AttackPlan
make_logs([AttackPlan("jbda", "logistic regression", "iris", budget=20, accounts=2, seed=seed) for seed in range(99)],
          Path(sys.argv[1]), lambda _: print(flush=True))
"""


def test_a_suite_that_is_killed_takes_its_processes_along_and_leaves_no_log_damaged(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        for _ in range(3):
            started.stdout.readline()
        started.kill()
        started.communicate(timeout=60)  # ends when no process of it is left that could write
    made = {path.name: path.read_bytes() for path in tmp_path.glob("*.parquet")}
    assert len(made) >= 2
    for seed in range(len(made)):
        plan = AttackPlan("jbda", "logistic regression", "iris", budget=20, accounts=2, seed=seed)
        make_log(tmp_path / "again" / "log.parquet", plan)
        assert made.pop(log_path(tmp_path, plan).name, None) in {
            None,
            (tmp_path / "again" / "log.parquet").read_bytes(),
        }
    assert len(made) <= 1


@pytest.mark.parametrize(
    "changes", [{"attack": "x"}, {"victim": "x"}, {"dataset": "x"}, {"wrapper": "x"}, {"seed": 1}, {"budget": 1}]
)
def test_a_log_is_named_by_all_that_it_depends_on(tmp_path: Path, changes: dict[str, object]) -> None:
    assert log_path(tmp_path, replace(PLAN, **changes)) != log_path(tmp_path, PLAN)  # type: ignore[arg-type]


def test_another_version_of_the_lab_makes_other_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = log_path(tmp_path, PLAN)
    monkeypatch.setattr(suite, "code_version", lambda *_: "another")
    assert log_path(tmp_path, PLAN) != before


def test_the_same_plans_make_the_same_bytes_in_processes_of_their_own(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        make_logs([PLAN], tmp_path / folder)
    first, second = (log_path(tmp_path / folder, PLAN) for folder in ("a", "b"))
    assert read_run(first).attack == "jbda"
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("name", SUITES)
def test_every_name_in_a_suite_is_known(name: str) -> None:
    for plan in plans_of(name):
        assert plan.attack in ATTACKS, plan
        assert plan.victim in VICTIMS, plan
        assert plan.dataset in DATASETS, plan
        assert plan.wrapper in WRAPPERS, plan


def test_suites_have_every_wrapper() -> None:
    assert {plan.wrapper for plan in plans_of("full")} == set(WRAPPERS)
    assert {plan.wrapper for name in ("quick", "adaptive") for plan in plans_of(name)} == set(WRAPPERS)


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_counts_no_honest_user_twice(name: str) -> None:
    plans = plans_of(name)
    assert len(set(plans)) == len(plans)
    populated = [(plan.dataset, plan.seed) for plan in plans if plan.accounts]
    assert populated
    assert len(set(populated)) == len(populated)


def test_the_full_suite_has_every_attack_and_every_victim() -> None:
    plans = plans_of("full")
    assert {plan.attack for plan in plans} == set(ATTACKS)
    assert {plan.victim for plan in plans} == set(VICTIMS)


def test_the_first_part_of_the_full_suite_is_every_attack_undisguised() -> None:
    plans = plans_of("full")
    plain = [plan.wrapper == PLAIN for plan in plans]
    assert plain == sorted(plain, reverse=True)
    assert {plan.attack for plan in plans[: sum(plain)]} == set(ATTACKS)
