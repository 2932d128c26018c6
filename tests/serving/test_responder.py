"""What callers get under a decision: any form of outputs, any decision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.contracts.findings import Graded
from detector.serving.responder import NoiseHolder, Responder
from detector.serving.responses import RESPONSES, NoiseKey
from detector.serving.responses.outputs import changed

KEY = b"0123456789abcdef"
WHOSE = NoiseHolder("thief", "digits")
GAUSSIAN = Graded("perturb", {"response": "gaussian"})
FEATURES = [[0.1, 0.2], [0.3, 0.4]]
ROWS = [[0.71, 0.19, 0.1], [0.2, 0.31, 0.49]]


def answer(outputs: Any, action: str = "round", features: Any = FEATURES, **given: Any) -> Any:
    kind = given.pop("output_kind", "probabilities")
    responder = given.pop("responder", None) or Responder(KEY)
    return responder.answer(Graded(action, given), WHOSE, features, outputs, output_kind=kind)


@pytest.mark.parametrize(
    ("features", "outputs", "expected"),
    [
        (FEATURES, ROWS, [[0.7, 0.2, 0.1], [0.2, 0.3, 0.5]]),
        (FEATURES[0], ROWS[0], [0.7, 0.2, 0.1]),
        (FEATURES[:1], ROWS[:1], [[0.7, 0.2, 0.1]]),
        (FEATURES[0], 0.28, 0.3),
        (FEATURES, [0.28, 0.81], [0.3, 0.8]),
        (FEATURES, [[0.28], [0.81]], [[0.3], [0.8]]),
        ({"age": 3.0}, {"cat": 0.71, "dog": 0.29}, {"cat": 0.7, "dog": 0.3}),
        ([{"age": 3.0}] * 2, [{"cat": 0.71, "dog": 0.29}, {"cow": 0.5, "dog": 0.1}], [
            {"cat": 0.7, "dog": 0.3}, {"cow": 0.8, "dog": 0.2},
        ]),
        (FEATURES[0], [{"label": "cat", "score": 0.51}, {"label": "dog", "score": 0.17}], [
            {"label": "cat", "score": 0.8}, {"label": "dog", "score": 0.2},
        ]),
    ],
)  # fmt: skip
def test_every_form_of_probabilities_is_answered_in_its_form(features: Any, outputs: Any, expected: Any) -> None:
    got = answer(outputs, features=features, digits=1)
    assert got.served_mode == "round"
    assert type(got.outputs) is type(expected)
    assert np.allclose(_flat(got.outputs), _flat(expected)) and _names(got.outputs) == _names(expected)


def _flat(outputs: Any) -> list[float]:
    if isinstance(outputs, dict):
        return [one for one in outputs.values() if not isinstance(one, str)]
    return [number for one in outputs for number in _flat(one)] if isinstance(outputs, list) else [outputs]


def _names(outputs: Any) -> Any:
    if isinstance(outputs, list):
        return [_names(one) for one in outputs]
    return list(outputs) if isinstance(outputs, dict) else None


def test_arrays_keep_their_type_of_number_and_are_not_written_to() -> None:
    for dtype in (np.float32, np.float64, np.float16):
        outputs = np.array(ROWS, dtype)
        got = answer(outputs, "perturb", response="modelguard_w").outputs
        assert isinstance(got, np.ndarray) and got.dtype == dtype and got.shape == (2, 3)
        assert (got.argmax(axis=1) == [0, 2]).all() and not np.allclose(got, outputs)
        assert (outputs == np.array(ROWS, dtype)).all()


def test_scores_change_in_their_form_where_the_response_knows_scores() -> None:
    assert answer([1234.5, -0.0378], "round", output_kind="score") == ([1200.0, -0.038], "round")
    many = answer(np.array([[1.26, 7.0], [0.0, -99.6]], np.float32), "round", output_kind="score", digits=1).outputs
    assert many.dtype == np.float32 and many.tolist() == [[1.0, 7.0], [0.0, -100.0]]
    noisy = answer([1234.5, -0.0378], "perturb", output_kind="score", response="gaussian")
    assert noisy == answer([1234.5, -0.0378], "perturb", output_kind="score", response="gaussian")
    assert noisy.served_mode == "gaussian" and noisy.outputs != [1234.5, -0.0378]
    for response in (one for one in RESPONSES.values() if one.change_scores is None):
        responder = Responder(KEY)
        own = [0.3, 17.0]
        got = answer(own, response.action, response=response.name, output_kind="score", responder=responder)
        assert got.outputs is own and responder.counters.snapshot()["unchanged"] == 2


@pytest.mark.parametrize(
    ("outputs", "kind", "counter"),
    [
        ([1, 2], "label", "unchanged"),
        ([1, 2], "probabilities", "unchanged"),
        (["cat", "dog"], "probabilities", "unchanged"),
        ([0.3, float("nan")], "score", "unchanged"),
        ([0.3, 17.0, 4.0], "score", "unchanged"),
        (["high", "low"], "score", "unchanged"),
        ([0.3, 17.0], "probabilities", "unchanged"),
        ([[0.2, 0.9], [0.5, 0.5]], "probabilities", "unchanged"),
        ([[float("nan"), 0.9], [0.5, 0.5]], "probabilities", "unchanged"),
        ([[0.0, 0.0], [0.5, 0.5]], "probabilities", "unchanged"),
        ([[0.5, 0.5]], "probabilities", "unchanged"),
        ([[0.5, 0.5], [1.0]], "probabilities", "unchanged"),
        (None, "none", "unchanged"),
        (None, "probabilities", "unchanged"),
        (object(), "probabilities", "unchanged"),
    ],
)
def test_labels_and_nonsense_stay_as_they_are(outputs: Any, kind: str, counter: str) -> None:
    for response in RESPONSES.values():
        responder = Responder(KEY)
        got = answer(outputs, response.action, response=response.name, output_kind=kind, responder=responder)
        assert got.outputs is outputs and got.served_mode == ""
        assert {name: count for name, count in responder.counters.snapshot().items() if count} == {counter: 2}


@pytest.mark.parametrize(
    ("action", "parameters"),
    [
        ("dance", {}),
        ("tag", {}),
        ("perturb", {"response": "unheard of"}),
        ("perturb", {"response": 7}),
        ("round", {"response": "modelguard_w"}),
        ("round", {"digits": "two"}),
        ("round", {"digits": 40}),
        ("round", {"decimals": 2}),
    ],
)
def test_what_this_version_does_not_know_changes_no_answer(action: str, parameters: dict[str, Any]) -> None:
    responder = Responder(KEY)
    outputs = np.array(ROWS)
    got = answer(outputs, action, responder=responder, **parameters)
    assert got.outputs is outputs and got.served_mode == "" and responder.counters.snapshot()["unserved"] == 2


def test_a_rate_beside_the_response_is_the_gates() -> None:
    assert answer(ROWS, queries_per_second=3.0).served_mode == "round"


def test_a_fault_serves_the_models_own_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    responder = Responder(KEY)
    monkeypatch.setattr(NoiseKey, "draws", lambda *_: 1 / 0)
    assert answer(ROWS, "perturb", response="gaussian", responder=responder).outputs is ROWS
    assert responder.counters.snapshot()["failures"] == 2


def test_noise_is_the_same_for_a_query_and_another_for_another_principal() -> None:
    first, again = (Responder(KEY) for _ in range(2))
    for responder in (first, again):
        responder.answers = [  # type: ignore[attr-defined]
            responder.answer(GAUSSIAN, NoiseHolder(holder, "digits"), rows, outputs).outputs
            for holder in ("thief", "other")
            for rows, outputs in ((FEATURES, ROWS), (FEATURES[0], ROWS[0]))
        ]
    both, alone, other, _ = first.answers  # type: ignore[attr-defined]
    assert first.answers == again.answers  # type: ignore[attr-defined]
    assert np.allclose(both[0], alone) and not np.allclose(both, other)


def test_named_rows_have_the_noise_of_their_place() -> None:
    rows = [{"a": 0.5, "b": 0.5}, {"a": 0.5, "b": 0.5}]
    got = answer(rows, "perturb", features=[{"x": 1.0}, {"x": 2.0}], response="gaussian").outputs
    assert got[0] != got[1]
    again = answer(rows[1], "perturb", features={"x": 2.0}, response="gaussian").outputs
    assert again == pytest.approx(got[1])


def test_a_specification_gets_the_same_noise_each_time() -> None:
    responder, asked = Responder(KEY), [[0.9, 20.0]]
    noisy = [responder.specification(Graded("spec_noise"), WHOSE, FEATURES[0], asked).tolist() for _ in range(2)]
    assert noisy[0] == noisy[1] != asked
    wrong = Graded("spec_noise", {"scale": "much"})
    assert responder.specification(wrong, WHOSE, FEATURES[0], asked[0]).tolist() == asked
    assert responder.counters.snapshot()["unserved"] == 1
    assert answer(ROWS, "spec_noise", responder=responder) == (ROWS, "spec_noise")


def test_rows_reach_the_change_as_probabilities() -> None:
    seen = []

    def see(rows: NDArray[np.float64], numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        seen.append((rows, numbers))
        return rows

    changed([[0.5, 0.25], [0.2, 0.2]], 2, see)
    rows, numbers = seen[0]
    assert np.allclose(rows, [[2 / 3, 1 / 3], [0.5, 0.5]]) and numbers.tolist() == [0, 1]
