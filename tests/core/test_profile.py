"""The calibration artefact: kept whole in its bytes, named by its hash, refused with a reason when it is not one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detector.contracts.errors import ConfigurationError
from detector.core.arrays import pack
from detector.core.profile import REFERENCE_BYTES, VERSION, Profile

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
PROFILE = Profile("credit", "7", ROWS)
BODY: dict[str, Any] = {"profile": VERSION, "model": "credit", "model_version": "7", "reference": ROWS}


def test_its_bytes_bring_back_all_it_holds() -> None:
    back = Profile.from_bytes(PROFILE.to_bytes())
    assert (back.model, back.model_version) == ("credit", "7")
    np.testing.assert_array_equal(back.reference, ROWS)
    assert back.reference.dtype == np.float32
    assert back.hash == PROFILE.hash


def test_its_hash_tells_apart_whatever_differs() -> None:
    others = [
        replace(PROFILE, model="loan"),
        replace(PROFILE, model_version="8"),
        replace(PROFILE, reference=ROWS + 1),
        replace(PROFILE, reference=ROWS.reshape(3, 4)),
    ]
    assert len({PROFILE.hash, *(other.hash for other in others)}) == 5
    assert len(PROFILE.hash) == 16
    assert int(PROFILE.hash, 16) >= 0


@pytest.mark.parametrize(
    "rows",
    [
        ROWS.astype(np.float64),
        ROWS.ravel(),
        np.zeros((REFERENCE_BYTES // 4 + 1, 1), np.float32),
    ],
    ids=["dtype", "shape", "size"],
)
def test_reference_rows_of_another_kind_are_refused(rows: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"the profile of credit 7 has reference rows of shape"):
        Profile("credit", "7", rows)


def test_as_many_reference_rows_as_are_allowed_are_taken() -> None:
    assert len(Profile("credit", "7", np.zeros((REFERENCE_BYTES // 4, 1), np.float32)).reference) == 500_000


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a profile",
        PROFILE.to_bytes()[:-1],
        pack([1, 2]),
        pack(7),
        pack({}),
        pack({name: value for name, value in BODY.items() if name != "reference"}),
        pack(BODY | {"reference": [1.0, 2.0]}),
        pack(BODY | {"reference": None}),
    ],
)
def test_what_is_no_profile_is_refused_as_such(data: bytes) -> None:
    with pytest.raises(ConfigurationError, match="not a profile"):
        Profile.from_bytes(data)


def test_a_profile_of_another_format_asks_for_a_new_calibration() -> None:
    with pytest.raises(ConfigurationError, match=f"profile format {VERSION + 1} is not {VERSION}; calibrate again"):
        Profile.from_bytes(pack(BODY | {"profile": VERSION + 1}))
