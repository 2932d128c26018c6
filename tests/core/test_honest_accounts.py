"""Logged queries to accounts: each once, by time, of one model version in one form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detector.contracts.batches import cut, take
from detector.contracts.errors import ConfigurationError
from detector.core.calibration.traffic import accounts_of, of_one_version
from tests.contracts.batches import assert_same_rows, make_batch, optional_columns
from tests.core.honest import honest, of_version


def test_each_account_has_its_own_queries_by_time() -> None:
    log = make_batch(rows=40)
    late_first = [cut(log, 20, 40), cut(log, 0, 20)]
    accounts = accounts_of(late_first)
    assert [account.principals for account in accounts] == [["ana"], ["bo"], ["çelik"]]
    for number, own in enumerate(accounts):
        assert_same_rows(own, take(log, np.flatnonzero(log.principal_index == number)))


def test_queries_of_one_moment_stay_in_the_order_of_the_log() -> None:
    log = replace(make_batch(rows=40), occurred_at=np.zeros(40))
    for number, own in enumerate(accounts_of([log])):
        assert own.event_ids == take(log, np.flatnonzero(log.principal_index == number)).event_ids


def test_optional_columns_are_those_that_all_have_and_a_mask_where_any_has_one() -> None:
    bare = make_batch(rows=6, principals=["ana"], principal_index=np.zeros(6, np.int32))
    full = replace(bare, **optional_columns(6, 4), occurred_at=bare.occurred_at + 10)
    [own] = accounts_of([bare, full])
    assert own.hardness is None and own.leaf is None
    assert own.missing is not None and full.missing is not None
    np.testing.assert_array_equal(own.missing, np.concatenate((np.zeros((6, 4), bool), full.missing)))
    [own] = accounts_of([full])
    assert own.hardness is not None


def test_several_versions_are_named_and_one_can_be_chosen() -> None:
    first, second = honest("ana", 1), of_version(honest("ana", 2), "2")
    with pytest.raises(ConfigurationError, match=r"the logs are of credit 1, credit 2, .* --model-version"):
        of_one_version([first, second])
    assert of_one_version([first, second], version="2") == [second]
    with pytest.raises(ConfigurationError, match=r"no honest queries .* credit 1, credit 2"):
        of_one_version([first, second], model="loan")


@pytest.mark.parametrize(
    "changes",
    [
        {"features": np.zeros((50, 7), np.float32)},
        {"outputs": np.ones((50, 1), np.float32)},
        {"output_kind": "score"},
    ],
)
def test_queries_of_two_forms_are_refused(changes: dict[str, object]) -> None:
    whole = honest("ana", 1)
    with pytest.raises(ConfigurationError, match=r"credit 1: .* and .*; a model version has one form"):
        accounts_of([whole, replace(whole, **changes)])  # type: ignore[arg-type]
