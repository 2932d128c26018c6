"""Makes a profile, with provenance, from honest traffic: log files or the queries topic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import numpy as np

import detector
from detector.contracts.batches import in_log_order, take
from detector.contracts.codecs.json_queries import decode_json_run
from detector.contracts.codecs.packed_queries import PACKED_CONTENT_TYPE, decode_packed_run
from detector.contracts.errors import ConfigurationError
from detector.contracts.principals import EVERYONE
from detector.contracts.queries import DecodedQueries, DecodedRun, QueryBatch
from detector.core.calibration.calibrate import CONFIDENCE
from detector.core.calibration.crossfit import OwnerInputs
from detector.core.calibration.scan import Screened, calibrate_screened
from detector.core.calibration.traffic import PlainTraffic, accounts_of, of_one_version, plain_traffic
from detector.core.exposure import VALIDATION_ROWS, Validation
from detector.core.forms import Outputs
from detector.core.owner_model import from_json
from detector.core.pipeline.plan import labels_of
from detector.core.profile.profile import Profile
from detector.replay.topics import Topic
from detector.runtime.sections import KafkaSettings
from detector.runtime.text import read_text
from detector.sources import LogReader, files_of, format_of
from detector.sources.parquet import honest_rows

_SEED = 0
"""Fixes which rows are kept of a validation log that is too long."""
_DIGEST_BYTES = 16
_CHUNK = 1 << 20


@dataclass(slots=True)
class HonestTraffic:
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


def read_files(
    paths: Sequence[Path], progress: Callable[[int], None], reading: LogReader | None = None
) -> HonestTraffic:
    """Returns the honest queries in ``paths`` (files, folders of parts or patterns), read by ``reading``. ``progress``
    is called with the number of rows read since. Raises ConfigurationError."""
    traffic, reading = HonestTraffic(), reading or LogReader()
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


def read_topic(settings: KafkaSettings, since: float) -> HonestTraffic:
    """Returns all queries on the queries topic since the time ``since``, seconds UTC. Raises BrokerError."""
    with Topic(settings, settings.topics.queries) as topic:
        records = sorted(topic.until_now(since), key=lambda record: (record.partition, record.offset))
    digest = blake2b(digest_size=_DIGEST_BYTES)
    for record in records:
        digest.update(record.value or b"")
    traffic = HonestTraffic(digests=[digest.hexdigest()])
    for run in _runs(records):
        traffic.reasons.update(bad.reason for _, bad in run.bad)
        traffic.pieces += [batch for batch, _, _ in in_log_order(run.parts)]
    return traffic


def _honest(portion: DecodedQueries, honest: Any, traffic: HonestTraffic) -> Iterator[QueryBatch]:
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


@dataclass(frozen=True, slots=True)
class CalibrationOptions:
    """The options of ``calibrate``. ``leave_out``: names of accounts to exclude. ``outputs``: kind of outputs by model,
    ``*`` for all other models; inferred by default. ``reading``: how to read ``validation``."""

    budget: float
    model: str | None = None
    model_version: str | None = None
    validation: Path | None = None
    owner_model: Path | None = None
    leave_out: Collection[str] = ()
    outputs: Mapping[str, str] = field(default_factory=dict)
    reading: LogReader = field(default_factory=LogReader)


@dataclass(frozen=True, slots=True)
class CalibrationResult:
    """The ``profile``, the calibration behind it, and the number of ``queries`` and the ``traffic`` used."""

    profile: Profile
    screened: Screened
    queries: int
    traffic: PlainTraffic


def make_profile(
    traffic: HonestTraffic, request: CalibrationOptions, progress: Callable[[int], None] | None = None
) -> CalibrationResult:
    """Returns a profile from honest ``traffic``. ``progress`` is called with the number of accounts replayed since.
    Raises ConfigurationError."""
    pieces = of_one_version(traffic.pieces, request.model, request.model_version)
    model = _owner_model(request.owner_model)
    outputs = request.outputs.get(pieces[0].model, request.outputs.get(EVERYONE))
    plain = plain_traffic(pieces, cast("Outputs | None", outputs), None if model is None else model.features.names)
    accounts = accounts_of(plain.pieces)
    owned = OwnerInputs(model, _validation(request, plain))
    screened = calibrate_screened(accounts, request.budget, request.leave_out, progress, owned)
    queries = int(screened.calibration.queries.sum())
    given = [path for path in (request.validation, request.owner_model) if path is not None]
    digests = [*traffic.digests, *map(digest_of, given)]
    profile = plain.profile(with_provenance(screened, request.budget, digests))
    return CalibrationResult(profile, screened, queries, plain)


def with_provenance(screened: Screened, budget: float, digests: list[str]) -> Profile:
    """Returns the profile of ``screened`` with its provenance, including the ``digests`` of the files."""
    queries = int(screened.calibration.queries.sum())
    return replace(screened.calibration.profile, made=_provenance(screened, budget, queries, digests))


def accounts_in(traffic: HonestTraffic) -> int:
    """Returns the number of accounts in ``traffic``, over all model versions."""
    return len({name for own in traffic.pieces for name in own.principals})


def _provenance(screened: Screened, budget: float, queries: int, digests: list[str]) -> dict[str, Any]:
    """Holds no account names, so that readers of a profile do not learn whose queries it was made from."""
    reference = screened.calibration.profile.reference
    achieved, long = screened.achieved, screened.calibration.long
    low, high = achieved.interval
    least, most = screened.calibration.moves
    return {
        "code_version": detector.__version__,
        "budget": budget,
        "accounts": len(long),
        "accounts_left_out": len(screened.left_out),
        "accounts_too_short": int((~long).sum()),
        "queries": queries,
        "queries_median": screened.length,
        "flagged": achieved.flagged,
        "rate": achieved.rate,
        "rate_low": low,
        "rate_high": high,
        "rate_bound": achieved.bound,
        "confidence": CONFIDENCE,
        "threshold_low": least,
        "threshold_high": most,
        "data": digests,
        "feature_scale": "as logged" if bool((reference.scale == 1).all()) else "divided by ranges",
        "embedding_axes": int(reference.embedding.axes.shape[1]),
    }


def _owner_model(path: Path | None) -> Any:
    if path is None:
        return None
    text = read_text(path, "--model")
    try:
        return from_json(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"--model: {path}: {error}") from error


def _validation(request: CalibrationOptions, honest: PlainTraffic) -> Validation | None:
    """Returns the validation set, or None if no log is given. Keeps random rows of a log that is too long."""
    path = request.validation
    if path is None:
        return None
    rows = [portion.batch for portion in format_of(path).read(path, request.reading) if portion.batch is not None]
    pieces, dimension = [honest.form.plain(own) for own in rows if honest.form.accepts(own)], honest.pieces[0].dimension
    if not pieces or {own.dimension for own in pieces} != {dimension}:
        found = sorted({own.dimension for own in rows})
        raise ConfigurationError(
            f"--validation: {path} has rows of {found or 'no'} features and the honest logs {dimension}; give "
            "rows in the form that the model is asked in"
        )
    features = np.concatenate([own.features for own in pieces])
    labels = np.concatenate([labels_of(own) for own in pieces])
    kept = np.sort(np.random.default_rng(_SEED).permutation(len(features))[:VALIDATION_ROWS])
    return Validation.of(features[kept], labels[kept])
