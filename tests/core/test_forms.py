"""Loose queries become plain ones by the form of their model version, whatever their order and however they are cut."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.contracts.batches import take
from detector.contracts.codecs.loose import feature_columns, named_row, output_columns, outputs_of
from detector.contracts.errors import ConfigurationError
from detector.contracts.queries import OutputKind, QueryBatch
from detector.core.calibration.traffic import learn, plain_traffic
from detector.core.forms import Field, Form, plain_without_profile
from detector.core.state.arrays import pack, unpack
from tests.contracts.batches import make_batch

COLOURS = ("blue", "red")
_ABC = ("a", "b", "c")
FORM = Form((Field("age"), Field("colour", COLOURS), Field("size")), "probability")
Row = dict[str, Any]


def batch_of(rows: list[Row], outputs: Any = 0.25, kind: OutputKind | None = None) -> QueryBatch:
    """Rows of the same names, each told ``outputs``."""
    columns = feature_columns([named_row(row) for row in rows]) | output_columns(
        [outputs_of(outputs, kind)] * len(rows)
    )
    told = outputs_of(outputs, kind).kind
    return make_batch(rows=len(rows), output_kind=told, **columns)


def plain(form: Form, rows: list[Row], repaired: Counter[str] | None = None) -> tuple[Any, Any]:
    """Features, and what is missing, as lists."""
    found = form.plain(batch_of(rows), repaired)
    assert not found.is_loose and found.texts is None
    return found.features.tolist(), None if found.missing is None else found.missing.tolist()


def test_features_stand_where_the_form_has_them() -> None:
    assert FORM.columns == ("age", "colour=blue", "colour=red", "size")
    assert plain(FORM, [{"size": 2, "colour": "red", "age": 30}]) == ([[30, 0, 1, 2]], None)


@pytest.mark.parametrize(
    ("row", "features", "missing", "repaired"),
    [
        ({"age": "30", "colour": "red", "size": "2.5"}, [30, 0, 1, 2.5], [], {}),
        ({"age": "old", "colour": "red", "size": 2}, [0, 0, 1, 2], [0], {"unreadable": 1}),
        ({"age": "1e99", "colour": "red", "size": "nan"}, [0, 0, 1, 0], [0, 3], {"unreadable": 2}),
        ({"age": True, "colour": "red", "size": None}, [1, 0, 1, 0], [3], {}),
        ({"age": 30, "colour": None, "size": 2}, [30, 0, 0, 2], [1, 2], {}),
        ({"age": 30, "colour": "green", "size": 2}, [30, -1, 0, 2], [], {"category": 1}),
        ({"age": 30, "colour": 7, "size": 2}, [30, -1, 0, 2], [], {"category": 1}),
        ({"age": 30, "size": 2}, [30, 0, 0, 2], [1, 2], {"absent": 1}),
        ({"age": 30, "colour": "red", "size": 2, "more": 1, "text": "x"}, [30, 0, 1, 2], [], {"unknown": 1}),
        ({"age": 30}, [30, 0, 0, 0], [1, 2, 3], {"absent": 1}),
    ],
)
def test_what_a_caller_changes_hides_no_query(row: Row, features: Any, missing: list[int], repaired: Any) -> None:
    counted: Counter[str] = Counter()
    found, marks = plain(FORM, [row], counted)
    assert found == [features]
    assert [at for at, mark in enumerate((marks or [[]])[0]) if mark] == missing
    assert counted == repaired


def test_a_number_is_a_value_by_its_text_and_a_text_by_its_number() -> None:
    form = Form((Field("code", ("1", "2.5", "x", "123456789")),), "probability")
    rows: list[Row] = [{"code": value} for value in (1, "1.0", 2.5, "x", "123456789", 123456789, "01")]
    alone = [form.plain(batch_of([row])).features[0].tolist() for row in rows]
    assert alone == plain(form, rows)[0]
    assert [row.index(1) for row in alone] == [0, 0, 1, 2, 3, 3, 0]


def test_a_batch_without_any_name_of_the_form_is_not_taken() -> None:
    assert not FORM.accepts(batch_of([{"weight": 1.0, "height": 2.0}]))
    assert FORM.accepts(batch_of([{"weight": 1.0, "age": 2.0}]))
    assert not FORM.accepts(make_batch())


def test_a_list_with_a_text_in_it_and_one_without_are_the_same_features() -> None:
    by_place = Form((Field("1"), Field("2", COLOURS)), "probability")
    unnamed = make_batch(rows=2, features=np.array([[1, 5], [2, 6]], np.float32))
    assert by_place.plain(unnamed).features.tolist() == [[1, -1, 0], [2, -1, 0]]
    texts = batch_of([{"1": 3, "2": "x"}])
    assert Form(None, "probabilities").plain(texts).features.tolist() == [[3, 0]]


@pytest.mark.parametrize(
    ("form", "given", "kind", "outputs"),
    [
        (Form(None, "probability"), 0.25, "probabilities", [0.75, 0.25]),
        (Form(None, "probability"), 7.0, "probabilities", [0.0, 1.0]),
        (Form(None, "probabilities"), [0.25, 0.75], "probabilities", [0.25, 0.75]),
        (Form(None, "probabilities"), 0.25, "score", [0.25]),
        (Form(None, "score"), 0.25, "score", [0.25]),
        (Form(None, "label"), 3, "label", [3]),
        (Form(None, "label"), [0.25, 0.75], "label", [1]),
        (Form(None, "label", ("cat", "dog")), "dog", "label", [1]),
        (Form(None, "label", ("cat", "dog")), "cow", "label", [2]),
        (Form(None, "label", ("3", "5")), 5, "label", [1]),
        (Form(None, "label", ("cat", "dog")), {"cat": 0.25, "dog": 0.75}, "label", [1]),
        (Form(None, "probabilities", _ABC), {"c": 0.5, "a": 0.25, "b": 0.25}, "probabilities", [0.25, 0.25, 0.5]),
        (Form(None, "probabilities", _ABC), [{"label": "c", "score": 0.5}], "probabilities", [0.25, 0.25, 0.5]),
        (Form(None, "probabilities", ("a", "b")), "b", "label", [1]),
        (Form(None, "probabilities"), {"b": 0.75, "a": 0.25}, "probabilities", [0.25, 0.75]),
        (Form(None, "probabilities", ("yes",)), {"yes": 0.25}, "probabilities", [0.75, 0.25]),
        (Form(None, "probability"), None, "none", []),
        (Form(None, "none"), [0.25, 0.75], "none", []),
    ],
)  # fmt: skip
def test_outputs_are_brought_to_those_of_the_form(form: Form, given: Any, kind: str, outputs: list[float]) -> None:
    found = form.plain(batch_of([{"age": 1}], given))
    assert (found.output_kind, found.outputs.tolist()) == (kind, [outputs])


def test_plain_queries_are_passed_on_as_they_are() -> None:
    batch = make_batch()
    assert Form(None, "probabilities").plain(batch) is batch
    labels = make_batch(output_kind="label", outputs=np.ones((5, 1), np.float32))
    assert Form(None, "label").plain(labels) is labels


def test_a_form_is_kept_in_its_record() -> None:
    for form in (FORM, Form(None, "label", ("cat", "dog")), Form((), "none")):
        assert Form.from_record(unpack(pack(form))) == form


# -- learning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "outputs"),
    [
        ([0.25, 0.75, 1.0], "probability"),
        ([0.0, 1.0, 1.0], "label"),
        ([3.0, 7.0, -1.0], "label"),
        (list(range(300)), "score"),
        ([0.25, 1.5, 0.5], "score"),
        ([-0.25, 0.5, 0.5], "score"),
    ],
)
def test_one_number_a_row_is_taken_for_what_it_looks_like(numbers: list[float], outputs: str) -> None:
    column = np.array(numbers, np.float32)[:, None]
    batch = make_batch(rows=len(numbers), output_kind="unstated", outputs=column)
    form, why = learn([batch])
    assert (form.outputs, bool(why)) == (outputs, True)
    assert learn([batch], "score")[0] == Form(None, "score")


def test_what_is_seldom_named_is_no_feature_and_what_is_mostly_numbers_no_text() -> None:
    rows: list[Row] = [{"age": str(age), "colour": COLOURS[age % 2]} for age in range(200)]
    rows[3]["age"] = "unknown"
    found = learn([batch_of(rows), batch_of([{"age": 1, "colour": "red", "junk": 1}])])[0]
    assert found.fields == (Field("age"), Field("colour", COLOURS))


def test_a_feature_that_always_differs_has_no_values_and_one_with_many_the_most_frequent() -> None:
    rows: list[Row] = [{"id": f"u-{row}", "shop": f"shop {min(row, row % 80)}"} for row in range(400)]
    fields = {own.name: own.values for own in learn([batch_of(rows)])[0].fields or ()}
    assert fields["id"] == () and len(fields["shop"] or ()) == 64


def test_what_outputs_are_said_to_be_and_the_owner_denies_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="--outputs label: the honest logs have score outputs, and say so"):
        plain_traffic([make_batch(output_kind="score", outputs=np.full((5, 1), 1.5, np.float32))], "label")


@pytest.mark.parametrize("others", [2, 40])
def test_queries_of_another_form_than_most_have_are_left_out_of_a_calibration(others: int) -> None:
    nothing = np.zeros((others, 0), np.float32)
    odd = [make_batch(rows=others, dimension=5), make_batch(rows=others, output_kind="none", outputs=nothing)]
    traffic = plain_traffic([make_batch(rows=100), *odd])
    assert (sum(map(len, traffic.pieces)), traffic.left_out) == (100, 2 * others)


# -- order, and cuts -------------------------------------------------------------------------------------------------

_VALUES = (
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9, width=32) | st.sampled_from(["red", "1", ""])
)
_ROWS = st.lists(
    st.dictionaries(st.sampled_from(["age", "colour", "size", "x"]), _VALUES, min_size=1), min_size=1, max_size=8
)


def _alone(form: Form | None, row: Row) -> tuple[Any, ...]:
    batch = batch_of([row], 0.5)
    found = plain_without_profile(batch) if form is None else form.plain(batch)
    return found.features[0].tolist(), None if found.missing is None else found.missing[0].tolist()


@settings(deadline=None)
@given(_ROWS, st.randoms(use_true_random=False), st.sampled_from([FORM, None]))
def test_neither_the_order_of_names_nor_its_company_changes_a_row(rows: list[Row], random: Any, form: Any) -> None:
    for names in {tuple(sorted(row)) for row in rows}:
        alike = [row for row in rows if tuple(sorted(row)) == names]
        shuffled = [dict(random.sample(sorted(row.items()), len(row))) for row in alike]
        batch = batch_of(shuffled, 0.5)
        found = plain_without_profile(batch) if form is None else form.plain(batch)
        missing = np.zeros(found.features.shape, bool) if found.missing is None else found.missing
        for at, row in enumerate(alike):
            features, marks = _alone(form, row)
            assert found.features[at].tolist() == features
            assert missing[at].tolist() == (marks or [False] * len(features))


@settings(deadline=None)
@given(_ROWS, st.data())
def test_what_is_learned_does_not_depend_on_order_or_cuts(rows: list[Row], data: st.DataObject) -> None:
    names = {"age", "colour", "size"}
    whole = [{name: row.get(name) for name in names} for row in rows]
    batch = batch_of(whole, 0.5)
    order = np.array(data.draw(st.permutations(range(len(rows)))))
    at = data.draw(st.integers(0, len(rows)))
    parts = [take(batch, own) for own in (order[:at], order[at:]) if len(own)]
    assert learn(parts) == learn([batch])


_BOTH_WAYS: Any = {"dog": 0.75, "cat": 0.25}, {"cat": 0.25, "dog": 0.75}


def test_every_kind_of_outputs_of_a_model_without_a_profile_is_read_row_by_row() -> None:
    numbers = np.array([[0.75], [0.25], [3.0], [7.5], [1.0]], np.float32)
    batch = make_batch(rows=5, output_kind="unstated", outputs=numbers)
    assert plain_without_profile(batch).outputs.ravel().tolist() == [1, 0, 3, 0, 1]
    assert plain_without_profile(batch, "score").output_kind == "score"
    assert plain_without_profile(batch, "probability").outputs[:2].tolist() == [[0.25, 0.75], [0.75, 0.25]]
    first, second = (plain_without_profile(batch_of([{"a": 1}], told)).outputs for told in _BOTH_WAYS)
    assert first == second


def test_features_stand_in_the_order_of_the_owners_model_or_are_refused() -> None:
    batch = batch_of([{"age": 3, "colour": "red", "size": 1}, {"age": 3, "colour": "blue", "size": 1}])
    names = ("size", "colour=blue", "colour=red", "age")
    assert plain_traffic([batch], names=names).form.columns == names
    assert plain_traffic([make_batch()], names=names).form.columns is None
    with pytest.raises(ConfigurationError, match="--model has the features x, y, and the honest logs age, colour=blue"):
        plain_traffic([batch], names=("x", "y"))
