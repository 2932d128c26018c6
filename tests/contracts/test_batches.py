from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.contracts.batches import concatenate, cut, take
from detector.contracts.queries import QueryBatch
from tests.contracts.batches import assert_same_rows, loose_columns, make_batch, optional_columns, principals_of


def _rows(pieces: Sequence[QueryBatch]) -> list[tuple[str, str, int, str]]:
    return [
        (piece.model, principal, piece.dimension, event)
        for piece in pieces
        for principal, event in zip(principals_of(piece), piece.event_ids, strict=True)
    ]


def test_pieces_of_one_batch_join_to_it() -> None:
    batch = make_batch(rows=20, **optional_columns(20, 4), **loose_columns(20, 4, 3))
    pieces = [take(batch, np.arange(start, min(start + 3, 20))) for start in range(0, 20, 3)]
    (joined,) = concatenate(pieces)
    assert_same_rows(joined, batch)


def test_a_batch_alone_is_passed_on_as_it_is() -> None:
    batch = make_batch()
    assert next(concatenate([batch])) is batch


def test_principals_of_joined_pieces_stand_once() -> None:
    (joined,) = concatenate([make_batch(seed=1), make_batch(seed=2, principals=["bo", "dag", "ana"])])
    assert sorted(joined.principals) == ["ana", "bo", "dag", "çelik"]


def test_pieces_of_different_shape_are_not_joined() -> None:
    pieces = [
        make_batch(),
        make_batch(model="faces"),
        make_batch(model_version="4"),
        make_batch(dimension=5),
        make_batch(classes=2),
        make_batch(output_kind="score"),
        make_batch(hardness=np.zeros(5, dtype=np.float32)),
        make_batch(feature_names=("a", "b", "c", "d")),
        make_batch(feature_names=("a", "b", "d", "c")),
        make_batch(dimension=2, feature_names=("a", "b", "c", "d"), texts=np.full((5, 2), "x", dtype=object)),
    ]
    assert list(concatenate(pieces)) == pieces


def test_pieces_with_and_without_missing_features_are_joined() -> None:
    masked = make_batch(seed=2, missing=np.eye(5, 4, dtype=np.bool_))
    (joined,) = concatenate([make_batch(seed=1), masked, make_batch(seed=3)])
    assert joined.missing is not None
    assert np.flatnonzero(joined.missing.any(axis=1)).tolist() == [5, 6, 7, 8]


def test_a_cut_keeps_rows_and_columns() -> None:
    batch = make_batch(rows=9, **optional_columns(9, 4))
    assert_same_rows(cut(batch, 2, 7), take(batch, np.arange(2, 7)))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(2, 3)), max_size=8))
def test_joining_keeps_every_row_in_order(shapes: list[tuple[int, int]]) -> None:
    pieces = [make_batch(rows=rows, dimension=size, seed=seed) for seed, (rows, size) in enumerate(shapes)]
    assert _rows(list(concatenate(pieces))) == _rows(pieces)


def test_joined_cuts_name_only_the_principals_of_their_rows() -> None:
    batch = make_batch(rows=3, principal_index=np.array([2, 0, 2], dtype=np.int32))
    (joined,) = concatenate([cut(batch, 0, 1), cut(batch, 2, 3)])
    assert joined.principals == ["çelik"]
