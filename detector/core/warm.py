"""Calls every compiled loop once, with the types of real traffic, so that later calls find it compiled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.contracts.batches import cut
from detector.contracts.queries import QueryBatch
from detector.core.configuration import EngineConfig, EngineMode
from detector.core.engine import Engine, observe_together
from detector.core.exposure import FEATURES, THRESHOLDS, Cells, QuantileLevels, Validation
from detector.core.measures import MEASURES
from detector.core.owner_model import Features, Tree
from detector.core.owner_model.margins import Margins
from detector.core.profile import Profile
from detector.core.reference.reference import HonestQueries, Reference
from detector.core.reference.standards import EARLY, VOLUMES, Crowd, Spread, Standards
from detector.core.signals import WEIGHED
from detector.core.signals.suspicion import FOLLOWING
from detector.core.state.arrays import Array

_COLUMNS = (*MEASURES, *WEIGHED, *FOLLOWING)
_MODEL, _VERSION = "warm", "1"
_ROWS, _FEATURES, _CLASSES, _LINKS = 600, 32, 3, 3


def warm_all() -> None:
    """Calls the loops of every kind of engine."""
    warm_for("default", has_profile=False)
    warm_for("default", has_profile=True)
    warm_for("compatible", has_profile=False)


def warm_for(mode: EngineMode, *, has_profile: bool) -> None:
    """Calls the loops of an engine: takes made-up queries through it, and its state through a log, a dump and
    removal."""
    queries = made_up_queries()
    for profile in made_up_profiles(queries) if has_profile else [None]:
        profiles = () if profile is None else (profile,)
        _exercise(Engine(EngineConfig(mode=mode, profiles=profiles)), queries)


def _exercise(engine: Engine, queries: QueryBatch) -> None:
    twin, successor = engine.sibling(), Engine(engine.config)
    for at in range(0, _ROWS, _ROWS // 3):
        batch = [cut(queries, at, at + _ROWS // 3)]
        for observation in observe_together([(engine, batch), (twin, batch)]):
            successor.absorb(observation.sections)
    successor.load(engine.dump(engine.keys()))
    successor.clear(_MODEL, queries.principals[0])
    successor.close()


def made_up_queries() -> QueryBatch:
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


def made_up_profiles(queries: QueryBatch) -> list[Profile]:
    """Returns profiles with the rows of ``queries`` as honest ones, one ordinary account and a crowd of four, and
    margins and a validation set: one of a tree, one of an unknown model."""
    unit = np.ones(len(_COLUMNS))
    standards = Standards(_COLUMNS, Spread(0 * unit, unit, unit), np.zeros((1, len(_COLUMNS))), 1.0)
    reference = Reference.of([HonestQueries(queries.features, queries.outputs)], "probabilities")
    validation = _validation(queries.features)
    return [
        Profile(
            _MODEL,
            _VERSION,
            reference,
            standards,
            model,
            Margins.of(model, queries.features, queries.outputs),
            validation,
            crowd=_crowd(),
        )
        for model in (_tree(), None)
    ]


def _crowd() -> Crowd:
    """Returns a crowd that reached nothing."""
    count, unit = 4, np.ones(_LINKS)
    nothing = np.zeros((EARLY, count, len(_COLUMNS) + _LINKS))
    reached = np.zeros((len(VOLUMES), count))
    return Crowd(
        reached, nothing, reached[:EARLY], Spread(0 * unit, unit, unit), np.zeros((count, _LINKS)), ("",) * _LINKS
    )


def _tree() -> Tree:
    """Returns a tree with one test."""
    feature, threshold = np.array([0, -1, -1], np.int32), np.array([0.5, 0.0, 0.0])
    children = np.array([[1, 2], [-1, -1], [-1, -1]], np.int32)
    return Tree(Features.unnamed(_FEATURES), feature, threshold, children, np.eye(2))


def _validation(features: NDArray[np.float32]) -> Validation:
    """Returns a set with one label, which no meter fits a tree to, and one cell."""
    thresholds = np.full((1, THRESHOLDS), np.inf, np.float32)
    thresholds[0, 0] = 0.5
    cells = Cells(np.zeros((1, FEATURES), np.float32), np.array([len(features)]))
    return Validation(features, np.zeros(len(features), np.int64), QuantileLevels(np.array([0]), thresholds), cells)
