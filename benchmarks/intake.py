"""What taking in source records costs when they are many and small: microseconds a record, and how many times more it
costs to take the same records in one at a time.

Packed records of one or two rows, as the SDK writes them when each partition sees some forty queries a second, and
single JSON queries; d=64, ten classes, 300 principals.
Run: python -m benchmarks.intake
"""

from __future__ import annotations

import time
from itertools import count, islice

import numpy as np

from detector.contracts.codecs.packed_queries import PACKED_CONTENT_TYPE, encode_packed
from detector.contracts.queries import QueryBatch
from detector.contracts.topics import Topics, partition_of
from detector.stream.intake import RecordDecoder
from detector.stream.source_records import SourceRecord
from tests.contracts.wire import encode_json_query

RECORDS = 4_000
PARTITIONS = 12
DIMENSION = 64
CLASSES = 10
PRINCIPALS = 300
_PACKED = {"content-type": PACKED_CONTENT_TYPE.encode()}
_GOALS = {("packed", 1): 150.0, ("packed", 20): 60.0, ("single", 100): 20.0}


def batch(generator: np.random.Generator, rows: int, names: list[str], model: str = "model") -> QueryBatch:
    """``rows`` queries of one of ``names`` each."""
    answers = generator.random((rows, CLASSES), dtype=np.float32)
    who = generator.choice(len(names), rows)
    return QueryBatch(
        model=model,
        model_version="1",
        output_kind="probabilities",
        event_ids=[f"{number:032x}" for number in generator.integers(0, 2**63, rows)],
        occurred_at=1.7e9 + np.arange(rows, dtype=np.float64),
        principals=[names[number] for number in who],
        principal_index=np.arange(rows, dtype=np.int32),
        features=generator.standard_normal((rows, DIMENSION), dtype=np.float32),
        outputs=answers / answers.sum(axis=1, keepdims=True),
    )


def records(kind: str) -> list[SourceRecord]:
    """RECORDS records of partition 0: packed, packed of two models in turn, or single JSON queries."""
    generator = np.random.default_rng(1)
    at_home = (name for name in map("account-{}".format, count()) if partition_of(name, PARTITIONS) == 0)
    names = list(islice(at_home, PRINCIPALS))
    made = []
    for offset in range(RECORDS):
        rows = 1 if kind == "single" else 1 + offset // 2 % 2
        model = f"model-{offset % 2}" if kind == "two models" else "model"
        queries = batch(generator, rows, names, model)
        value, headers = (encode_json_query(queries), {}) if kind == "single" else (encode_packed(queries), _PACKED)
        made.append(SourceRecord("queries", offset, 1.7e9, None, value, headers))
    return made


def microseconds(made: list[SourceRecord], run: int) -> float:
    """Per record, taken in by runs of ``run``; the median over the runs."""
    decoder = RecordDecoder(0, PARTITIONS, Topics("bench"))
    spent = []
    for start in range(0, len(made) - run + 1, run):
        begun = time.perf_counter_ns()
        decoded = decoder.decode(made[start : start + run])
        spent.append(time.perf_counter_ns() - begun)
        assert not decoded.rejected and not decoded.misrouted
    return float(np.median(spent)) / run / 1_000


def main() -> None:
    print(f"intake, d={DIMENSION}, us a record (median of {RECORDS:,} records; x = times as much one at a time)")
    for kind in ("packed", "two models", "single"):
        made = records(kind)
        microseconds(made, 1)  # a first time, to warm up
        alone = microseconds(made, 1)
        for run in (1, 10, 20, 100, 200):
            spent = microseconds(made, run)
            goal = f"  goal {_GOALS[kind, run]:.0f}" if (kind, run) in _GOALS else ""
            print(f"{kind:10}  run of {run:3}  {spent:6.1f}  {alone / spent:5.1f}x{goal}")


if __name__ == "__main__":
    main()
