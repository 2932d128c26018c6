"""Makes a profile, with provenance, from honest traffic: log files or the queries topic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b, file_digest
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

import detector
from detector.contracts.batches import in_log_order, take
from detector.contracts.codecs.json_queries import decode_json_run
from detector.contracts.codecs.packed_queries import decode_packed_run
from detector.contracts.errors import ConfigurationError
from detector.contracts.principals import EVERYONE
from detector.contracts.queries import QueryBatch
from detector.core.calibration.calibrate import CONFIDENCE
from detector.core.calibration.crossfit import OwnerInputs
from detector.core.calibration.scan import Screened, Stage, calibrate_screened
from detector.core.calibration.traffic import PlainTraffic, accounts_of, of_one_version, plain_traffic
from detector.core.exposure import VALIDATION_ROWS, Validation
from detector.core.forms import Outputs
from detector.core.owner_model import from_json
from detector.core.pipeline.plan import labels_of
from detector.core.profile import Profile
from detector.groups.calibration import crowd_of
from detector.replay.rings import FoundRing, find_rings
from detector.replay.topics import Topic, source_record
from detector.runtime.sections import KafkaSettings
from detector.runtime.text import read_text
from detector.sources import LogReader, files_of, format_of
from detector.sources.parquet import honest_rows

_SEED = 0
"""Fixes which rows are kept of a validation log that is too long."""
_new_digest = partial(blake2b, digest_size=16)


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

    @property
    def accounts(self) -> int:
        """The number of accounts, over all model versions."""
        return len({name for piece in self.pieces for name in piece.principals})


def read_files(
    paths: Sequence[Path], progress: Callable[[int], None], reader: LogReader | None = None
) -> HonestTraffic:
    """Returns the honest queries in ``paths`` (files, folders of parts or patterns), read by ``reader``. ``progress``
    is called with the number of rows read since. Raises ConfigurationError."""
    traffic, reader = HonestTraffic(), reader or LogReader()
    for path in files_of(paths):
        honest = honest_rows(path)
        for portion in format_of(path).read(path, reader):
            traffic.reasons.update(bad.reason for bad in portion.bad_rows)
            batch = portion.batch
            if batch is not None and honest is not None:
                kept = honest[portion.rows]
                traffic.dishonest += int((~kept).sum())
                batch = take(batch, np.flatnonzero(kept))
            if batch is not None and len(batch):
                traffic.pieces.append(batch)
            progress(len(portion.rows) + len(portion.bad_rows))
        traffic.digests.append(digest_of(path))
    return traffic


def digest_of(path: Path) -> str:
    """Returns 32 hexadecimal digits of the content of the file at ``path``."""
    with path.open("rb") as file:
        return file_digest(file, _new_digest).hexdigest()


def read_topic(settings: KafkaSettings, since: float) -> HonestTraffic:
    """Returns all queries on the queries topic since the time ``since``, seconds UTC. Raises BrokerError."""
    with Topic(settings, settings.topics.queries) as topic:
        records = sorted(topic.until_now(since), key=lambda record: (record.partition, record.offset))
    digest = _new_digest()
    for record in records:
        digest.update(record.value or b"")
    traffic = HonestTraffic(digests=[digest.hexdigest()])
    for packed, neighbours in groupby(map(partial(source_record, "queries"), records), key=attrgetter("packed")):
        run = [*neighbours]
        decode = decode_packed_run if packed else decode_json_run
        decoded = decode([record.value for record in run], [record.timestamp for record in run])
        traffic.reasons.update(bad.reason for _, bad in decoded.bad)
        traffic.pieces += [batch for batch, _, _ in in_log_order(decoded.parts)]
    return traffic


@dataclass(frozen=True, slots=True)
class CalibrationOptions:
    """The options of ``calibrate``. ``leave_out``: names of accounts to exclude. ``outputs``: kind of outputs by model,
    ``*`` for all other models; inferred by default. ``reader``: how to read ``validation``."""

    budget: float
    model: str | None = None
    model_version: str | None = None
    validation: Path | None = None
    owner_model: Path | None = None
    leave_out: Collection[str] = ()
    outputs: Mapping[str, Outputs] = field(default_factory=dict)
    reader: LogReader = field(default_factory=LogReader)


@dataclass(frozen=True, slots=True)
class CalibrationResult:
    """The ``profile``, the calibration behind it, the ``traffic`` used, and the ``rings`` among its accounts, which
    excuse one another."""

    profile: Profile
    screened: Screened
    traffic: PlainTraffic
    rings: list[FoundRing]


def make_profile(
    traffic: HonestTraffic, options: CalibrationOptions, stage: Stage = lambda _: nullcontext(lambda _: None)
) -> CalibrationResult:
    """Returns a profile from honest ``traffic``. ``stage`` is as in ``scan``. Raises ConfigurationError."""
    pieces = of_one_version(traffic.pieces, options.model, options.model_version)
    model = _owner_model(options.owner_model)
    outputs = options.outputs.get(pieces[0].model, options.outputs.get(EVERYONE))
    plain = plain_traffic(pieces, outputs, None if model is None else model.features.names)
    accounts = accounts_of(plain.pieces)
    owned = OwnerInputs(model, _validation(options, plain))
    with stage(len(accounts)) as progress:
        screened = calibrate_screened(accounts, options.budget, options.leave_out, progress, owned)
    kept = [account for account in accounts if account.principals[0] not in options.leave_out]
    rings = find_rings(kept, options.budget, stage)
    given = [path for path in (options.validation, options.owner_model) if path is not None]
    digests = [*traffic.digests, *map(digest_of, given)]
    profile = plain.profile(with_provenance(screened, accounts, options.budget, digests))
    return CalibrationResult(profile, screened, plain, rings)


def with_provenance(screened: Screened, accounts: Sequence[QueryBatch], budget: float, digests: list[str]) -> Profile:
    """Returns the profile of ``screened`` with its provenance, including the ``digests`` of the files, and with how far
    its honest ``accounts`` go together.

    It holds no account names, so that readers of a profile do not learn whose queries it was made from.
    """
    calibration, achieved = screened.calibration, screened.achieved
    reference, long = calibration.profile.reference, calibration.long
    low, high = achieved.interval
    least, most = calibration.threshold_range
    provenance = {
        "code_version": detector.__version__,
        "budget": budget,
        "accounts": len(long),
        "accounts_left_out": len(screened.left_out),
        "accounts_too_short": int((~long).sum()),
        "queries": int(calibration.queries.sum()),
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
    return replace(calibration.profile, provenance=provenance, crowd=crowd_of(calibration, accounts))


def _owner_model(path: Path | None) -> Any:
    if path is None:
        return None
    text = read_text(path, "--model")
    try:
        return from_json(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"--model: {path}: {error}") from error


def _validation(options: CalibrationOptions, honest: PlainTraffic) -> Validation | None:
    """Returns the validation set, or None if no log is given. Keeps random rows of a log that is too long."""
    path = options.validation
    if path is None:
        return None
    rows = [portion.batch for portion in format_of(path).read(path, options.reader) if portion.batch is not None]
    pieces, dimension = (
        [honest.form.plain(piece) for piece in rows if honest.form.accepts(piece)],
        honest.pieces[0].dimension,
    )
    if not pieces or {piece.dimension for piece in pieces} != {dimension}:
        found = sorted({piece.dimension for piece in rows})
        raise ConfigurationError(
            f"--validation: {path} has rows of {found or 'no'} features and the honest logs {dimension}; give "
            "rows in the form that the model is asked in"
        )
    features = np.concatenate([piece.features for piece in pieces])
    labels = np.concatenate([labels_of(piece) for piece in pieces])
    kept = np.sort(np.random.default_rng(_SEED).permutation(len(features))[:VALIDATION_ROWS])
    return Validation.of(features[kept], labels[kept])
