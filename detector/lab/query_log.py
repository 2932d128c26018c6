"""The labelled query log: a Parquet file with the true sender of each query, and the outcome of the run.

It is a query log as ``detector.sources.parquet`` reads it, with two more columns, ``label`` and ``kind``, and the run
as JSON in the file's metadata. The same log gives the same bytes.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import ConfigurationError, LabError
from detector.contracts.queries import QueryBatch
from detector.lab.fidelity import Fidelity

Label = Literal["honest", "extraction", "evasion"]

PARTIAL = ".partial"
"""The suffix of a log that is being written, or was never finished."""

THIEF = "mallory"
"""The thief's account, or the first part of the names of several."""

DUMMY = "dummy"
"""The ``kind`` of a thief's cover query, which has the thief's label."""

_METADATA = b"weirguard.lab"
_NUMBERS = ("occurred_at", "hardness", "leaf")
_LISTS = ("features", "outputs", "missing", "specification")
_NAMED = ("model", "model_version", "output_kind")


@dataclass(frozen=True, slots=True)
class Mark:
    """The truth about a query. ``kind``: the attack's name, DUMMY, or the honest user's habit."""

    label: Label
    kind: str


@dataclass(frozen=True, slots=True)
class Run:
    """A run and its outcome. ``budget``: the most queries of the attack itself.

    ``sent``: the thief's queries, dummies included; ``useful``: those of them that the clone is made of. ``curve``: the
    clone's fidelity, by queries sent; empty where there is no clone. ``knows``: what the thief knows of the detector,
    *none*, *code* or *profile*. ``natural``: how many of the thief's own natural rows were sent before anything else.
    """

    attack: str
    victim: str
    wrapper: str
    seed: int
    budget: int
    sent: int
    useful: int
    curve: tuple[Fidelity, ...]
    code_version: str
    knows: str = "none"
    natural: int = 0


@dataclass(frozen=True, slots=True)
class QueryLog:
    """``queries``, n rows by time; ``marks``, n: the truth about each; and the ``run``."""

    queries: QueryBatch
    marks: list[Mark]
    run: Run


def write_query_log(path: Path, log: QueryLog) -> None:
    """Writes ``log`` to ``path``, completely or not at all."""
    import pyarrow.parquet as pq

    table = _table(log).replace_schema_metadata({_METADATA: json.dumps(asdict(log.run)).encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        pq.write_table(table, partial, compression="zstd")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_run(path: Path) -> Run:
    """Returns the run of the log in ``path``. Raises LabError without one, ConfigurationError for other files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException) as error:
        raise ConfigurationError(f"{path}: cannot read it as Parquet: {error}") from error
    if _METADATA not in metadata:
        raise LabError(f"{path}: is no labelled query log; `weirguard redteam` writes them")
    fields = json.loads(metadata[_METADATA])
    return Run(**fields | {"curve": tuple(Fidelity(**point) for point in fields["curve"])})


def _table(log: QueryLog) -> Any:
    import pyarrow as pa

    def lists(matrix: NDArray[Any]) -> Any:
        return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(matrix).ravel()), matrix.shape[1])

    queries = log.queries
    columns = {
        "event_id": pa.array(queries.event_ids, pa.string()),
        "principal": pa.array(queries.principals, pa.string()).take(pa.array(queries.principal_index)),
        **{name: pa.array([getattr(queries, name)] * len(queries), pa.string()) for name in _NAMED},
        **{name: pa.array(values) for name in _NUMBERS if (values := getattr(queries, name)) is not None},
        **{name: lists(values) for name in _LISTS if (values := getattr(queries, name)) is not None},
        **{name: pa.array([getattr(mark, name) for mark in log.marks], pa.string()) for name in ("label", "kind")},
    }
    return pa.table(columns)
