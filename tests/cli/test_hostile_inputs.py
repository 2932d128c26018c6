"""A caller who plays with names and types of features is judged all the same, and refused where policy enforces."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detector.core.configuration import EngineConfig
from detector.core.profile import Profile
from detector.policy.config import Policy
from detector.replay.calibrate import CalibrationOptions, make_profile, read_files
from detector.replay.report import replay
from tests.sources.logged_forms import customers, table_thieves, write_log

THIEF = table_thieves(3, 400)[1]
Row = dict[str, Any]


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    log = tmp_path_factory.mktemp("honest") / "honest.jsonl"
    write_log(log, customers(10, 1, 60), "by name", "one probability")
    return make_profile(read_files([log], lambda _: None), CalibrationOptions(0.01)).profile


def _dropped(row: Row, at: int) -> Row:
    gone = list(row)[at % len(row)]
    return {name: value for name, value in row.items() if name != gone or name in ("age", "income")}


TRICKS: dict[str, Callable[[Row, int], Row]] = {
    "nothing": lambda row, _: row,
    "a name more, another each time": lambda row, at: row | {f"x{at}": at, "z": "text"},
    "a name more now and then": lambda row, at: row | ({"aa": 1.0} if at % 2 else {}),
    "names less": _dropped,
    "a name more for one less": lambda row, at: _dropped(row, at) | {"aa": 1.0},
    "texts for numbers": lambda row, at: {name: str(value) if at % 2 else value for name, value in row.items()},
    "words for numbers": lambda row, at: row | ({"tenure": "long", "owner": "perhaps"} if at % 2 else {}),
    "numbers for texts": lambda row, at: row | {"plan": at, "region": 7.5},
    "lists and objects for texts": lambda row, at: row | {"plan": ["gold"], "region": {"a": {"b": at}}},
    "texts of any length": lambda row, at: row | {"plan": "x" * 5_000 + str(at), "region": "\x1b[2J"},
    "nothing but what is stolen": lambda row, _: {name: row[name] for name in ("age", "income")},
}


@pytest.mark.parametrize("trick", TRICKS)
def test_a_thief_who_plays_with_names_and_types_is_judged_and_refused(
    trick: str, profile: Profile, tmp_path: Path
) -> None:
    rows = [TRICKS[trick](dict(row), at) for at, row in enumerate(THIEF.rows)]
    log = tmp_path / "log.jsonl"
    write_log(log, [replace(THIEF, rows=rows), customers(1, 2, 60)[0]], "by name", "one probability")
    config, policy = EngineConfig(profiles=(profile,)), Policy(mode="enforce", enforce_uncalibrated=True)
    summary = replay([log], tmp_path / "out", engine_config=config, policy=policy)
    assert (summary["refused"], summary["queries"]) == (0, len(rows) + 60)
    flagged = {own["principal"]: own["first_flagged"] for own in summary["principals"]}
    assert flagged[THIEF.account] is not None and sum(at is not None for at in flagged.values()) == 1
    decisions = [json.loads(line) for line in (tmp_path / "out" / "decisions.jsonl").read_text().splitlines()]
    assert {(decision["principal"], decision["mode"]) for decision in decisions} == {(THIEF.account, "enforce")}
