"""The odometer in the summary of a replay: the clones that accounts and groups could train."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from detector.contracts.queries import QueryBatch
from detector.core.engine import Engine, EngineConfig
from detector.policy.config import Policy
from detector.replay import readings as module
from detector.replay.odometer import MAX_TRAINING_QUERIES, Odometer, Reading
from detector.replay.readings import Readings
from detector.replay.report import replay
from tests.core.exposures import REGISTRY, asked, engine, interleaved, profile, stream
from tests.core.streams import rows_between
from tests.sources.logs import rows_of, write_parquet


def kept(pieces: list[QueryBatch], *cuts: int) -> Readings:
    judge = engine(profile())
    found, total = Readings(judge.config), sum(map(len, pieces))
    edges = [0, *cuts, total]
    for start, end in pairwise(edges):
        part = rows_between(pieces, start, end)
        found.add(part, judge.observe(part))
    return found


def of_account(seed: int, count: int, who: str, **changes: object) -> QueryBatch:
    return replace(stream(asked(seed, count), [who] * count), **changes)  # type: ignore[arg-type]


def read(piece: QueryBatch) -> Reading:
    used = profile()
    assert used.validation is not None
    found = Odometer(used.validation, used.reference.scale).read(piece.features, piece.outputs, piece.output_kind)
    assert found is not None
    return found


ANN, BO = of_account(61, 300, "ann"), of_account(62, 9, "bo")
MODEL = ANN.model


def test_each_account_is_read_as_if_it_were_looked_at_alone() -> None:
    found = kept([ANN, BO]).of_accounts([])
    assert found == {(MODEL, "ann"): read(ANN), (MODEL, "bo"): read(BO)}
    assert found[MODEL, "ann"].fidelity > found[MODEL, "bo"].fidelity + 0.1


def test_members_of_a_group_are_read_together() -> None:
    pieces = [of_account(70 + at, 12, f"p{at}") for at in range(20)]
    found = kept(pieces)
    together = replace(of_account(1, 240, "p"), features=np.concatenate([own.features for own in pieces]))
    together = replace(together, outputs=np.concatenate([own.outputs for own in pieces]))
    names = [(MODEL, f"p{at}") for at in range(20)]
    assert found.of_groups([names, [(MODEL, "nobody")]]) == [read(together), None]
    assert read(together).fidelity > found.of_accounts([])[MODEL, "p3"].fidelity + 0.1


def test_the_cut_of_the_stream_changes_nothing_of_long_accounts_either() -> None:
    pieces = [interleaved(5, 3 * MAX_TRAINING_QUERIES, 2)]
    whole = kept(pieces).of_accounts([])
    assert kept(pieces, 7, 900, 901, 1200).of_accounts([]) == whole and len(whole) == 2


def test_repeats_take_no_room_and_rows_that_were_not_judged_neither() -> None:
    often = replace(ANN, features=np.tile(ANN.features[:6], (50, 1)), outputs=np.tile(ANN.outputs[:6], (50, 1)))
    found = kept([often])
    (answers,) = found._answers.values()
    assert answers.seen == len(np.unique(often.features, axis=0))


def test_of_many_accounts_suspects_come_first_and_then_who_asked_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_READ", 2)
    found = kept([ANN, BO, of_account(63, 40, "cy")])
    assert list(found.of_accounts([(MODEL, "bo")])) == [(MODEL, "bo"), (MODEL, "ann")]


def test_beyond_the_limit_of_memory_those_who_asked_least_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", kept([ANN])._nbytes)
    found = kept([BO, ANN])
    assert list(found.of_accounts([])) == [(MODEL, "ann")]
    assert found._nbytes == sum(answers.nbytes for answers in found._answers.values())


def test_a_new_model_version_begins_anew() -> None:
    old, new = profile(), replace(profile(), model_version="2")
    judge = Engine(EngineConfig(profiles=(old, new)), REGISTRY)
    found = Readings(judge.config)
    for piece in (ANN, of_account(61, 9, "ann", model_version="2")):
        found.add([piece], judge.observe([piece]))
    assert found.of_accounts([]) == {(MODEL, "ann"): read(of_account(61, 9, "ann"))}


def test_the_summary_of_a_replay_has_the_readings(tmp_path: Path) -> None:
    log = write_parquet(tmp_path / "log.parquet", [row for piece in (ANN, BO) for row in rows_of(piece)])
    config = EngineConfig(profiles=(profile(),))
    summary = replay([log], tmp_path / "out", engine_config=config, policy=Policy())
    found = {entry["principal"]: entry["odometer"] for entry in summary["principals"]}
    for name, piece in (("ann", ANN), ("bo", BO)):
        assert found[name] == pytest.approx(asdict(read(piece)), abs=1e-4)
    bare = EngineConfig(profiles=(replace(profile(), validation=None),))
    summary = replay([log], tmp_path / "bare", engine_config=bare, policy=Policy())
    assert [entry["odometer"] for entry in summary["principals"]] == [None, None]
