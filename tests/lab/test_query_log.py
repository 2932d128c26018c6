"""The labelled log is a query log, keeps its content, and has the same bytes for the same run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detector.cli.main import main
from detector.contracts.batches import COLUMNS
from detector.contracts.errors import ConfigurationError, LabError
from detector.lab.fidelity import Fidelity
from detector.lab.query_log import Mark, QueryLog, Run, read_run, write_query_log
from tests.contracts.batches import make_batch
from tests.lab.labelled import read_query_log
from tests.sources.logs import rows_of, write_parquet

CURVE = (Fidelity(20, 0.5, 0.1, 0.4, 0.1, 0.45), Fidelity(40, 0.75, 0.3, 0.6, 0.2))
RUN = Run("jbda", "digits", "plain", seed=3, budget=40, sent=40, useful=30, curve=CURVE, code_version="0")
ROWS = 60


@pytest.fixture
def log() -> QueryLog:
    index = np.random.default_rng(0).integers(0, 2, ROWS).astype(np.int32)
    queries = make_batch(rows=ROWS, principals=["ana", "mallory"], principal_index=index)
    marks = [(Mark("honest", "steady"), Mark("extraction", "jbda"))[who] for who in queries.principal_index.tolist()]
    return QueryLog(queries, marks, RUN)


def test_a_log_is_read_as_it_was_written(log: QueryLog, tmp_path: Path) -> None:
    write_query_log(tmp_path / "made" / "log.parquet", log)
    read = read_query_log(tmp_path / "made" / "log.parquet")
    assert read.run == RUN == read_run(tmp_path / "made" / "log.parquet")
    assert read.marks == log.marks
    for name in set(COLUMNS) - {"principal_index"}:
        np.testing.assert_array_equal(getattr(read.queries, name), getattr(log.queries, name), err_msg=name)
    assert {path.name for path in (tmp_path / "made").iterdir()} == {"log.parquet"}


def test_features_left_out_and_tree_nodes_are_kept(log: QueryLog, tmp_path: Path) -> None:
    missing = np.random.default_rng(0).random(log.queries.features.shape) < 0.3
    features = np.where(missing, np.float32(0), log.queries.features)
    queries = replace(log.queries, features=features, missing=missing, leaf=np.arange(ROWS))
    write_query_log(tmp_path / "log.parquet", replace(log, queries=queries))
    read = read_query_log(tmp_path / "log.parquet").queries
    np.testing.assert_array_equal(read.missing, missing)
    np.testing.assert_array_equal(read.features, features)
    np.testing.assert_array_equal(read.leaf, np.arange(ROWS))


def test_the_same_log_is_the_same_bytes(log: QueryLog, tmp_path: Path) -> None:
    first, second = tmp_path / "first.parquet", tmp_path / "second.parquet"
    write_query_log(first, log)
    write_query_log(second, log)
    assert first.read_bytes() == second.read_bytes()
    write_query_log(second, replace(log, run=replace(RUN, seed=4)))
    assert first.read_bytes() != second.read_bytes()


def test_replay_reads_every_row(log: QueryLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_query_log(tmp_path / "log.parquet", log)
    with pytest.raises(SystemExit) as ended:
        main(["replay", str(tmp_path / "log.parquet"), "--out", str(tmp_path / "out")])
    assert ended.value.code == 0
    assert f"{ROWS} queries of 2 principals" in capsys.readouterr().err


def test_a_log_without_labels_and_what_is_no_log_are_refused(log: QueryLog, tmp_path: Path) -> None:
    plain = write_parquet(tmp_path / "plain.parquet", rows_of(log.queries))
    with pytest.raises(LabError, match=r"plain\.parquet: is no labelled query log"):
        read_query_log(plain)
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(ConfigurationError, match=r"text\.parquet: cannot read it as Parquet"):
        read_run(tmp_path / "text.parquet")
