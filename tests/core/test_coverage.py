"""``coverage`` follows sets of visited cells; cuts, restarts and merging change nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detector.contracts.errors import ConfigurationError
from detector.contracts.queries import QueryBatch
from detector.core.engine import EngineConfig, Limits
from detector.core.exposure import Validation
from detector.core.owner_model import OwnerModel, Tree
from detector.core.owner_model.models import Features
from detector.core.signals.meters import Coverage
from tests.core import profiles
from tests.core.exposures import asked, engine, interleaved, profile, stream, tree, validation
from tests.core.streams import batch, observe

NAME = "coverage"
CUTS = [1, 2, 30, 31, 150, 400]
EVERY = pytest.mark.parametrize("model", [tree(), None], ids=["leaves", "cells"])


def _cells(rows: np.ndarray, model: OwnerModel | None) -> list[int]:
    """The leaf by following the tree node by node; or the nearest centre by trying all."""
    own = validation()
    if isinstance(model, Tree):
        return [_leaf(model, row) for row in rows.tolist()]
    sketches = own.levels.sketch(rows[:, own.levels.columns]).astype(int)
    return [int(((own.cells.centres - sketch) ** 2).sum(1).argmin()) for sketch in sketches]


def _leaf(model: Tree, row: list[float]) -> int:
    node = 0
    while model.feature[node] >= 0:
        node = int(model.children[node, int(row[model.feature[node]] > model.threshold[node])])
    return node


def _obvious(piece: QueryBatch, model: OwnerModel | None) -> list[float]:
    rows = _cells(validation().features, model)
    visits: dict[int, set[int]] = {}
    out = []
    for cell, who in zip(_cells(piece.features, model), piece.principal_index.tolist(), strict=True):
        visits.setdefault(who, set()).add(cell)
        out.append(100 * sum(rows.count(visit) for visit in visits[who]) / len(rows))
    return out


@EVERY
def test_it_says_what_sets_say(model: OwnerModel | None) -> None:
    piece = interleaved(31, 300, 4)
    seen = observe(engine(profile(model=model)), [piece], CUTS[:-1])
    np.testing.assert_allclose(seen.signals[NAME], _obvious(piece, model), rtol=1e-12)
    assert seen.signals[NAME].min() < 25 and seen.signals[NAME].max() > 60


@EVERY
@pytest.mark.parametrize("limits", [Limits(), Limits(history_queries=20), Limits(principals=4)])
def test_any_cut_gives_the_same(model: OwnerModel | None, limits: Limits) -> None:
    piece, own = interleaved(32, 600, 6), profile(model=model)
    whole = observe(engine(own, limits), [piece])
    whole.assert_equals(observe(engine(own, limits), [piece], CUTS))


@EVERY
def test_log_and_dump_bring_it_back(model: OwnerModel | None) -> None:
    own = profile(model=model)
    live, absorbed, loaded = engine(own), engine(own), engine(own)
    for sections in observe(live, [interleaved(33, 90, 5)], [7, 45]).sections:
        absorbed.absorb(sections)
    for key in live.keys():
        loaded.load(live.dump([key]))
    later = interleaved(34, 90, 5)
    seen = observe(live, [later], [50])
    seen.assert_equals(observe(absorbed, [later]))
    seen.assert_equals(observe(loaded, [later]))


def test_it_accuses_nobody_and_is_silent_without_a_validation_set() -> None:
    piece = interleaved(35, 300, 2)
    seen, plain = observe(engine(profile(model=tree())), [piece]), observe(engine(), [piece])
    assert seen.signals[NAME][-1] == 100.0
    assert not seen.flagged.any() and not seen.findings
    assert np.isnan(plain.signals[NAME]).all()


def _columns(piece: QueryBatch) -> np.ndarray:
    """Returns the results for ``piece`` with all its optional columns."""
    return engine(profile(model=tree())).observe([piece]).signals[NAME]


def test_the_leaf_is_computed_and_not_taken_from_the_log() -> None:
    rows = asked(36, 40)
    forged = stream(rows, ["ann"] * 40, leaf=np.full(40, 3, np.int64))
    seen = _columns(forged)
    np.testing.assert_array_equal(
        seen, observe(engine(profile(model=tree())), [stream(rows, ["ann"] * 40)]).signals[NAME]
    )
    assert seen[-1] > 80


def test_a_query_that_leaves_out_what_its_path_asks_for_reaches_no_leaf() -> None:
    features = np.full((3, 6), 0.9, np.float32)
    missing = np.zeros((3, 6), bool)
    missing[0, 0] = True  # asked for at the root
    missing[1, 1] = True  # asked for on another path
    piece = batch(features, ["ann", "bob", "cid"], missing=missing)
    seen = _columns(piece)
    assert seen[0] == 0.0 < seen[1] == seen[2]


def test_another_tree_begins_anew() -> None:
    other = replace(tree(), values=tree().values + 1)
    live, recovered = engine(profile(model=tree())), engine(profile(model=other))
    for sections in observe(live, [stream(asked(37, 90), ["ann"] * 90)]).sections:
        recovered.absorb(sections)
    later = stream(asked(38, 30), ["ann"] * 30)
    assert observe(live, [later]).signals[NAME][0] == 100.0
    fresh = observe(engine(profile(model=other)), [later]).signals[NAME]
    np.testing.assert_array_equal(observe(recovered, [later], [1, 2, 9]).signals[NAME], fresh)
    assert fresh[0] < 50 and fresh[-1] > 90


def test_a_tree_of_other_features_is_refused() -> None:
    narrow = Tree(
        Features.unnamed(2), np.array([-1], np.int32), np.zeros(1), np.full((1, 2), -1, np.int32), np.ones((1, 1))
    )
    with pytest.raises(ConfigurationError, match="has 2 features and the validation set 6"):
        engine(profile(model=narrow))


def test_only_features_that_vary_are_looked_at() -> None:
    piece = interleaved(44, 60, 2)
    own, rows = validation(), asked(2, 60).features
    wide = replace(profiles.profile(_behind(rows)), validation=Validation.of(_behind(own.features), own.labels))
    seen = engine(wide).observe([replace(piece, features=_behind(piece.features))]).signals[NAME]
    np.testing.assert_array_equal(seen, observe(engine(profile()), [piece]).signals[NAME])


def _behind(rows: np.ndarray) -> np.ndarray:
    """``rows`` behind four features that never change."""
    return np.concatenate((np.ones((len(rows), 4), np.float32), rows), axis=1)


def test_evicted_ones_are_forgotten_and_state_stays_small() -> None:
    live = engine(profile(model=tree()))
    observe(live, [interleaved(39, 400, 3)])
    live.clear("credit", "p1")
    assert observe(live, [stream(asked(40, 1), ["p1"])]).signals[NAME][0] < 50
    assert Coverage(EngineConfig()).nbytes(np.arange(3)) == 3 * 272
