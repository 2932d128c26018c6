"""What an engine hands over of the rows that a profile with a crowd judged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from detector.contracts.batches import cut
from detector.contracts.queries import QueryBatch
from detector.core.engine import Engine, EngineConfig, Observation, observe_together
from detector.core.pipeline.plan import labels_of
from detector.core.profile import Profile
from detector.core.reference.reference import ReferenceIndex
from detector.core.warm import made_up_profiles, made_up_queries

QUERIES = made_up_queries()
PROFILE: Profile = made_up_profiles(QUERIES)[1]
CONFIG = EngineConfig(profiles=(PROFILE,))


def test_rows_have_what_the_reference_says_of_them_and_their_number() -> None:
    (profiled,) = Engine(CONFIG).observe([QUERIES]).profiled
    index = ReferenceIndex(PROFILE.reference)
    scaled = index.scaled(QUERIES.features)
    projection = PROFILE.reference.embedding.project(scaled)
    assert profiled.row.tolist() == list(range(len(QUERIES)))
    np.testing.assert_array_equal(profiled.features, scaled)
    np.testing.assert_array_equal(profiled.points, projection.points)
    np.testing.assert_array_equal(profiled.cells, index.nearest(projection).cells)
    np.testing.assert_array_equal(profiled.label, labels_of(QUERIES))
    assert profiled.repeats.any()
    sent = [0, 0]
    for row, who in enumerate(QUERIES.principal_index.tolist()):
        assert profiled.number[row] == sent[who]
        sent[who] += not profiled.repeats[row]


def test_any_cut_and_any_sibling_gives_the_same() -> None:
    whole = Engine(CONFIG).observe([QUERIES])
    one = Engine(CONFIG)
    other = one.sibling()
    parts: list[Observation] = []
    for start in range(0, len(QUERIES), 77):
        piece = cut(QUERIES, start, min(start + 77, len(QUERIES)))
        parts += observe_together([(one, [_renamed(piece)]), (other, [piece])])
    for own in (parts[::2], parts[1::2]):
        assert sum(len(part.row) for piece in own for part in piece.profiled) == len(QUERIES)
        for name in ("number", "repeats", "label", "features", "points", "residual", "cells"):
            joined = np.concatenate([getattr(part, name) for piece in own for part in piece.profiled])
            np.testing.assert_array_equal(joined, getattr(whole.profiled[0], name))


def test_without_a_crowd_nothing_is_handed_over() -> None:
    bare = replace(PROFILE, crowd=None)
    assert Engine(EngineConfig(profiles=(bare,))).observe([QUERIES]).profiled == []


def _renamed(piece: QueryBatch) -> QueryBatch:
    return replace(piece, principals=[f"{name}-again" for name in piece.principals])
