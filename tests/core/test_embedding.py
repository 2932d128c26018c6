"""The embedding keeps all of a distance, on its axes or beside them, and tells the Mahalanobis distance."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.core.reference.projection import AXES, DIRECTIONS, EXACT, Embedding
from detector.core.state.arrays import pack, unpack

Rows = NDArray[np.float32]


def _rows(count: int, dimension: int, seed: int = 0) -> Rows:
    """Of few strong directions, off the origin."""
    generator = np.random.default_rng(seed)
    strong = generator.normal(0, 2, (count, 4)) @ generator.normal(0, 1, (4, dimension))
    return (strong + 0.3 * generator.standard_normal((count, dimension)) + 5).astype(np.float32)


def _mahalanobis(rows: Rows, asked: Rows) -> NDArray[np.float64]:
    """The squared distance a feature, by the inverse of the covariance with a hundred thousandth of the mean variance
    added to each feature."""
    wide = rows.astype(np.float64)
    covariance = np.atleast_2d(np.cov(wide.T, bias=True))
    dimension = rows.shape[1]
    inverse = np.linalg.inv(covariance + 1e-5 * np.trace(covariance) / dimension * np.eye(dimension))
    gaps = asked - wide.mean(axis=0)
    return np.array([gap @ inverse @ gap / dimension for gap in gaps])


@pytest.mark.parametrize(("count", "dimension"), [(200, 6), (200, 32), (150, 90), (10, 90), (2, 3)])
def test_axes_are_the_principal_ones(count: int, dimension: int) -> None:
    rows = _rows(count, dimension)
    embedding = Embedding.fit(rows)
    axes = min(AXES, dimension, count)
    assert embedding.axes.shape == (dimension, axes) and embedding.dimension == dimension
    np.testing.assert_allclose(embedding.axes.T @ embedding.axes, np.eye(axes), atol=1e-9)
    covariance = np.cov(rows.astype(np.float64).T, bias=True)
    along = np.diag(embedding.axes.T @ covariance @ embedding.axes)
    np.testing.assert_allclose(along, np.linalg.eigvalsh(covariance)[::-1][:axes], atol=1e-9 * np.trace(covariance))


@pytest.mark.parametrize("dimension", [6, 90])
def test_a_place_loses_nothing_of_the_distance_to_the_centre(dimension: int) -> None:
    rows = _rows(200, dimension)
    embedding, asked = Embedding.fit(rows), _rows(50, dimension, seed=1)
    projection = embedding.project(asked)
    along = ((asked - embedding.centre) @ embedding.axes).astype(np.float32)
    np.testing.assert_allclose(projection.points, along, rtol=1e-5, atol=1e-5)
    whole = ((asked - embedding.centre) ** 2).sum(axis=1)
    squares = (projection.points.astype(float) ** 2).sum(axis=1)
    np.testing.assert_allclose(squares + projection.residual**2, whole, rtol=1e-5)
    assert (projection.residual > 1.0).all() == (dimension > AXES)


def test_a_row_lies_where_it_would_alone() -> None:
    rows = _rows(400, 90)
    embedding = Embedding.fit(rows)
    together = embedding.project(rows)
    for at in (0, 7, 399):
        alone = embedding.project(rows[at : at + 1])
        for name in ("points", "residual", "mahalanobis"):
            assert getattr(alone, name)[0].tolist() == getattr(together, name)[at].tolist()


@pytest.mark.parametrize(("count", "dimension"), [(300, 12), (300, EXACT), (40, EXACT), (10, 1)])
def test_of_few_features_what_is_unusual_is_the_mahalanobis_distance(count: int, dimension: int) -> None:
    rows, asked = _rows(count, dimension), _rows(30, dimension, seed=2)
    said = Embedding.fit(rows).project(asked).mahalanobis
    np.testing.assert_allclose(said, _mahalanobis(rows, asked), rtol=1e-5)


@pytest.mark.parametrize("count", [40, 400])
def test_of_many_features_random_directions_stand_for_all(count: int) -> None:
    """A share of a chi-squared variable of this many degrees: within 3.5 of its deviations, and right on average."""
    rows, asked = _rows(count, 90), _rows(200, 90, seed=3)
    asked[:100] += np.random.default_rng(4).normal(0, 9, (100, 90)).astype(np.float32)
    embedding = Embedding.fit(rows)
    assert embedding.whitening.shape == (90, DIRECTIONS)
    share = embedding.project(asked).mahalanobis / _mahalanobis(rows, asked)
    deviation = np.sqrt(2 / DIRECTIONS)
    assert (np.abs(share - 1) < 3.5 * deviation).all()
    assert abs(share.mean() - 1) < deviation


def test_the_directions_are_drawn_by_the_rows_alone() -> None:
    rows = _rows(50, 90)
    one, same = Embedding.fit(rows), Embedding.fit(rows.copy())
    np.testing.assert_array_equal(one.whitening, same.whitening)
    rows[0, 0] += 1e-3
    gap = np.abs(Embedding.fit(rows).whitening - one.whitening)
    assert np.median(gap) > 0.1 * np.abs(one.whitening).mean()


@pytest.mark.parametrize("dimension", [8, 90])
def test_the_farther_off_the_more_unusual_even_where_honest_rows_never_vary(dimension: int) -> None:
    rows = _rows(100, dimension)
    rows[:, 3] = 2.0
    embedding = Embedding.fit(rows)
    steps = np.repeat(rows[:1], 5, axis=0)
    steps[:, 3] += np.arange(5, dtype=np.float32)
    assert (np.diff(np.log(embedding.project(steps).mahalanobis)) > 0.1).all()


@pytest.mark.parametrize("count", [1, 5])
def test_rows_all_alike_are_no_obstacle(count: int) -> None:
    rows = np.full((count, 7), 3.0, np.float32)
    embedding = Embedding.fit(rows)
    said = embedding.project(np.concatenate((rows[:1], rows[:1] + 1))).mahalanobis
    assert np.isfinite(said).all() and said[1] > said[0]


def test_its_record_brings_it_back() -> None:
    embedding = Embedding.fit(_rows(60, 40))
    back = Embedding(**unpack(pack(embedding)))
    asked = _rows(9, 40, seed=4)
    np.testing.assert_array_equal(back.project(asked).points, embedding.project(asked).points)
    np.testing.assert_array_equal(back.project(asked).mahalanobis, embedding.project(asked).mahalanobis)
