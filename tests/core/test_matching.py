"""Whether a profile fits what is logged."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detector.contracts.queries import QueryBatch
from detector.core.engine import Engine, EngineConfig
from detector.core.forms import Field, Form
from detector.core.profile import ProfileMatcher
from tests.core.honest import honest, of_version
from tests.core.profiles import profile

QUERIES = honest("ana", 1)
FITTING = ProfileMatcher([profile(QUERIES.features)])


def test_queries_as_they_were_at_calibration_fit() -> None:
    assert FITTING.mismatch(QUERIES) is None
    assert FITTING.mismatches([QUERIES, QUERIES]) == []


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"model": "loan"}, "model", "there is no profile for loan 1, only for credit; write one"),
        ({"model_version": "2"}, "model_version", "there is no profile for credit 2, only for version 1; write one"),
        (
            {"features": np.zeros((50, 7), np.float32)},
            "features",
            "credit 1: queries have 7 features, and in its profile 6",
        ),
        (
            {"outputs": np.ones((50, 1), np.float32), "output_kind": "label"},
            "outputs",
            "credit 1: outputs are label of 1 column, and in its profile probabilities of 3 columns",
        ),
        ({"output_kind": "score"}, "outputs", "credit 1: outputs are score of 3 columns, and in its profile"),
    ],
)
def test_what_differs_is_said_with_what_to_do(changes: dict[str, object], reason: str, detail: str) -> None:
    misfit = FITTING.mismatch(replace(QUERIES, **changes))  # type: ignore[arg-type]
    assert misfit is not None
    assert (misfit.reason, misfit.queries) == (reason, 50)
    assert misfit.detail.startswith(detail)
    assert "weirguard calibrate" in misfit.detail


def test_where_there_are_no_profiles_nothing_misses_one() -> None:
    assert ProfileMatcher([]).mismatches([QUERIES]) == []


def test_every_piece_that_fits_none_is_told() -> None:
    found = FITTING.mismatches([QUERIES, of_version(QUERIES, "2"), of_version(QUERIES, "3")])
    assert [misfit.reason for misfit in found] == ["model_version", "model_version"]


# -- forms -----------------------------------------------------------------------------------------------------------

NAMES = tuple("fbdace")
NAMED = replace(
    profile(QUERIES.features), stored_form=Form(tuple(Field(name) for name in sorted(NAMES)), "probabilities")
)


def _named(names: tuple[str, ...] = NAMES, **changes: object) -> QueryBatch:
    return replace(QUERIES, feature_names=names, **changes)  # type: ignore[arg-type]


def test_named_queries_are_judged_as_the_form_of_their_profile_has_them() -> None:
    fitting, repaired = ProfileMatcher([NAMED]), Counter[str]()
    plain = fitting.plain(_named(), repaired)
    order = np.argsort(NAMES)
    np.testing.assert_array_equal(plain.features, QUERIES.features[:, order])
    assert (fitting.mismatch(_named()), plain.is_loose, repaired) == (None, False, {})
    assert fitting.judged_as(_named(model_version="7")) == "1"
    fitting.plain(_named(names=("a", "b", "c", "d", "e", "z")), repaired)
    assert repaired == {"absent": 50, "unknown": 50}


def test_names_that_the_profile_does_not_have_fit_nothing_and_are_not_judged() -> None:
    fitting, strange = ProfileMatcher([NAMED]), _named(names=tuple("uvwxyz"))
    misfit = fitting.mismatch(strange)
    assert misfit is not None and misfit.reason == "features"
    assert "queries have the features u, v, w, x and 2 more, and its profile none of them" in misfit.detail
    assert fitting.plain(strange, Counter()).dimension == 0
    assert fitting.judged_as(replace(strange, model_version="7")) is None
    seen = Engine(EngineConfig(profiles=(NAMED,))).observe([strange])
    assert {bad.reason for bad in seen.refused} == {"dimension"} and len(seen.refused) == 50


def test_of_a_model_without_a_profile_the_owner_may_say_what_outputs_are() -> None:
    number = np.full((50, 1), 0.25, np.float32)
    single = replace(QUERIES, output_kind="unstated", outputs=number)
    said: Any = ({}, {"credit": "score"}, {"*": "score"}, {"loan": "score"})
    found = [ProfileMatcher([], outputs).plain(single, Counter()) for outputs in said]
    assert [plain.output_kind for plain in found] == ["label", "score", "score", "label"]
    assert ProfileMatcher([]).plain(QUERIES, Counter()) is QUERIES
