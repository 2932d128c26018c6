"""Labelled logs and results for the tests of the evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from detector.contracts.batches import concatenate
from detector.contracts.errors import LabError
from detector.contracts.queries import QueryBatch
from detector.core.engine import EngineConfig, PradaConfig
from detector.lab.evaluation.results import AttackResult, Evaluation, HonestResult
from detector.lab.fidelity import Fidelity
from detector.lab.query_log import DUMMY, Mark, QueryLog, Run, read_run, write_query_log
from detector.sources import LogReader
from detector.sources.parquet import read_parquet
from tests.contracts.batches import make_batch, principals_of

COMPATIBLE = EngineConfig(mode="compatible", prada=PradaConfig(delta=0.9))
THIEF = "thief"
DIMENSION = 24


def fidelity(queries: int, test: float, uniform: float = 0.25) -> Fidelity:
    return Fidelity(queries, test, uniform, tv_test=0.5, tv_uniform=0.5)


def traffic(rows: int = 900) -> QueryBatch:
    """Two honest principals, and a thief who, from the 60th query on, steps by equal lengths from earlier ones."""
    batch = make_batch(rows=rows, dimension=DIMENSION, classes=2, principals=["ana", "bo", THIEF])
    rng = np.random.default_rng(1)
    stolen = np.flatnonzero(batch.principal_index == 2)
    for number, row in enumerate(stolen[60:], start=60):
        step = 0.1 * np.sign(rng.standard_normal(DIMENSION))
        batch.features[row] = batch.features[stolen[rng.integers(0, number)]] + step
    return batch


def run_of(**changes: Any) -> Run:
    fields: dict[str, Any] = {
        "attack": "steps",
        "victim": "small",
        "wrapper": "plain",
        "seed": 0,
        "budget": 400,
        "sent": 300,
        "useful": 200,
        "curve": (fidelity(50, 0.4), fidelity(300, 0.9)),
        "code_version": "0",
    }
    return Run(**fields | changes)


def write_traffic(path: Path, queries: QueryBatch, **changes: Any) -> Path:
    """``queries`` as a labelled log: ana is steady, bo is light, each third query of the thief is a dummy."""
    honest = {"ana": Mark("honest", "steady"), "bo": Mark("honest", "light")}
    stolen = [Mark("extraction", "steps"), Mark("extraction", "steps"), Mark("extraction", DUMMY)]
    marks = [honest.get(name) or stolen[row % 3] for row, name in enumerate(principals_of(queries))]
    sent = sum(mark.label == "extraction" for mark in marks)
    write_query_log(path, QueryLog(queries, marks, run_of(**{"sent": sent, "useful": sent * 2 // 3} | changes)))
    return path


def result(attack: str = "steps", first_verdict: int | None = None, **changes: Any) -> AttackResult:
    curve = (fidelity(100, 0.5, 0.1), fidelity(300, 0.9, 0.3), fidelity(400, 0.95, 0.35))
    run = run_of(**{"attack": attack, "sent": 400, "useful": 100, "curve": curve} | changes)
    return AttackResult(run, 1, first_verdict)


def evaluation(*attacks: AttackResult, honest: tuple[HonestResult, ...] = (), **changes: Any) -> Evaluation:
    fields: dict[str, Any] = {"detector": "prada", "signals": ("prada",), "refused": 0}
    return Evaluation(attacks=attacks, honest=honest, **fields | changes)


def read_query_log(path: Path) -> QueryLog:
    """Returns the log in ``path``. Raises LabError unless ``write_query_log`` wrote it."""
    import pyarrow.parquet as pq

    run = read_run(path)
    marks = pq.read_table(path, columns=["label", "kind"]).to_pylist()
    parts = list(read_parquet(path, LogReader()))
    if any(part.bad_rows for part in parts):
        raise LabError(f"{path}: has rows that are no queries")
    batches = list(concatenate(part.batch for part in parts if part.batch is not None))
    if len(batches) != 1:
        raise LabError(f"{path}: is not one table of queries to one model")
    return QueryLog(batches[0], [Mark(**mark) for mark in marks], run)
