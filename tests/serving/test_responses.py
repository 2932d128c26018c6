"""One contract over the registry of responses, and the optimising ones against a slow oracle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detector.contracts.errors import ConfigurationError
from detector.serving.responses import RESPONSES, Draws, NoiseKey, Response, response_of
from detector.serving.responses.modelguard import modelguard_w
from detector.serving.responses.noise import specification_noise, truthful
from detector.serving.responses.perturbation import grad2, mad, mad_argmax, moved, reverse_sigmoid
from detector.serving.responses.rounding import modelguard_s, rounded
from tests.serving.response_oracle import (
    first_code_word,
    gradient_deviation,
    largest_remainder,
    mad_argmax_deviation,
    mad_target,
    modelguard_w_cost,
)

Rows = NDArray[np.float64]
KEY = NoiseKey(b"0123456789abcdef")
EVERY = pytest.mark.parametrize("response", RESPONSES.values(), ids=RESPONSES)
KEYED = pytest.mark.parametrize("response", [one for one in RESPONSES.values() if one.keyed], ids=lambda one: one.name)


def draws(rows: int, seed: int = 0) -> Draws:
    return Draws(np.random.default_rng(seed).integers(0, 1 << 63, (rows, 2), dtype=np.uint64))


def probabilities(rows: int, classes: int, seed: int, concentration: float = 0.3) -> Rows:
    return np.random.default_rng(seed).dirichlet(np.full(classes, concentration), rows)


def degenerate() -> dict[str, Rows]:
    """Returns rows at which formulas break: no remainder, no logarithm, no likeliest class."""
    tied = np.zeros((2, 6))
    tied[0, [2, 4]], tied[1, [0, 5]] = 0.5, [0.5, 0.5]
    close = np.array([[0.34, 0.33, 0.33 - 1e-9, 1e-9], [1 / 3, 1 / 3, 1 / 3, 0]])
    return {
        "one-hot": np.eye(5),
        "uniform": np.full((1, 7), 1 / 7),
        "tied": tied,
        "close": close,
        "two": np.array([[0.5, 0.5], [1.0, 0.0], [0.4999, 0.5001], [1e-12, 1 - 1e-12]]),
        "one": np.ones((2, 1)),
        "thousand": np.concatenate([np.full((1, 1_000), 1e-3), probabilities(3, 1_000, 1, 0.01)]),
    }


def parameters_of(response: Response) -> st.SearchStrategy[dict[str, float]]:
    def numbers(one: Any) -> st.SearchStrategy[float]:
        if one.whole:
            return st.integers(int(one.low), int(one.high))
        return st.floats(one.low, one.high)

    return st.fixed_dictionaries({name: numbers(one) for name, one in response.parameters.items()})


def check(response: Response, rows: Rows, parameters: Mapping[str, float], seed: int = 0) -> Rows:
    """Returns the answers, after the checks that hold for every response, row and parameter."""
    before = rows.copy()
    answers = response.change(rows, draws(len(rows), seed), response.checked(parameters))
    assert (rows == before).all()
    assert answers.shape == rows.shape and answers.dtype == np.float64
    assert np.isfinite(answers).all() and answers.min() >= 0
    assert np.abs(answers.sum(axis=1) - 1).max() < 1e-9
    distance = np.abs(answers - rows).sum(axis=1)
    assert distance.max() <= response.bound(response.checked(parameters), rows.shape[1]) + 1e-9
    if response.keeps_argmax:
        assert (answers.argmax(axis=1) == rows.argmax(axis=1)).all()
    return answers


@EVERY
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_answers_stay_on_the_simplex_within_the_bound(response: Response, data: st.DataObject) -> None:
    classes = data.draw(st.sampled_from([2, 3, 10, 40]))
    concentration = data.draw(st.sampled_from([0.02, 0.3, 1.0, 20.0]))
    rows = probabilities(4, classes, data.draw(st.integers(0, 1 << 32)), concentration)
    check(response, rows, data.draw(parameters_of(response)), data.draw(st.integers(0, 1 << 32)))


@EVERY
@pytest.mark.parametrize("case", degenerate())
def test_degenerate_vectors(response: Response, case: str) -> None:
    extremes = [{name: limit(one) for name, one in response.parameters.items()} for limit in (_low, _high)]
    for parameters in [{}, *extremes]:
        check(response, degenerate()[case], parameters)


def _low(one: Any) -> float:
    return float(one.low) if not one.whole else int(one.low)


def _high(one: Any) -> float:
    return float(one.high) if not one.whole else int(one.high)


@EVERY
def test_a_batch_is_its_rows_one_by_one(response: Response) -> None:
    rows, seeds = probabilities(300, 12, 3, 0.2), np.random.default_rng(4).integers(0, 1 << 63, (300, 2), np.uint64)
    parameters = response.checked({})
    together = response.change(rows, Draws(seeds), parameters)
    one_by_one = [response.change(rows[at : at + 1], Draws(seeds[at : at + 1]), parameters) for at in range(300)]
    assert np.abs(together - np.concatenate(one_by_one)).max() < 1e-9
    assert (response.change(rows, Draws(seeds), parameters) == together).all()


@EVERY
def test_it_changes_answers_only_by_what_it_declares(response: Response) -> None:
    rows, parameters = probabilities(200, 10, 5, 0.5), response.checked({})
    first, second = (response.change(rows, draws(200, seed), parameters) for seed in (1, 2))
    assert not np.allclose(first, rows)
    assert np.allclose(first, second) != response.keyed
    if not response.keeps_argmax:
        assert (first.argmax(axis=1) != rows.argmax(axis=1)).any()


@EVERY
def test_float32_rows_keep_their_label_after_the_way_back(response: Response) -> None:
    for concentration in (0.05, 5.0):
        rows = probabilities(200, 100, 6, concentration).astype(np.float32).astype(np.float64)
        rows /= rows.sum(axis=1, keepdims=True)
        answers = check(response, rows, {}).astype(np.float32)
        if response.keeps_argmax:
            assert (answers.argmax(axis=1) == rows.argmax(axis=1)).all()


@EVERY
def test_parameters_are_checked(response: Response) -> None:
    with pytest.raises(ConfigurationError, match="has no parameter 'strength'"):
        response.checked({"strength": 1})
    for name, one in response.parameters.items():
        for wrong in (one.low - 1, one.high + 1, float("nan"), "1", None, True, [1]):
            with pytest.raises(ConfigurationError, match=name):
                response.checked({name: wrong})


@pytest.mark.parametrize(
    "response", [one for one in RESPONSES.values() if one.change_scores is not None], ids=lambda one: one.name
)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_scores_stay_within_the_bound_and_a_batch_is_its_rows(response: Response, data: st.DataObject) -> None:
    assert response.change_scores is not None
    numbers = st.floats(-1e30, 1e30).map(lambda score: score if abs(score) > 1e-90 else 0.0)
    scores = np.array(data.draw(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=5)))
    parameters = response.checked(data.draw(parameters_of(response)))
    noise, before = draws(len(scores), data.draw(st.integers(0, 1 << 32))), scores.copy()
    answers = response.change_scores(scores, noise, parameters)
    assert (scores == before).all() and answers.shape == scores.shape
    assert (np.abs(answers - scores) <= response.scores_bound(parameters) * np.abs(scores) * (1 + 1e-9)).all()
    for at in range(len(scores)):
        one = response.change_scores(scores[at : at + 1], noise.take(np.array([at])), parameters)
        assert (one[0] == answers[at]).all()
    other = response.change_scores(scores, draws(len(scores), 1 << 33), parameters)
    assert response.keyed or (other == answers).all()


def test_a_response_belongs_to_one_action() -> None:
    assert response_of("perturb", {"response": "mad", "epsilon": 1})[1] == {"epsilon": 1.0}
    assert response_of("round", {})[0].name == "round"
    wrong: dict[str, dict[str, object]] = {
        "round": {"response": "mad"},
        "perturb": {"response": "unheard"},
        "label_only": {"response": 3},
        "dance": {},
    }
    for action, parameters in wrong.items():
        with pytest.raises(ConfigurationError, match=f"{action} has no response"):
            response_of(action, parameters)


@pytest.mark.parametrize("seed", range(60))
def test_modelguard_w_is_the_solution_of_its_program(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = probabilities(1, int(rng.choice([2, 3, 4, 6, 10, 25])), seed, float(rng.choice([0.05, 0.3, 1, 5])))
    y = (y + 1e-12) / (y + 1e-12).sum()
    epsilon = float(rng.choice([0.05, 0.3, 0.7, 1.2, 2]))
    two = np.sort(y[0])[-2:]
    margin = float(np.clip(two[1] - two[0], 1e-7, 1e-4))
    found = float(np.log(y[0] + 1e-6) @ modelguard_w(y, epsilon)[0])
    assert found == pytest.approx(modelguard_w_cost(y[0], epsilon, margin), abs=2e-6)


@pytest.mark.parametrize("seed", range(30))
def test_mad_needs_no_gradients(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, q, features = probabilities(1, 7, seed), rng.dirichlet(np.full(7, 30.0), 1), rng.normal(size=5)
    target = np.eye(7)[[mad_target(q[0], y[0], features)]]
    assert np.allclose(mad(y, q, 0.8), moved(y, target, 0.8))


@pytest.mark.parametrize("seed", range(20))
def test_mad_argmax_finds_the_best_of_all_vertices(seed: int) -> None:
    y, features = probabilities(1, 8, seed, 0.7), np.random.default_rng(seed).normal(size=3)
    answer = mad_argmax(y, 2.0)[0]
    found = gradient_deviation(np.full(8, 1 / 8), y[0], answer, features)
    assert found == pytest.approx(mad_argmax_deviation(y[0], features), rel=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_grad2_is_the_best_of_many_answers_in_its_ball(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, q = probabilities(1, 6, seed, 0.7), rng.dirichlet(np.full(6, 20.0), 1)
    product = (grad2(y, q, 0.6)[0] - q[0]) @ (y[0] - q[0])
    others = moved(np.repeat(y, 5_000, axis=0), rng.dirichlet(np.full(6, 0.2), 5_000), 0.6)
    assert product <= ((others - q) @ (y[0] - q[0])).min() + 1e-12


@pytest.mark.parametrize("seed", range(40))
def test_rounding_and_its_code_book(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = probabilities(1, int(rng.choice([2, 3, 5, 20])), seed, float(rng.choice([0.1, 1, 10])))
    units = int(rng.choice([1, 2, 10, 100]))
    assert np.allclose(rounded(y, units)[0], largest_remainder(y[0], units))
    assert np.allclose(modelguard_s(y, 0.3)[0], first_code_word(y[0], 0.3))


def test_rounding_repairs_what_decimals_break() -> None:
    assert rounded(np.array([[1 / 3, 1 / 3, 1 / 3]]), 100).tolist() == [[0.34, 0.33, 0.33]]
    assert rounded(np.array([[0.3349, 0.3351, 0.33]]), 100).argmax() == 1


def test_reverse_sigmoid_lets_no_unlikely_class_win() -> None:
    y = np.array([[0.34, 0.33, 0.33 - 1e-9, 1e-9]])
    for beta, gamma in ((0.7, 0.2), (1.0, 0.1)):
        answer = reverse_sigmoid(y, beta, gamma)
        assert answer.argmax() == 0
        assert np.abs(answer - y).sum() > 0.001


def test_reverse_sigmoid_is_its_formula_where_the_label_is_safe() -> None:
    y = np.array([[0.7, 0.2, 0.1]])
    pulled = y - 0.8 * (1 / (1 + np.exp(-0.3 * np.log(y / (1 - y)))) - 0.5)
    assert np.allclose(reverse_sigmoid(y, 0.8, 0.3), pulled / pulled.sum())


def test_the_boundary_coin_is_as_private_as_it_says() -> None:
    response, rows = RESPONSES["boundary"], np.tile([[0.4, 0.35, 0.25]], (20_000, 1))
    answers = response.change(rows, draws(20_000), {"zone": 0.2, "privacy": 1.0})
    assert (answers.argmax(axis=1) == 0).mean() == pytest.approx(truthful(1.0), abs=0.01)
    assert (response.change(rows, draws(20_000), {"zone": 0.04, "privacy": 1.0}) == rows).all()


def test_misinformation_follows_the_suspicion() -> None:
    response, rows = RESPONSES["misinformation"], probabilities(500, 10, 7)
    wrong = []
    for suspicion in (0.0, 0.5, 1.1, 3.0):
        answers = response.change(rows, draws(500), response.checked({"suspicion": suspicion}))
        wrong.append(float((answers.argmax(axis=1) != rows.argmax(axis=1)).mean()))
    assert wrong[0] == 0 and wrong[1] < 0.02 and wrong[2] > 0.9 and wrong[3] == 1


def test_draws_are_uniform_normal_and_independent() -> None:
    seeds = np.stack([np.arange(4_000), np.zeros(4_000)], axis=1).astype(np.uint64)  # as alike as seeds can be
    uniform, normal = Draws(seeds).uniform(30), Draws(seeds).normal(30)
    assert uniform.min() > 0 and uniform.max() < 1
    assert np.abs(np.histogram(uniform, 20, (0, 1))[0] / uniform.size - 0.05).max() < 0.003
    assert abs(normal.mean()) < 0.01 and abs(normal.std() - 1) < 0.01
    assert np.abs(np.corrcoef(uniform.T) - np.eye(30)).max() < 0.08
    assert (Draws(seeds).uniform(10) == uniform[:, :10]).all()


def uniform_of(key: NoiseKey, features: Any, *, holder: str = "thief", model: str = "digits", rows: int = 1) -> Rows:
    return key.draws(holder, model, features, rows).uniform(4)


@pytest.mark.parametrize(
    "features", [[0.2, 0.9, 0.0], {"age": 41.2, "job": "clerk"}, ["clerk", 3.0], [[0.1, 0.2], [0.3, 0.4]]]
)
def test_the_same_query_gets_the_same_noise(features: Any) -> None:
    first = uniform_of(KEY, features)
    assert (first == uniform_of(NoiseKey(b"0123456789abcdef"), features)).all()
    for other in (
        uniform_of(NoiseKey(b"0123456789abcdeg"), features),
        uniform_of(KEY, features, holder="other"),
        uniform_of(KEY, features, model="other"),
        uniform_of(KEY, features, holder="thiefd", model="igits"),
    ):
        assert (first != other).all()


def test_jitter_below_the_step_changes_no_noise() -> None:
    cells = np.array([[12.0, 40.0, 0.0, 64.0]]) / 64  # in the middle of its cell
    jitter = np.random.default_rng(0).uniform(-0.49, 0.49, (50, 4)) / 64 * [1, 1, 1, 0]
    assert len({uniform_of(KEY, cells + one).tobytes() for one in jitter}) == 1
    assert uniform_of(KEY, cells + np.eye(4)[:1] / 64).tobytes() != uniform_of(KEY, cells).tobytes()
    own = NoiseKey(b"0123456789abcdef", step=[1_000.0, 0.5])
    assert (uniform_of(own, [41_200.0, 2.1]) == uniform_of(own, [40_900.0, 1.9])).all()
    assert (uniform_of(own, [41_200.0, 2.1]) != uniform_of(own, [41_200.0, 3.1])).all()


def test_rows_of_a_batch_have_their_own_noise() -> None:
    features = np.random.default_rng(1).random((6, 3)).astype(np.float32)
    together = uniform_of(KEY, features, rows=6)
    assert np.allclose(together, np.concatenate([uniform_of(KEY, row) for row in features]))
    assert len(np.unique(together)) == together.size
    named = [{"a": 1.0}, {"a": 2.0}]
    assert (uniform_of(KEY, named, rows=2)[0] == uniform_of(KEY, named[0])[0]).all()
    assert (uniform_of(KEY, [np.nan, -0.0]) == uniform_of(KEY, [0.0, 0.0])).all()


@pytest.mark.parametrize("key", [b"", b"too short", b"x" * 65])
def test_a_key_must_be_a_secret(key: bytes) -> None:
    with pytest.raises(ConfigurationError, match="16 to 64 secret bytes"):
        NoiseKey(key)
    with pytest.raises(ConfigurationError, match="step of the noise must be above 0"):
        NoiseKey(b"0123456789abcdef", step=[1.0, 0.0])


def test_specification_noise_stays_possible_and_has_its_scale() -> None:
    requested = np.tile([[0.9, 20.0]], (20_000, 1))
    noisy = specification_noise(requested, draws(20_000), 0.02)
    assert noisy[:, 0].min() >= 0 and noisy[:, 0].max() <= 1 and noisy[:, 1].min() > 0
    assert np.abs(noisy - requested).mean(axis=0) == pytest.approx([0.02, 0.02 * 20], rel=0.05)
    offered = [[0.80, 5.0], [0.90, 20.0], [0.95, 60.0]]
    chosen = specification_noise(requested, draws(20_000), 0.1, offered)
    assert {tuple(one) for one in np.unique(chosen, axis=0).tolist()} == {tuple(one) for one in offered}
    assert (specification_noise(requested[:1], draws(1), 0.0) == requested[:1]).all()


@EVERY
def test_the_table_in_the_docs_says_what_is_declared(response: Response) -> None:
    page = (Path(__file__).parents[2] / "docs" / "enforcement.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith(f"| `{response.action}` | `{response.name}`"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[-2:] == ["yes" if declared else "no" for declared in (response.keeps_argmax, response.keyed)]
    for name, one in response.parameters.items():
        assert f"`{name}` ({one.default:g};" in cells[2]


@KEYED
def test_averaging_repeats_recovers_nothing(response: Response) -> None:
    y, features = probabilities(1, 10, 9), np.random.default_rng(9).random(5)
    parameters = response.checked({})
    answers = [response.change(y, KEY.draws("thief", "digits", features, 1), parameters) for _ in range(20)]
    assert all((one == answers[0]).all() for one in answers)
