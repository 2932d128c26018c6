"""Whether a profile fits what is logged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detector.core.fitting import Fitting
from tests.core.honest import honest, of_version
from tests.core.profiles import profile

QUERIES = honest("ana", 1)
FITTING = Fitting([profile(QUERIES.features)])


def test_queries_as_they_were_at_calibration_fit() -> None:
    assert FITTING.misfit(QUERIES) is None
    assert FITTING.misfits([QUERIES, QUERIES]) == []


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
    misfit = FITTING.misfit(replace(QUERIES, **changes))  # type: ignore[arg-type]
    assert misfit is not None
    assert (misfit.reason, misfit.queries) == (reason, 50)
    assert misfit.detail.startswith(detail)
    assert "weirguard calibrate" in misfit.detail


def test_where_there_are_no_profiles_nothing_misses_one() -> None:
    assert Fitting([]).misfits([QUERIES]) == []


def test_every_piece_that_fits_none_is_told() -> None:
    found = FITTING.misfits([QUERIES, of_version(QUERIES, "2"), of_version(QUERIES, "3")])
    assert [misfit.reason for misfit in found] == ["model_version", "model_version"]
