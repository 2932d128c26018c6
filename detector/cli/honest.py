"""Honest traffic for ``calibrate``: from log files, or from the queries topic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from detector.contracts.batches import in_log_order, take
from detector.contracts.codecs.json_queries import decode_json_run
from detector.contracts.codecs.packed_queries import PACKED_CONTENT_TYPE, decode_packed_run
from detector.contracts.queries import DecodedQueries, DecodedRun, QueryBatch
from detector.runtime.sections import KafkaSettings
from detector.sources import LogReader, files_of, format_of
from detector.sources.parquet import honest_rows

_DIGEST_BYTES = 16
_CHUNK = 1 << 20


@dataclass(slots=True)
class Traffic:
    """``pieces`` of honest queries. ``reasons``: refused rows and records by reason. ``dishonest``: rows labelled as a
    thief's. ``digests``: 32 hexadecimal digits for each file or topic."""

    pieces: list[QueryBatch] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    dishonest: int = 0
    digests: list[str] = field(default_factory=list)

    @property
    def refused(self) -> int:
        return self.reasons.total()

    @property
    def rows(self) -> int:
        """The number of rows read, good and bad."""
        return sum(map(len, self.pieces)) + self.dishonest + self.refused


def read_files(paths: Sequence[Path], progress: Callable[[int], None], reading: LogReader | None = None) -> Traffic:
    """Returns the honest queries in ``paths`` (files, folders of parts or patterns), read by ``reading``. ``progress``
    is called with the number of rows read since. Raises ConfigurationError."""
    traffic, reading = Traffic(), reading or LogReader()
    for path in files_of(paths):
        honest = honest_rows(path)
        for portion in format_of(path).read(path, reading):
            traffic.reasons.update(bad.reason for bad in portion.bad_rows)
            traffic.pieces += _honest(portion, honest, traffic)
            progress(len(portion.rows) + len(portion.bad_rows))
        traffic.digests.append(digest_of(path))
    return traffic


def digest_of(path: Path) -> str:
    """Returns 32 hexadecimal digits of the content of the file at ``path``."""
    digest = blake2b(digest_size=_DIGEST_BYTES)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def read_topic(settings: KafkaSettings, since: float) -> Traffic:
    """Returns all queries on the queries topic since the time ``since``, seconds UTC. Raises BrokerError."""
    from detector.cli.kafka import Topic

    with Topic(settings, settings.topics.queries) as topic:
        records = sorted(topic.until_now(since), key=lambda record: (record.partition, record.offset))
    digest = blake2b(digest_size=_DIGEST_BYTES)
    for record in records:
        digest.update(record.value or b"")
    traffic = Traffic(digests=[digest.hexdigest()])
    for run in _runs(records):
        traffic.reasons.update(bad.reason for _, bad in run.bad)
        traffic.pieces += [batch for batch, _, _ in in_log_order(run.parts)]
    return traffic


def _honest(portion: DecodedQueries, honest: Any, traffic: Traffic) -> Iterator[QueryBatch]:
    batch = portion.batch
    if batch is None:
        return
    if honest is not None:
        kept = honest[portion.rows]
        traffic.dishonest += int((~kept).sum())
        batch = take(batch, np.flatnonzero(kept))
    if len(batch):
        yield batch


def _runs(records: Iterable[Any]) -> Iterator[DecodedRun]:
    """Yields runs of neighbouring records with the same encoding, decoded together."""
    for packed, run in groupby(records, key=_packed):
        own = list(run)
        values = [record.value for record in own]
        yield (decode_packed_run if packed else decode_json_run)(values, [record.timestamp / 1000 for record in own])


def _packed(record: Any) -> bool:
    content_type = dict(record.headers or ()).get("content-type") or b""  # a header's value may be null
    return bool(content_type.partition(b";")[0].strip().lower() == PACKED_CONTENT_TYPE.encode())
