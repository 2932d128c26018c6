"""What was judged is kept, and used again only for the same log, judge and source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detector.core.engine import EngineConfig, PradaConfig
from detector.lab.evaluation import judging
from detector.lab.evaluation.judging import judge_labelled, judge_once, judged_path
from detector.policy.config import Policy
from tests.lab.labelled import COMPATIBLE, traffic, write_traffic


@pytest.fixture
def log(tmp_path: Path) -> Path:
    queries = traffic(300)
    queries.outputs[7] = 7
    return write_traffic(tmp_path / "log.parquet", queries)


def test_what_is_kept_is_what_was_judged_and_nothing_is_judged_twice(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    judged = judge_labelled(log, engine_config=COMPATIBLE, policy=Policy())
    judge_once(log, tmp_path / "kept", engine_config=COMPATIBLE, policy=Policy())
    monkeypatch.setattr(judging, "judge_labelled", None)
    again = judge_once(log, tmp_path / "kept", engine_config=COMPATIBLE, policy=Policy(), progress=done.append)
    assert sum(done) == 300
    assert (again.run, again.accounts, again.refused) == (judged.run, judged.accounts, 1)
    for name in ("account", "honest", "kind", "flagged"):
        np.testing.assert_array_equal(getattr(again, name), getattr(judged, name))
        assert getattr(again, name).dtype == getattr(judged, name).dtype


def test_another_log_another_judge_or_other_source_is_judged_anew(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = EngineConfig(mode="compatible", prada=PradaConfig(delta=0.8))
    places = {judged_path(tmp_path, log, *who) for who in ((COMPATIBLE, Policy()), (other, Policy()))}
    places.add(judged_path(tmp_path, log, COMPATIBLE, Policy(decision_seconds=1.0)))
    write_traffic(tmp_path / "log.parquet", traffic(299))
    places.add(judged_path(tmp_path, log, COMPATIBLE, Policy()))
    monkeypatch.setattr(judging, "_source", lambda: "another")
    places.add(judged_path(tmp_path, log, COMPATIBLE, Policy()))
    assert len(places) == 5


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_what_is_damaged_is_judged_again(log: Path, tmp_path: Path, share: float) -> None:
    place = judged_path(tmp_path, log, COMPATIBLE, Policy())
    judged = judge_once(log, tmp_path, engine_config=COMPATIBLE, policy=Policy())
    whole = place.read_bytes()
    place.write_bytes(whole[: int(len(whole) * share)])
    again = judge_once(log, tmp_path, engine_config=COMPATIBLE, policy=Policy())
    np.testing.assert_array_equal(again.flagged, judged.flagged)
    np.testing.assert_array_equal(np.load(place)["flagged"], judged.flagged)
