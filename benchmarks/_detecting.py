"""What detection benchmarks share: accounts, verdicts on them, and whether content could tell them apart at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from detector.contracts.batches import take
from detector.contracts.queries import QueryBatch
from detector.core.engine import Engine, EngineConfig
from detector.core.profile import Profile

MODEL = ("m", "1")
_BATCH = 256
_SAMPLE = 400
_FOLDS = 4

Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Account:
    """``queries`` of one principal, and what ``kind`` of user it is."""

    name: str
    kind: str
    queries: QueryBatch


@dataclass(frozen=True, slots=True)
class Verdict:
    """``first``: the query, counted from 1, at which the account became a suspect, or None. ``most``: its largest
    score over the threshold's. ``evidence``: what added most at the verdict."""

    first: int | None
    most: float
    evidence: tuple[str, ...] = ()


def account(name: str, kind: str, features: Rows, outputs: NDArray[np.floating]) -> Account:
    """Of ``features`` (n, d), NaN where left out, and probabilities ``outputs`` (n, k), in order."""
    count = len(features)
    absent = np.isnan(features)
    known = np.where(absent, np.float32(0), features).astype(np.float32)
    ids, nobody = [""] * count, np.zeros(count, np.int32)
    batch = QueryBatch(
        *MODEL,
        output_kind="probabilities",
        event_ids=ids,
        occurred_at=np.arange(count, dtype=np.float64),
        principals=[name],
        principal_index=nobody,
        features=known,
        outputs=outputs.astype(np.float32),
        missing=absent if absent.any() else None,
    )
    return Account(name, kind, batch)


def judge(own: Account, profile: Profile | None) -> Verdict:
    """``own`` alone before an engine, with ``profile`` or at the defaults, where only `prada` speaks."""
    engine = Engine(EngineConfig(profiles=(profile,) if profile else ()))
    first, most = None, 0.0
    evidence: tuple[str, ...] = ()
    borders = [*range(0, len(own.queries), _BATCH), len(own.queries)]
    for start, end in pairwise(borders):
        seen = engine.observe([take(own.queries, np.arange(start, end))])
        most = max(most, float(np.nanmax(seen.score, initial=0.0)))
        if first is None and seen.findings:
            first = start + seen.findings[0].row + 1
            evidence = tuple(item.name for item in seen.findings[0].evidence[1:4])
    return Verdict(first, most, evidence)


def told_apart(own: Account, honest: Sequence[Account], rng: np.random.Generator) -> float:
    """How often a classifier says rightly which of two queries, one of ``own`` and one honest, is which (area under
    the curve, 0.5 is chance): features and outputs, gradient boosting, cross-validated (Lopez-Paz and Oquab 2017)."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import cross_val_predict

    samples = [_sample([own], rng), _sample(honest, rng)]
    least = min(len(sample) for sample in samples)
    rows = np.concatenate([sample[:least] for sample in samples])
    labels = np.repeat([1, 0], least)
    model = HistGradientBoostingClassifier(max_iter=60, random_state=0)
    said = cross_val_predict(model, rows, labels, cv=_FOLDS, method="predict_proba")[:, 1]
    return float(roc_auc_score(labels, said))


def _sample(accounts: Sequence[Account], rng: np.random.Generator) -> Rows:
    """Distinct queries with their answers, each account in equal shares, in random order."""
    share = max(_SAMPLE // len(accounts), 1)
    parts = []
    for account in accounts:
        rows = np.unique(np.concatenate((account.queries.features, account.queries.outputs), axis=1), axis=0)
        parts.append(rng.permutation(rows)[:share])
    return np.asarray(rng.permutation(np.concatenate(parts)), np.float32)
