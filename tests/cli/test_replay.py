"""``weirguard replay``: the service's verdicts on recorded queries."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from detector.cli.main import main
from detector.contracts.batches import take
from detector.contracts.codecs import decode
from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import Alert, Decision
from detector.contracts.queries import BadRow, DecodedQueries, QueryBatch
from detector.core.engine import Engine, EngineConfig, PradaConfig
from detector.core.signals import SIGNALS
from detector.policy.config import Policy
from detector.policy.ledger import Ledger
from detector.replay import judging
from detector.replay.groups import GroupReplay
from detector.replay.readings import Readings
from detector.replay.report import ReplayReport, replay
from detector.sources import LogReader
from detector.stream.detector import Detector
from tests.contracts.batches import make_batch, principals_of
from tests.core.streams import batch
from tests.sources.logs import rows_of, write_jsonl, write_parquet

COMPATIBLE = EngineConfig(mode="compatible", prada=PradaConfig(delta=0.9))
QUERIES, THIEF, DIMENSION = 900, 2, 24


def _traffic() -> QueryBatch:
    """Two honest principals, and a thief who steps by equal lengths from their own earlier queries."""
    batch = make_batch(rows=QUERIES, dimension=DIMENSION, classes=2, principals=["ana", "bo", "thief"])
    rng = np.random.default_rng(1)
    own = np.flatnonzero(batch.principal_index == THIEF)
    for number, row in enumerate(own[60:], start=60):
        step = 0.1 * np.sign(rng.standard_normal(DIMENSION))
        batch.features[row] = batch.features[own[rng.integers(0, number)]] + step
    return batch


@pytest.fixture(scope="module")
def traffic() -> QueryBatch:
    return _traffic()


def _replay(out: Path, *paths: Path, merge: bool = False, config: EngineConfig = COMPATIBLE) -> dict[str, Any]:
    return replay(paths, out, engine_config=config, policy=Policy(), reader=LogReader(merge=merge))


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def _alerts(out: Path) -> list[Alert]:
    return [decode(Alert, line) for line in (out / "alerts.jsonl").read_bytes().splitlines()]


def _decisions(out: Path) -> list[Decision]:
    return [decode(Decision, line) for line in (out / "decisions.jsonl").read_bytes().splitlines()]


def _verdicts(out: Path) -> pa.Table:
    return pq.read_table(out / "verdicts.parquet")


def test_each_query_has_a_verdict_in_input_order(tmp_path: Path, traffic: QueryBatch) -> None:
    _replay(tmp_path, write_parquet(tmp_path / "log.parquet", rows_of(traffic)))
    verdicts = _verdicts(tmp_path)
    assert verdicts.column_names == ["model", "principal", "index", "event_id", "flagged", "score", *SIGNALS, "group"]
    assert verdicts["event_id"].to_pylist() == traffic.event_ids
    assert verdicts["principal"].to_pylist() == principals_of(traffic)
    for principal in range(3):
        index = verdicts["index"].to_numpy()[traffic.principal_index == principal]
        assert index.tolist() == list(range(len(index)))


def test_the_thief_is_flagged_alone_and_the_summary_says_from_where(tmp_path: Path, traffic: QueryBatch) -> None:
    summary = _replay(tmp_path, write_parquet(tmp_path / "log.parquet", rows_of(traffic)))
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert summary["queries"] == QUERIES
    first = {entry["principal"]: entry["first_flagged"] for entry in summary["principals"]}
    verdicts = _verdicts(tmp_path)
    flagged = verdicts.filter(verdicts["flagged"]).to_pylist()
    assert {row["principal"] for row in flagged} == {"thief"}
    assert first == {"ana": None, "bo": None, "thief": min(row["index"] for row in flagged)}
    alert = _alerts(tmp_path)[0]
    assert (alert.principal, alert.query_index) == ("thief", first["thief"])
    assert summary["index_counts_from"] == 0
    assert summary["queries_count_from"] == 1
    numbers = {entry["principal"]: entry["first_flagged_query"] for entry in summary["principals"]}
    assert numbers == {"ana": None, "bo": None, "thief": alert.query_index + 1}
    assert verdicts.schema.metadata[b"index_counts_from"] == b"0"
    assert {decision.principal for decision in _decisions(tmp_path)} == {"thief"}


def test_rows_that_cannot_be_judged_are_counted_against_their_principal_and_accuse(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pieces = [batch(rng.random((number, width)), ["eve"] * number) for number, width in ((40, 4), (35, 6), (30, 4))]
    portions = [DecodedQueries(piece, np.arange(len(piece))) for piece in pieces]
    portions[0].bad_rows.append(BadRow(0, "outputs", "none", "credit", "eve"))
    portions[0].bad_rows.append(BadRow(1, "syntax", "unreadable"))
    part = judging.LogBatch()
    for portion in portions:
        part.add(0, portion)
    judge = Detector(Engine(EngineConfig()), Ledger(Policy()))
    ((_, judgement),) = judging._detect(judge, GroupReplay(()), [part])
    assert judgement is not None
    assert [(alert.principal, alert.signal) for alert in judgement.effects.alerts] == [("eve", "unjudged")]
    with ReplayReport(tmp_path, [tmp_path / "log"], Readings(EngineConfig())) as report:
        report.add(part, judgement)
        (eve,) = report.summary()["principals"]
    assert (eve["principal"], eve["queries"], eve["unjudged"]) == ("eve", 70, {"dimension": 35, "outputs": 1})


@pytest.mark.parametrize("mode", ["default", "compatible"])
def test_the_cut_into_micro_batches_changes_nothing(
    tmp_path: Path, traffic: QueryBatch, mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = write_jsonl(tmp_path / "log.jsonl", traffic)
    config = EngineConfig(mode=mode, prada=PradaConfig(delta=0.9))
    monkeypatch.setattr(judging, "QUERIES_AT_ONCE", QUERIES)
    _replay(tmp_path / "large", log, config=config)
    monkeypatch.setattr(judging, "QUERIES_AT_ONCE", 37)
    _replay(tmp_path / "small", log, config=config)
    for name in ("alerts.jsonl", "decisions.jsonl", "summary.json"):
        assert (tmp_path / "large" / name).read_bytes() == (tmp_path / "small" / name).read_bytes()
    large, small = _verdicts(tmp_path / "large"), _verdicts(tmp_path / "small")
    assert large.drop(["score", "prada"]) == small.drop(["score", "prada"])
    for name in ("score", "prada"):
        np.testing.assert_allclose(large[name].to_numpy(), small[name].to_numpy(), atol=1e-9)


def test_json_lines_and_parquet_give_the_same(tmp_path: Path, traffic: QueryBatch) -> None:
    _replay(tmp_path / "parquet", write_parquet(tmp_path / "log.parquet", rows_of(traffic)))
    _replay(tmp_path / "jsonl", write_jsonl(tmp_path / "log.jsonl", traffic))
    assert _verdicts(tmp_path / "parquet") == _verdicts(tmp_path / "jsonl")


def test_files_are_judged_in_turn_or_merged_by_time(tmp_path: Path, traffic: QueryBatch) -> None:
    whole = write_jsonl(tmp_path / "whole.jsonl", traffic)
    even, odd = (
        write_jsonl(tmp_path / f"{start}.jsonl", take(traffic, np.arange(start, QUERIES, 2))) for start in (0, 1)
    )
    _replay(tmp_path / "out", whole)
    _replay(tmp_path / "merged", odd, even, merge=True)
    _replay(tmp_path / "in-turn", odd, even)
    assert _verdicts(tmp_path / "merged") == _verdicts(tmp_path / "out")
    assert (tmp_path / "merged" / "decisions.jsonl").read_bytes() == (tmp_path / "out" / "decisions.jsonl").read_bytes()
    assert _verdicts(tmp_path / "in-turn")["event_id"].to_pylist() == traffic.event_ids[1::2] + traffic.event_ids[::2]


def test_refused_rows_are_listed_with_file_row_and_reason(tmp_path: Path) -> None:
    good = make_batch(rows=4, principals=["ana"], principal_index=np.zeros(4, dtype=np.int32))
    good.outputs[1] = 7
    other = make_batch(rows=1, dimension=9, principals=["ana"], principal_index=np.zeros(1, dtype=np.int32))
    first, second = write_jsonl(tmp_path / "a.jsonl", good), write_jsonl(tmp_path / "b.jsonl", other)
    summary = _replay(tmp_path / "out", first, second)
    refused = [(line["file"], line["row"], line["reason"]) for line in _lines(tmp_path / "out" / "refused.jsonl")]
    assert sorted(refused) == [(str(first), 2, "outputs"), (str(second), 1, "dimension")]
    assert (summary["refused"], summary["queries"]) == (2, 3)
    assert _verdicts(tmp_path / "out")["index"].to_pylist() == [0, 1, 2]


def test_queries_of_one_principal_are_numbered_across_model_versions(tmp_path: Path) -> None:
    alone: dict[str, Any] = {"principals": ["ana"], "principal_index": np.zeros(2, dtype=np.int32)}
    path = write_jsonl(
        tmp_path / "log.jsonl", make_batch(rows=2, **alone), make_batch(rows=2, model_version="4", **alone)
    )
    summary = _replay(tmp_path / "out", path)
    assert _verdicts(tmp_path / "out")["index"].to_pylist() == [0, 1, 2, 3]
    assert [entry["queries"] for entry in summary["principals"]] == [4]


def test_policy_time_never_falls(tmp_path: Path, traffic: QueryBatch) -> None:
    times = np.random.default_rng(3).permutation(traffic.occurred_at)
    _replay(tmp_path / "out", write_jsonl(tmp_path / "log.jsonl", replace(traffic, occurred_at=times)))
    latest = dict(zip(traffic.event_ids, np.maximum.accumulate(times), strict=True))
    issued = [decision.issued_at for decision in _decisions(tmp_path / "out")]
    assert issued
    assert issued == sorted(issued)
    assert set(issued) <= set(latest.values())


def test_a_silent_score_is_null(tmp_path: Path) -> None:
    _replay(tmp_path / "out", write_jsonl(tmp_path / "log.jsonl", make_batch(rows=5)))
    assert _verdicts(tmp_path / "out")["score"].null_count == 5


def test_an_empty_log_leaves_empty_files(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").touch()
    summary = _replay(tmp_path / "out", tmp_path / "log.jsonl")
    assert (summary["queries"], summary["principals"]) == (0, [])
    assert _verdicts(tmp_path / "out").num_rows == 0


def test_nothing_is_written_when_a_file_is_no_log(tmp_path: Path) -> None:
    log = write_jsonl(tmp_path / "log.jsonl", make_batch())
    with pytest.raises(ConfigurationError, match=r"traces\.npz: cannot read \.npz"):
        _replay(tmp_path / "out", log, tmp_path / "traces.npz")
    assert not (tmp_path / "out").exists()


def _weirguard(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def test_the_command_replays_in_the_mode_and_with_the_threshold_it_is_given(
    tmp_path: Path, traffic: QueryBatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_jsonl(tmp_path / "log.jsonl", traffic)
    options = ("--mode", "compatible", "--delta")
    assert _weirguard("replay", log, "--out", tmp_path / "usual", *options, 0.9) == 0
    assert "900 queries of 3 principals: 1 flagged" in capsys.readouterr().err
    assert _weirguard("replay", log, "--out", tmp_path / "blind", *options, 0.01) == 0
    assert "0 flagged" in capsys.readouterr().err
    _replay(tmp_path / "same", log)
    assert _verdicts(tmp_path / "usual") == _verdicts(tmp_path / "same")


@pytest.mark.parametrize("mode", ["default", "compatible"])
def test_without_a_profile_every_output_says_uncalibrated(
    mode: str, tmp_path: Path, traffic: QueryBatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log, out = write_jsonl(tmp_path / "log.jsonl", traffic), tmp_path / "out"
    assert _weirguard("replay", log, "--out", out, "--mode", mode, "--json") == 0
    captured = capsys.readouterr()
    warning = captured.err.splitlines()[-1]
    assert warning.startswith("UNCALIBRATED: digits 3 is judged without a profile of honest traffic")
    assert ("Compatible mode uses no profile" if mode == "compatible" else "`weirguard scan LOGS`") in warning
    summary = json.loads(captured.out)
    assert summary == json.loads((out / "summary.json").read_text())
    assert summary["calibrated"] is False
    assert summary["models"] == [{"model": "digits", "model_version": "3", "calibrated": False, "profile": None}]
    assert {alert.calibrated for alert in _alerts(out)} == {False}
    assert {cause.reason for one in _decisions(out) for cause in one.causes} == {"uncalibrated"}
    assert pq.read_metadata(out / "verdicts.parquet").metadata[b"uncalibrated"] == b'["digits 3"]'


def test_the_command_says_what_was_refused_and_fails_where_all_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = make_batch(rows=4)
    batch.outputs[0] = 3
    batch.event_ids[1] = ""
    some = write_jsonl(tmp_path / "some.jsonl", batch)
    assert _weirguard("replay", some, "--out", tmp_path / "some") == 3
    captured = capsys.readouterr().err
    assert "1 rows refused (most for the reason outputs)" in captured
    assert "1 of 4 rows were refused: 1 for the reason outputs; name the columns of outputs with --map" in captured
    summary = json.loads((tmp_path / "some" / "summary.json").read_text())
    assert (summary["reasons"], summary["repaired"]) == ({"outputs": 1}, {"event_id": 1})
    assert summary["rows_count_from"] == 1
    assert [line["row"] for line in _lines(tmp_path / "some" / "refused.jsonl")] == [1]
    none = write_jsonl(tmp_path / "none.jsonl", replace(batch, outputs=batch.outputs * 9))
    assert _weirguard("replay", none, "--out", tmp_path / "none", "--merge") == 1
    assert "0 queries of 3 principals" in capsys.readouterr().err


def test_the_command_refuses_an_npz_file_and_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trace.npz").touch()
    assert _weirguard("replay", tmp_path / "trace.npz", "--out", tmp_path / "out") == 2
    assert "write the log as one of .jsonl, .ndjson, .json, .csv, .tsv, .parquet" in capsys.readouterr().err


@pytest.mark.parametrize("merge", [False, True])
def test_one_row_from_a_far_future_does_not_carry_policy_time_there(
    tmp_path: Path, traffic: QueryBatch, merge: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    times = traffic.occurred_at.copy()
    times[0] = time.time() + 5 * 365 * 86_400
    log = write_parquet(tmp_path / "log.parquet", rows_of(replace(traffic, occurred_at=times)))
    command = ["replay", str(log), "--mode", "compatible", "--delta", "0.9", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=r"^0$"):
        main([*command, "--merge"] if merge else command)
    latest = max(decision.expires_at for decision in _decisions(tmp_path / "out"))
    assert latest < time.time() + Policy().decision_seconds + 400
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["clamped"] == 1
    assert "1 rows with a time too far in the future" in " ".join(capsys.readouterr().err.split())
