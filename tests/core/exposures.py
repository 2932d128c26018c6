"""What tests of the exposure meters share: an owner's tree, its validation set, profiles, and queries to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import QueryBatch
from detector.core.engine import Engine, EngineConfig, Limits
from detector.core.exposure import Validation
from detector.core.owner_model import OwnerModel, Tree
from detector.core.owner_model.models import Features
from detector.core.profile import Profile
from detector.core.signals import prada
from detector.core.signals.meters import Coverage, EffectiveQueries, InformationGain
from tests.core import profiles
from tests.core.streams import batch

REGISTRY: dict[str, Any] = {
    "prada": prada,
    "information_gain": InformationGain,
    "coverage": Coverage,
    "effective_queries": EffectiveQueries,
}
DIMENSION = 6


@dataclass(frozen=True)
class Queries:
    """Rows with the answers of the owner's tree."""

    features: NDArray[np.float32]
    labels: NDArray[np.int64]


@cache
def tree() -> Tree:
    """Asks for the first four of six features, five times; its six leaves say three things."""
    feature = np.array([0, 1, 2, -1, -1, 3, -1, -1, 0, -1, -1], np.int32)
    threshold = np.array([0.5, 0.3, 0.6, 0, 0, 0.5, 0, 0, 0.8, 0, 0], np.float64)
    children = np.full((11, 2), -1, np.int32)
    children[[0, 1, 2, 5, 8]] = [(1, 8), (2, 5), (3, 4), (6, 7), (9, 10)]
    values = np.eye(3)[[0, 1, 2, 0, 1, 2]]
    return Tree(Features.unnamed(DIMENSION), feature, threshold, children, values)


def asked(seed: int, count: int, *, spread: float = 1.0) -> Queries:
    """Uniform queries, some of them asked before; with a small ``spread`` about one corner of the space."""
    rng = np.random.default_rng(seed)
    features = (spread * rng.random((count, DIMENSION))).astype(np.float32)
    for at in np.flatnonzero(rng.random(count) < 0.1).tolist():
        features[at] = features[max(at - 3, 0)]
    return Queries(features, tree().outputs(features).argmax(1))


@cache
def validation(seed: int = 1, count: int = 300) -> Validation:
    rows = asked(seed, count)
    return Validation.of(rows.features, rows.labels)


@cache
def _plain() -> Profile:
    return profiles.profile(asked(2, 60).features)


def profile(own: Validation | None = None, model: OwnerModel | None = None) -> Profile:
    """One that accuses nobody."""
    return replace(_plain(), owner_model=model, validation=own or validation())


def engine(own: Profile | None = None, limits: Limits | None = None) -> Engine:
    return Engine(EngineConfig(limits=limits or Limits(), profiles=() if own is None else (own,)), REGISTRY)


def stream(queries: Queries, who: Sequence[str], **optional: Any) -> QueryBatch:
    return batch(queries.features, who, outputs=queries.labels[:, None].astype(np.float32), **optional)


def interleaved(seed: int, count: int, people: int) -> QueryBatch:
    """Queries of ``people`` principals in turns of random length."""
    rng = np.random.default_rng(seed)
    who = np.repeat(rng.integers(0, people, count), rng.integers(1, 4, count))[:count]
    return stream(asked(seed, count), [f"p{number}" for number in who])
