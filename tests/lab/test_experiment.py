"""An attack through a disguise: who is shown what, what is logged, what the clone is worth on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.contracts.errors import LabError
from detector.contracts.queries import OutputKind
from detector.lab.answers import Answers, Classifier
from detector.lab.attackers import ATTACKS
from detector.lab.attackers.attacker import Knowledge
from detector.lab.data import Dataset
from detector.lab.datasets import read_dataset
from detector.lab.experiment import START, AttackPlan, conduct, honest_traces, thief_trace
from detector.lab.fidelity import Yardstick
from detector.lab.query_log import DUMMY, Mark, QueryLog, write_query_log
from detector.lab.session import AttackSession, InProcess, checkpoints
from detector.lab.wrappers import WRAPPERS
from detector.lab.wrappers.disguises import Disguise, Dummies, Mixed, SentQueries
from tests.lab.labelled import read_query_log

PLAN = AttackPlan("jbda", "logistic regression", "digits", "dummies", budget=120, seed=3, accounts=20)
PAUSE = 0.1


class Certain:
    """Always names ``label``, one of three."""

    output_kind: OutputKind = "probabilities"

    def __init__(self, label: int) -> None:
        self._label = label

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.repeat(np.eye(3)[[self._label]], len(features), axis=0)

    def answer(self, features: NDArray[np.float32]) -> Answers:
        return Answers(self.probabilities(features), leaf=np.arange(len(features)))


class Tellable:
    """Queries in rounds of ``sizes``; keeps the answers. The clone is right from the 30th answer on."""

    def __init__(self, sizes: Sequence[int], dimension: int) -> None:
        self._sizes = list(sizes)
        self._dimension = dimension
        self.told: list[tuple[NDArray[np.float32], Answers]] = []
        self.asked: list[NDArray[np.float32]] = []

    def next_batch(self) -> NDArray[np.float32]:
        size = self._sizes.pop(0) if self._sizes else 0
        rng = np.random.default_rng(size)
        self.asked.append(rng.random((size, self._dimension), dtype=np.float32))
        return self.asked[-1]

    def observe(self, features: NDArray[np.float32], answers: Answers) -> None:
        self.told.append((features, answers))

    def clone(self) -> Classifier:
        answers = sum(len(features) for features, _ in self.told)
        if answers < 10:
            raise LabError("too few answers")
        return Certain(1 if answers >= 30 else 0)


class Stingy(InProcess):
    """Refuses all queries after its first ``patience`` answers."""

    patience = 25

    def answer(self, features: NDArray[np.float32], *sending: Any) -> Answers:
        answers = super().answer(features, *sending).take(slice(self.patience))
        self.patience -= len(answers.probabilities)
        return answers


def course(split: Dataset, sizes: Sequence[int], disguise: Disguise, service: InProcess | None = None) -> AttackSession:
    return AttackSession(
        Tellable(sizes, split.dimension),
        service or InProcess(Certain(1)),
        disguise,
        Yardstick.of(Certain(1), split, seed=0, rows=50),
        checkpoints=[5, 20, 40],
    )


def test_the_thief_is_told_his_own_answers_in_order_and_not_those_to_dummies(split: Dataset) -> None:
    played = course(split, [30, 20], Dummies(split.thief.features, 1, PAUSE, seed=0))
    played.run()
    thief = played._attacker
    assert isinstance(thief, Tellable)
    np.testing.assert_array_equal(np.concatenate([features for features, _ in thief.told]), np.concatenate(thief.asked))
    leaves = np.concatenate([np.arange(60)[1::2], np.arange(40)[1::2]])
    told = [answers.leaf for _, answers in thief.told if answers.leaf is not None]
    np.testing.assert_array_equal(np.concatenate(told), leaves)
    assert (played.sent, played.useful) == (100, 50)


def test_a_thief_who_weaves_crossovers_in_learns_from_them_too(split: Dataset) -> None:
    played = course(split, [3, 5], WRAPPERS["diluted"](split, PAUSE, 1))
    played.run()
    told = np.concatenate([features for features, _ in played._attacker.told])  # type: ignore[attr-defined]
    np.testing.assert_array_equal(told, np.concatenate([own.stream.features for own in played.rounds]))
    assert len(told) == played.useful == played.sent == 8 * 8


class Refusing:
    """Lets the first query of each of two rounds pass, and then nothing."""

    def __init__(self) -> None:
        self.seen: list[SentQueries] = []

    def passed(self, stream: SentQueries, new_clone: Callable[[], Classifier]) -> SentQueries:
        return stream.take(slice(1 if len(self.seen) < 2 else 0))

    def observe(self, stream: SentQueries, answers: Answers) -> None:
        self.seen.append(stream)


def test_a_guard_decides_what_is_sent_and_when_the_attack_ends(split: Dataset) -> None:
    guard, attacker, service = Refusing(), Tellable([4, 4, 4, 4], split.dimension), InProcess(Certain(1))
    played = AttackSession(attacker, service, Disguise(PAUSE), Yardstick.of(Certain(1), split, 0, 10), [], guard)
    played.run()
    assert [len(stream) for stream in guard.seen] == [1, 1]
    assert played.sent == 2
    np.testing.assert_array_equal(
        np.concatenate([features for features, _ in attacker.told]), [attacker.asked[0][0], attacker.asked[1][0]]
    )
    assert len(attacker.asked) == 3


def test_clones_are_measured_at_checkpoints_within_rounds_and_at_the_end_by_queries_sent(split: Dataset) -> None:
    played = course(split, [30, 20], Dummies(split.thief.features, 1, PAUSE, seed=0))
    played.run()
    assert [(point.queries, point.test, point.uniform, point.tv_test) for point in played.curve] == [
        (40, 0.0, 0.0, 0.0),
        (80, 1.0, 1.0, 1.0),
        (100, 1.0, 1.0, 1.0),
    ]
    assert played.curve[-1].accuracy == pytest.approx((split.test.labels[:50] == 1).mean())


def test_an_honest_user_s_own_queries_are_no_cost_of_the_thief(split: Dataset) -> None:
    played = course(split, [50], Mixed(split.honest, PAUSE, seed=0))
    played.run()
    assert (played.sent, played.useful) == (50, 50)
    assert played.curve[-1].queries == 50
    marks = Counter(thief_trace("toy", played).marks)
    assert marks.keys() == {Mark("extraction", "toy"), Mark("honest", "steady")}


def test_a_thief_who_is_turned_away_keeps_what_he_got(split: Dataset) -> None:
    played = course(split, [10, 30, 20], WRAPPERS["round-robin"](split, PAUSE, 0), Stingy(Certain(1)))
    played.run()
    assert (played.sent, played.useful) == (25, 25)
    assert [point.queries for point in played.curve] == [20, 25]
    trace = thief_trace("toy", played)
    assert len(trace.at) == 25
    assert trace.accounts[:3] == ["mallory-1", "mallory-2", "mallory-3"]


class Sweeping(Tellable):
    """Requests with each row of a batch its number, and a second."""

    def next_specifications(self) -> NDArray[np.float32]:
        rows = len(self.asked[-1])
        return np.stack([np.arange(rows), np.full(rows, 1_000)], axis=1).astype(np.float32)


def test_what_is_requested_of_a_zoo_goes_with_each_query_and_a_dummy_requests_what_the_one_before_did(
    split: Dataset,
) -> None:
    disguise = Dummies(split.thief.features, 1, PAUSE, seed=0)
    yardstick = Yardstick.of(Certain(1), split, seed=0, rows=50)
    played = AttackSession(
        Sweeping([4, 20], split.dimension), Stingy(Certain(1)), disguise, yardstick, checkpoints=[40]
    )
    played.run()
    specification = thief_trace("toy", played).specification
    assert specification is not None
    expected = [0, 0, 0, 1, 1, 2, 2, 3, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]
    np.testing.assert_array_equal(specification[:, 0], expected)


def test_what_was_requested_is_in_the_log_of_a_sweep() -> None:
    sweep = conduct(AttackPlan("psml sweep", "logistic regression", "digits", budget=40, accounts=0)).queries
    assert sweep.specification is not None
    np.testing.assert_array_equal(sweep.specification[:2], [[0.0, 1_000.0], [0.5, 1_000.0]])
    assert conduct(replace(PLAN, budget=10)).queries.specification is None


def test_a_thief_without_an_answer_leaves_no_log(split: Dataset) -> None:
    played = course(split, [], Disguise(PAUSE))
    played.run()
    assert played.curve == []
    with pytest.raises(LabError, match="not one query was answered"):
        thief_trace("toy", played)


def test_checkpoints_halve_down_from_the_budget() -> None:
    assert checkpoints(1_280) == [10, 20, 40, 80, 160, 320, 640, 1_280]
    assert checkpoints(30) == [10, 15, 30]
    assert checkpoints(4) == [10]


def test_honest_users_keep_to_the_time_and_to_their_limit(split: Dataset) -> None:
    traces = honest_traces(split, InProcess(Certain(0)), accounts=30, seed=0, seconds=150.0)
    assert len({trace.accounts[0] for trace in traces}) == len(traces) == 30
    assert max(len(trace.at) for trace in traces) <= 500
    assert all(trace.at[-1] <= 150 and (np.diff(trace.at) >= 0).all() for trace in traces)
    assert {mark.label for trace in traces for mark in trace.marks} == {"honest"}


@pytest.fixture(scope="module")
def log() -> QueryLog:
    return conduct(PLAN)


def test_the_log_holds_everybody_by_time_with_his_label(log: QueryLog) -> None:
    queries = log.queries
    assert (np.diff(queries.occurred_at) >= 0).all()
    assert queries.occurred_at[0] >= START
    assert len(set(queries.event_ids)) == len(queries)
    kinds = Counter(mark.kind for mark in log.marks)
    assert (kinds["jbda"], kinds[DUMMY], log.run.sent, log.run.useful) == (120, 120, 240, 120)
    by_account = {
        (queries.principals[who], mark.label) for who, mark in zip(queries.principal_index, log.marks, strict=True)
    }
    assert {label for name, label in by_account if name == "mallory"} == {"extraction"}
    assert {label for name, label in by_account if name != "mallory"} == {"honest"}
    assert len(queries.principals) == 21


def test_the_curve_rises_and_ends_with_the_attack(log: QueryLog) -> None:
    curve = log.run.curve
    assert curve[-1].queries == 240
    assert curve[-1].test > curve[0].test + 0.2
    assert curve[-1].accuracy is not None


def test_the_same_plan_gives_the_same_bytes_and_another_seed_others(log: QueryLog, tmp_path: Path) -> None:
    for name, made in (("one", log), ("two", conduct(PLAN)), ("other", conduct(replace(PLAN, seed=4)))):
        write_query_log(tmp_path / f"{name}.parquet", made)
    one, two, other = ((tmp_path / f"{name}.parquet").read_bytes() for name in ("one", "two", "other"))
    assert one == two
    assert one != other
    assert read_query_log(tmp_path / "one.parquet").run == log.run


def test_features_left_out_are_marked_and_tree_nodes_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    class Partial(Tellable):
        def next_batch(self) -> NDArray[np.float32]:
            batch = super().next_batch()
            batch[:, 0] = np.nan
            return batch

    def new(knowledge: Knowledge, budget: int, seed: int) -> Partial:
        return Partial([20], knowledge.dimension)

    monkeypatch.setitem(ATTACKS, "toy", new)
    queries = conduct(AttackPlan("toy", "decision tree", "iris", accounts=2)).queries
    assert queries.missing is not None
    assert queries.leaf is not None
    assert queries.missing.sum(axis=0).tolist() == [20, 0, 0, 0]
    assert (queries.features[queries.missing] == 0).all()


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"attack": "x"}, "jbda"),
        ({"victim": "x"}, "decision tree"),
        ({"dataset": "x"}, "iris"),
        ({"wrapper": "x"}, "slow"),
    ],
)
def test_a_wrong_name_is_answered_with_those_there_are(wrong: dict[str, Any], names: str) -> None:
    with pytest.raises(LabError, match=f"there is no .* 'x'; there is .*{names}"):
        conduct(replace(PLAN, **wrong))


def test_data_of_one_s_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(100, 3)), np.arange(100) % 4
    np.savez(tmp_path / "own.npz", features=rows, labels=labels)
    data = read_dataset(tmp_path / "own.npz")
    assert (data.name, data.classes, len(data.honest), len(data.thief), len(data.test)) == ("own", 4, 30, 30, 40)
    np.testing.assert_allclose(data.low, rows.min(axis=0), rtol=1e-6)
    assert np.unique(np.concatenate([data.honest.features, data.thief.features, data.test.features]), axis=0).shape == (
        100,
        3,
    )


@pytest.mark.parametrize(
    "arrays",
    [
        {"features": np.zeros((20, 2))},
        {"features": np.zeros((5, 2)), "labels": np.arange(5)},
        {"features": np.zeros((20, 2)), "labels": np.arange(19)},
        {"features": np.zeros((20, 2)), "labels": np.zeros(20, np.int64)},
        {"features": np.zeros((20, 2)), "labels": np.linspace(0, 1, 20)},
        {"features": np.full((20, 2), np.nan), "labels": np.arange(20)},
        {"features": np.array([{}] * 20), "labels": np.arange(20)},
    ],
)
def test_data_that_cannot_be_used_is_refused(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(LabError, match=r"own\.npz"):
        read_dataset(tmp_path / "own.npz")
