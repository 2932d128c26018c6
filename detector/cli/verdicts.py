"""Output of a replay: a verdict for each query and a summary of each principal."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import BadRow
from detector.core.engine import Observation

_ROWS_IN_A_GROUP = 65_536
COUNTED_FROM = 0
"""``index`` and ``first_flagged`` in the files count from 0, for compatibility; text for people counts from 1."""

_NEVER = np.iinfo(np.int64).max


class Accounts:
    """Queries and first flagged query of each (model, principal), over all model versions."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str], int] = {}
        self._queries = np.zeros(64, dtype=np.int64)
        self._first_flagged = np.full(64, _NEVER)
        self._unjudged: dict[int, Counter[str]] = {}

    def refuse(self, bad: BadRow) -> None:
        """Counts a row that could not be judged, if its model and principal are known."""
        if bad.model and bad.principal:
            at = self._numbers.setdefault((bad.model, bad.principal), len(self._numbers))
            self._unjudged.setdefault(at, Counter())[bad.reason] += bad.queries
            self._grow()

    def number(self, observation: Observation, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Counts ``rows``; returns the index of each within its principal, int64, from 0."""
        accounts = self._accounts(observation)[observation.key_index[rows]]
        index = self._queries[accounts] + _ranks(accounts)
        np.add.at(self._queries, accounts, 1)
        flagged = observation.flagged[rows]
        np.minimum.at(self._first_flagged, accounts[flagged], index[flagged])
        return index

    def summary(self) -> list[dict[str, Any]]:
        """One entry for each principal with a query, judged or not, in order of appearance."""
        return [
            {
                "model": model,
                "principal": principal,
                "queries": int(self._queries[at]),
                "first_flagged": self._flagged_at(at, COUNTED_FROM),
                "first_flagged_query": self._flagged_at(at, 1),
                "unjudged": dict(self._unjudged.get(at, {})),
            }
            for (model, principal), at in self._numbers.items()
            if self._queries[at] or at in self._unjudged
        ]

    def _flagged_at(self, account: int, first: int) -> int | None:
        at = int(self._first_flagged[account])
        return at + first if at < _NEVER else None

    def _accounts(self, observation: Observation) -> NDArray[np.int64]:
        numbers = self._numbers
        accounts = [numbers.setdefault((key.model, key.principal), len(numbers)) for key in observation.keys]
        self._grow()
        return np.array(accounts, dtype=np.int64)

    def _grow(self) -> None:
        while len(self._numbers) > len(self._queries):
            self._queries = np.concatenate([self._queries, np.zeros_like(self._queries)])
            self._first_flagged = np.concatenate([self._first_flagged, np.full_like(self._first_flagged, _NEVER)])


def _ranks(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each entry of ``groups``, the number of equal entries before it."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    lengths = np.diff(starts, append=len(order))
    ranks = np.empty_like(groups)
    ranks[order] = np.arange(len(order)) - np.repeat(starts, lengths)
    return ranks


class VerdictFile:
    """``verdicts.parquet``: model, principal, index, event_id, flagged, score, and one column per signal; null while
    a score or signal has no value. ``index`` counts from 0, as the metadata ``index_counts_from`` says;
    ``uncalibrated`` there is a JSON list of the model versions that were judged without a profile."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: Any = None
        self._tables: list[Any] = []
        self._rows = 0
        self.uncalibrated: list[str] = []

    def write(
        self, observation: Observation, rows: NDArray[np.int64], index: NDArray[np.int64], event_ids: list[str]
    ) -> None:
        """Writes ``rows`` of an observation, numbered by ``index``."""
        import pyarrow as pa

        key = pa.array(observation.key_index[rows])
        names = {
            name: pa.array([getattr(key, name) for key in observation.keys], pa.string()).take(key)
            for name in ("model", "principal")
        }
        verdicts = {
            "index": pa.array(index),
            "event_id": pa.array(event_ids, pa.string()).take(pa.array(rows)),
            "flagged": pa.array(observation.flagged[rows]),
            "score": pa.array(observation.score[rows], from_pandas=True),
        }
        self._add(pa.table({**names, **verdicts, **_signals(observation, rows)}))

    def close(self) -> None:
        """Writes what is buffered and closes the file; a replay without rows gives an empty table."""
        import pyarrow as pa

        if self._writer is None and not self._tables:
            nothing = {"index": pa.int64(), "flagged": pa.bool_(), "score": pa.float64()}
            columns = ("model", "principal", "index", "event_id", "flagged", "score")
            self._tables.append(pa.table({name: pa.array([], nothing.get(name, pa.string())) for name in columns}))
        self._flush()
        self._writer.add_key_value_metadata({"uncalibrated": json.dumps(self.uncalibrated)})
        self._writer.close()

    def _add(self, table: Any) -> None:
        self._tables.append(table)
        self._rows += table.num_rows
        if self._rows >= _ROWS_IN_A_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._tables:
            table = pa.concat_tables(self._tables)
            schema = table.schema.with_metadata({"index_counts_from": str(COUNTED_FROM)})
            self._writer = self._writer or pq.ParquetWriter(self._path, schema)
            self._writer.write_table(table)
            self._tables, self._rows = [], 0


def _signals(observation: Observation, rows: NDArray[np.int64]) -> dict[str, Any]:
    """The statistic of each signal, without its further values, whose names have a dot and which may be absent."""
    import pyarrow as pa

    return {
        name: pa.array(values[rows], from_pandas=True)
        for name, values in observation.signals.items()
        if "." not in name
    }
