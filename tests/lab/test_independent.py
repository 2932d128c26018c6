"""Attacks that others wrote run as attackers of the lab, and do what ours do."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.cli.main import main
from detector.contracts.errors import LabError
from detector.lab.answers import Answers, Victim
from detector.lab.attackers import ATTACKS, EVASIONS, EVERY_ATTACK
from detector.lab.attackers.attacker import Attacker, Dialogue, Knowledge, run_offline
from detector.lab.attackers.evasion import Evasion
from detector.lab.data import Dataset
from detector.lab.experiment import AttackPlan, check_names, code_version, conduct
from detector.lab.fidelity import agreement
from detector.lab.independent import INDEPENDENT
from detector.lab.independent.calling import QueryVictim, questions_of
from detector.lab.victims.digits import DigitsVictim
from tests.lab.coarser import LabelOnly
from tests.lab.textures import textures

THRESHOLD = 0.3
ART_EXTRACTIONS = sorted(INDEPENDENT.keys() - EVASIONS)
ART_EVASIONS = sorted(INDEPENDENT.keys() & EVASIONS)


@pytest.fixture(scope="module")
def toolbox() -> None:
    """Skips where adversarial-robustness-toolbox is not installed."""
    pytest.importorskip("art.attacks", reason="the extra `independent` is not installed: docs/independent.md")


@pytest.fixture(scope="module")
def knowledge(split: Dataset) -> Knowledge:
    return Knowledge.of(split, textures(3_000, 8, seed=0))


def step(features: NDArray[np.float32]) -> Answers:
    """Names inputs (n, 1) by whether they lie beyond THRESHOLD."""
    beyond = features[:, 0] > THRESHOLD
    return Answers(np.stack([~beyond, beyond], axis=1).astype(np.float64))


@dataclass
class Bisection:
    """An attack that calls the victim: ten halvings, then three draws from numpy's global generator."""

    low: float = 0.0
    high: float = 1.0
    over: bool = False

    def run(self, ask: QueryVictim) -> None:
        for _ in range(10):
            middle = (self.low + self.high) / 2
            beyond = bool(ask(np.array([[middle]], np.float32)).labels[0])
            self.low, self.high = (self.low, middle) if beyond else (middle, self.high)
        ask(np.random.random((3, 1)).astype(np.float32))  # noqa: NPY002  # as libraries do
        self.over = True


def waiting() -> int:
    """Attacks that are under way."""
    return sum(thread.name == "calling attack" for thread in threading.enumerate())


def asked(attacker: Attacker | Dialogue, victim: Any, budget: int = 10**9) -> NDArray[np.float32]:
    batches = []
    while len(batch := attacker.next_batch()):
        batches.append(batch)
        attacker.observe(batch, victim(batch))
    assert sum(map(len, batches)) <= budget
    return np.concatenate(batches)


def test_an_attack_that_calls_asks_and_learns_what_it_would_by_itself() -> None:
    alone, adapted, queries = Bisection(), Bisection(), []

    def ask(features: NDArray[np.float32]) -> Answers:
        queries.append(features)
        return step(features)

    alone.run(ask)
    attacker = Dialogue(questions_of(adapted.run, [0]), 1_000)
    put = asked(attacker, step)
    np.testing.assert_array_equal(put[:10], np.concatenate(queries)[:10])
    assert (adapted.low, adapted.high) == (alone.low, alone.high)
    assert adapted.low < THRESHOLD < adapted.high
    assert adapted.over
    assert waiting() == 0


def test_a_question_is_answered_when_all_of_it_is() -> None:
    attack = Bisection()
    attacker = Dialogue(questions_of(attack.run, [0]), 1_000)
    while len(batch := attacker.next_batch()):
        assert not attack.over
        attacker.observe(batch[:1], step(batch[:1]))
    assert attack.over


def test_its_draws_are_seeded_and_disturb_nobody() -> None:
    def drawn(seed: int) -> bytes:
        return asked(Dialogue(questions_of(Bisection().run, [seed]), 1_000), step)[-3:].tobytes()

    before = np.random.get_state()[1]  # type: ignore[index]  # noqa: NPY002
    one = drawn(1)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # type: ignore[index]  # noqa: NPY002
    assert one == drawn(1) != drawn(2)


def test_an_attack_that_is_closed_or_forgotten_ends() -> None:
    attack = Bisection()
    questions = questions_of(attack.run, [0])
    next(questions)
    assert waiting() == 1
    questions.close()
    assert waiting() == 0

    attacker = Dialogue(questions_of(attack.run, [0]), 1_000)
    assert waiting() == 1
    del attacker
    gc.collect()
    assert waiting() == 0
    assert not attack.over


def test_an_attack_that_catches_everything_ends_too() -> None:
    asks = []

    def stubborn(ask: QueryVictim) -> None:
        try:
            for _ in range(100):
                asks.append("in a loop")
                with contextlib.suppress(Exception):
                    ask(np.zeros((1, 1), np.float32))
        finally:
            asks.append("at the end")
            ask(np.ones((1, 1), np.float32))

    questions = questions_of(stubborn, [0])
    next(questions)
    closing = threading.Thread(target=questions.close, daemon=True)
    closing.start()
    closing.join(timeout=30)
    assert not closing.is_alive()
    assert asks == ["in a loop", "at the end"]
    assert waiting() == 0


@pytest.mark.parametrize("questions_before", [0, 1])
def test_what_an_attack_raises_is_an_error_of_the_lab(questions_before: int) -> None:
    def failing(ask: QueryVictim) -> None:
        for _ in range(questions_before):
            ask(np.zeros((1, 1), np.float32))
        raise ValueError("probabilities contain NaN")

    with pytest.raises(LabError, match="ValueError: probabilities contain NaN") as raised:
        asked(Dialogue(questions_of(failing, [0]), 1_000), step)
    assert isinstance(raised.value.__cause__, ValueError)
    assert waiting() == 0


@pytest.fixture
def no_toolbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it is not installed."""
    for module in list(sys.modules):
        if module.startswith(("art.", "detector.lab.independent.")):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "art", None)


@pytest.mark.usefixtures("no_toolbox")
@pytest.mark.parametrize("name", sorted(INDEPENDENT))
def test_without_the_toolbox_they_name_the_extra(name: str, knowledge: Knowledge) -> None:
    with pytest.raises(LabError, match=r"pip install 'weirguard\[independent\]'"):
        EVERY_ATTACK[name](knowledge, 100, 0)
    with pytest.raises(LabError, match="not installed"):
        check_names(AttackPlan(name, "http://127.0.0.1:1", "digits"))


@pytest.mark.usefixtures("no_toolbox")
def test_without_the_toolbox_the_command_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    attack = ["--attack", "art-copycat", "--target", "logistic regression", "--out", str(tmp_path / "log.parquet")]
    with pytest.raises(SystemExit) as ended:
        main(["redteam", *attack])
    assert ended.value.code == 2
    assert "pip install 'weirguard[independent]'" in capsys.readouterr().err


def test_their_logs_depend_on_what_runs_them() -> None:
    assert code_version("art-zoo") == code_version("art-boundary") != code_version("art-copycat")


def test_no_suite_runs_them() -> None:
    assert not INDEPENDENT.keys() & ATTACKS.keys()
    assert EVERY_ATTACK.keys() == INDEPENDENT.keys() | ATTACKS.keys()


@pytest.mark.usefixtures("toolbox")
@pytest.mark.parametrize("name", sorted(INDEPENDENT))
def test_their_queries_are_seeded_in_range_and_within_the_budget(
    name: str, knowledge: Knowledge, victim: DigitsVictim
) -> None:
    runs = [asked(EVERY_ATTACK[name](knowledge, 250, seed), victim.answer, 250) for seed in (3, 3, 4)]
    assert len(runs[0]) > 100
    assert runs[0].tobytes() == runs[1].tobytes() != runs[2].tobytes()
    assert runs[0].min() >= 0 and runs[0].max() <= 1
    assert waiting() == 0


@pytest.mark.usefixtures("toolbox")
@pytest.mark.parametrize("name", ART_EXTRACTIONS)
def test_their_thieves_ask_what_is_in_the_pool_and_need_one(
    name: str, knowledge: Knowledge, victim: DigitsVictim
) -> None:
    queries = asked(EVERY_ATTACK[name](knowledge, 150, 0), victim.answer)
    assert set(map(bytes, queries)) <= set(map(bytes, knowledge.pool))
    with pytest.raises(LabError, match="pool"):
        EVERY_ATTACK[name](replace(knowledge, pool=knowledge.pool[:0]), 150, 0)


@pytest.mark.usefixtures("toolbox")
@pytest.mark.parametrize("name", ART_EXTRACTIONS)
def test_a_thief_who_is_stopped_has_a_clone_of_the_answers(
    name: str, knowledge: Knowledge, victim: DigitsVictim, split: Dataset
) -> None:
    thief = EVERY_ATTACK[name](knowledge, 1_000, 0)
    with pytest.raises(LabError, match="nothing has been answered"):
        thief.clone()
    worth = {}
    for stop in (300, 10**9):
        told = 0
        while told < stop and len(batch := thief.next_batch()):
            thief.observe(batch, victim.answer(batch))
            told += len(batch)
        worth[stop] = agreement(victim, thief.clone(), split.test.features)
    early, late = worth.values()
    assert 0.4 < early < late


def mean_agreement(name: str, knowledge: Knowledge, victim: Victim, split: Dataset) -> float:
    """Over three seeds, after 1,000 queries."""
    thieves = [EVERY_ATTACK[name](knowledge, 1_000, seed) for seed in range(3)]
    for thief in thieves:
        run_offline(thief, victim)
    return float(np.mean([agreement(victim, thief.clone(), split.test.features) for thief in thieves]))


@pytest.mark.usefixtures("toolbox")
@pytest.mark.parametrize("name", ["knockoff random", "copycat"])
def test_ours_and_theirs_steal_equally_well(
    name: str, knowledge: Knowledge, victim: DigitsVictim, split: Dataset
) -> None:
    ours = mean_agreement(name, knowledge, victim, split)
    theirs = mean_agreement("art-" + name.replace(" ", "-"), knowledge, victim, split)
    assert ours == pytest.approx(theirs, abs=0.05)


@pytest.mark.usefixtures("toolbox")
def test_their_bandit_steals_less_as_it_learns_labels_and_asks_again_what_it_knows(
    knowledge: Knowledge, victim: DigitsVictim, split: Dataset
) -> None:
    ours = mean_agreement("knockoff adaptive", knowledge, victim, split)
    theirs = mean_agreement("art-knockoff-adaptive", knowledge, victim, split)
    assert 0.5 < theirs < ours - 0.05
    assert len(asked(EVERY_ATTACK["art-knockoff-adaptive"](knowledge, 1_000, 0), victim.answer)) < 900


@pytest.mark.usefixtures("toolbox")
def test_their_bandit_cannot_do_with_labels_only(knowledge: Knowledge, victim: DigitsVictim) -> None:
    """A certainty that never varies has no standard deviation to divide by."""
    with pytest.raises(LabError, match="the attack failed"):
        run_offline(EVERY_ATTACK["art-knockoff-adaptive"](knowledge, 100, 0), LabelOnly(victim))
    assert waiting() == 0


def median_distance(name: str, knowledge: Knowledge, victim: Victim) -> float:
    """Of five inputs, each with a budget of 1,000 queries; all must be turned."""
    distances = []
    for row in range(5):
        attacker = EVERY_ATTACK[name](replace(knowledge, natural=knowledge.natural[row : row + 1]), 1_000, 0)
        assert isinstance(attacker, Evasion)
        run_offline(attacker, victim)
        found = np.stack([attacker.found[0], attacker.originals[0]]).astype(np.float32)
        assert len(set(victim.answer(found).labels.tolist())) == 2
        distances.append(attacker.distances()[0])
    return float(np.median(distances))


@pytest.mark.usefixtures("toolbox")
@pytest.mark.parametrize("name", ["art-boundary", "art-hop-skip-jump"])
def test_ours_and_theirs_walk_equally_near_by_labels_alone(
    name: str, knowledge: Knowledge, victim: DigitsVictim
) -> None:
    api = LabelOnly(victim)
    ours, theirs = (median_distance(each, knowledge, api) for each in ("boundary walk", name))
    assert 0.7 * ours < theirs < 1.4 * ours


@pytest.mark.usefixtures("toolbox")
def test_zoo_turns_every_input_by_probabilities_and_none_by_labels(knowledge: Knowledge, victim: DigitsVictim) -> None:
    one = replace(knowledge, natural=knowledge.natural[:1])
    by_labels = EVERY_ATTACK["art-zoo"](one, 1_000, 0)
    run_offline(by_labels, LabelOnly(victim))
    assert isinstance(by_labels, Evasion)
    assert not by_labels.found
    by_probabilities = EVERY_ATTACK["art-zoo"](one, 1_000, 0)
    changes = asked(by_probabilities, victim.answer) - one.natural
    assert changes.min() < -0.01 and changes.max() > 0.01
    assert median_distance("art-zoo", knowledge, victim) < 1.5 * median_distance("boundary walk", knowledge, victim)


@pytest.mark.usefixtures("toolbox")
@pytest.mark.parametrize(("name", "label"), [("art-knockoff-random", "extraction"), ("art-boundary", "evasion")])
def test_a_plan_of_theirs_gives_a_labelled_log(name: str, label: str) -> None:
    plan = AttackPlan(name, "logistic regression", "breast cancer", budget=120, accounts=0)
    log = conduct(plan)
    assert {(mark.label, mark.kind) for mark in log.marks} == {(label, name)}
    assert len(log.marks) == 120
    assert bool(log.run.curve) == (label == "extraction")
