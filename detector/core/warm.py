"""Calls every compiled loop once, with the types of real traffic, so that later calls find it compiled."""

from __future__ import annotations

import numpy as np

from detector.contracts.batches import cut
from detector.contracts.queries import QueryBatch
from detector.core.arrays import Array
from detector.core.batch import MicroBatch
from detector.core.configuration import EngineConfig, EngineMode
from detector.core.engine import Engine, observe_together
from detector.core.profile import Profile
from detector.core.reference import Honest, Reference
from detector.core.scoring import CHANGE
from detector.core.signals import MEASURES, WEIGHED
from detector.core.standards import Spread, Standards

_COLUMNS = (*MEASURES, *WEIGHED, CHANGE)
_MODEL, _VERSION = "warm", "1"
_ROWS, _FEATURES, _CLASSES = 96, 4, 3


def warm_all() -> None:
    """Calls the loops of every kind of engine."""
    warm_for("default", has_profile=False)
    warm_for("default", has_profile=True)
    warm_for("compatible", has_profile=False)


def warm_for(mode: EngineMode, *, has_profile: bool) -> None:
    """Calls the loops of an engine: takes made-up queries through it, and its state through a log, a dump and
    removal."""
    queries = _queries()
    profiles = (_profile(queries),) if has_profile else ()
    _exercise(Engine(EngineConfig(mode=mode, profiles=profiles)), queries)


def _exercise(engine: Engine, queries: QueryBatch) -> None:
    twin, successor = engine.sibling(), Engine(engine.config)
    for at in range(0, _ROWS, _ROWS // 3):
        batch = MicroBatch((cut(queries, at, at + _ROWS // 3),))
        for observation in observe_together([(engine, batch), (twin, batch)]):
            successor.absorb(observation.sections)
    successor.load(engine.dump(engine.keys()))
    successor.clear(_MODEL, queries.principals[0])
    successor.close()


def _queries() -> QueryBatch:
    """Returns queries of two principals, some of them repeats and near repeats."""
    features = np.random.default_rng(0).random((_ROWS, _FEATURES), dtype=np.float32)
    features[20:24] = features[10:14]
    features[30:34] = features[10:14] + np.float32(1e-3)
    return QueryBatch(
        model=_MODEL,
        model_version=_VERSION,
        output_kind="probabilities",
        event_ids=[str(number) for number in range(_ROWS)],
        occurred_at=np.arange(_ROWS, dtype=np.float64),
        principals=["one", "two"],
        principal_index=(np.arange(_ROWS) % 2).astype(np.int32),
        features=features,
        outputs=_outputs(features),
    )


def _outputs(features: Array) -> Array:
    """Returns probabilities float32 (n, c)."""
    weights = np.exp(features[:, :_CLASSES])
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def _profile(queries: QueryBatch) -> Profile:
    """Returns a profile with the rows of ``queries`` as honest ones, and one ordinary account."""
    ones = np.ones(len(_COLUMNS))
    standards = Standards(_COLUMNS, Spread(0 * ones, ones, ones), np.zeros((1, len(_COLUMNS))), 1.0)
    honest = Honest(queries.features, queries.outputs)
    return Profile(_MODEL, _VERSION, Reference.of([honest], "probabilities"), standards)
