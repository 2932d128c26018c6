"""The calibration artefact: kept whole in its bytes, named by its hash, refused with a reason when it is not one."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.contracts.errors import ConfigurationError
from detector.core.engine import Engine, EngineConfig
from detector.core.forms import Field, Form
from detector.core.profile import VERSION, Profile
from detector.core.state.arrays import pack, unpack
from tests.core.honest import honest, thief
from tests.core.profiles import profile, reference, standards
from tests.core.streams import batch

ROWS = np.random.default_rng(1).random((40, 5), dtype=np.float32)
PROFILE = profile(ROWS, threshold=4.0)
BODY: dict[str, Any] = unpack(PROFILE.to_bytes())


def _same(left: Any, right: Any) -> None:
    if is_dataclass(left):
        for field in fields(left):
            _same(getattr(left, field.name), getattr(right, field.name))
    elif isinstance(left, tuple):
        for one, other in zip(left, right, strict=True):
            _same(one, other)
    else:
        np.testing.assert_array_equal(left, right)


def test_its_bytes_bring_back_all_it_holds() -> None:
    back = Profile.from_bytes(PROFILE.to_bytes())
    _same(PROFILE, back)
    assert back.reference.points.dtype == np.float32
    assert back.hash == PROFILE.hash


def test_one_of_before_rows_were_compared_says_nothing_of_made_up_queries() -> None:
    body = {**BODY, "reference": {name: part for name, part in BODY["reference"].items() if name != "compared"}}
    before, rng = Profile.from_bytes(pack(body)), np.random.default_rng(2)
    own = rng.random((20, 5), dtype=np.float32)
    crossed = own[rng.integers(0, 20, (40, 5)), np.arange(5)]
    asked = batch(np.concatenate((own, crossed)), ["ann"] * 60)
    said = [
        Engine(EngineConfig(profiles=(each,))).observe([asked]).signals["suspicion.recombination"].max()
        for each in (before, PROFILE)
    ]
    assert before.to_bytes() == pack(body)
    assert said[0] == 0 < said[1]


def test_its_hash_tells_apart_whatever_differs() -> None:
    others = [
        replace(PROFILE, model="loan"),
        replace(PROFILE, model_version="8"),
        replace(PROFILE, reference=reference(ROWS + 1)),
        replace(PROFILE, standards=standards(5.0)),
        replace(PROFILE, provenance={"budget": 0.01}),
    ]
    assert len({PROFILE.hash, *(other.hash for other in others)}) == 6
    assert len(PROFILE.hash) == 16
    assert int(PROFILE.hash, 16) >= 0


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
        pack(BODY | {"standards": None}),
    ],
)
def test_what_is_no_profile_is_refused_as_such(data: bytes) -> None:
    with pytest.raises(ConfigurationError, match="not a profile"):
        Profile.from_bytes(data)


def test_a_profile_of_another_format_asks_for_a_new_calibration() -> None:
    with pytest.raises(ConfigurationError, match=f"profile format {VERSION + 1} is not {VERSION}; calibrate again"):
        Profile.from_bytes(pack(BODY | {"profile": VERSION + 1}))


def test_a_profile_of_format_3_is_read_judges_and_keeps_its_name() -> None:
    data = (Path(__file__).parents[1] / "golden" / "profile-v3.msgpack").read_bytes()
    old = Profile.from_bytes(data)
    assert (old.form, old.to_bytes()) == (Form(None, "probabilities"), data)
    seen = Engine(EngineConfig(profiles=(old,))).observe([honest("ana", 3), thief()])
    assert not seen.flagged[:50].any() and seen.flagged[50:].any()


def test_a_profile_keeps_its_form_and_is_then_of_a_format_of_its_own() -> None:
    form = Form((Field("age"), Field("colour", ("blue", "red"))), "probability")
    kept = replace(PROFILE, stored_form=form)
    assert Profile.from_bytes(kept.to_bytes()).form == form
    assert unpack(kept.to_bytes())["profile"] == VERSION
    assert kept.hash != PROFILE.hash
