"""The embedding keeps all of a distance, on its axes or beside them, and its outlyingness is the written formula."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.core.arrays import pack, unpack
from detector.core.embedding import AXES, Embedding

Rows = NDArray[np.float32]


def _rows(count: int, dimension: int, seed: int = 0) -> Rows:
    """Of few strong directions, off the origin."""
    generator = np.random.default_rng(seed)
    strong = generator.normal(0, 2, (count, 4)) @ generator.normal(0, 1, (4, dimension))
    return (strong + 0.3 * generator.standard_normal((count, dimension)) + 5).astype(np.float32)


def _inverse_deviation(rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centre, and the inverse of the covariance with a thousandth of the mean variance added to each axis."""
    wide = rows.astype(np.float64)
    covariance = np.cov(wide.T, bias=True)
    ridge = 1e-3 * np.trace(covariance) / rows.shape[1]
    return wide.mean(axis=0), np.linalg.inv(covariance + ridge * np.eye(rows.shape[1]))


@pytest.mark.parametrize(("count", "dimension"), [(200, 6), (200, 32), (150, 90), (10, 90), (2, 3)])
def test_axes_are_the_principal_ones(count: int, dimension: int) -> None:
    rows = _rows(count, dimension)
    embedding = Embedding.fit(rows)
    axes = min(AXES, dimension, count)
    assert embedding.axes.shape == (dimension, axes) and embedding.dimension == dimension
    np.testing.assert_allclose(embedding.axes.T @ embedding.axes, np.eye(axes), atol=1e-9)
    covariance = np.cov(rows.astype(np.float64).T, bias=True)
    total = np.trace(covariance)
    largest = np.linalg.eigvalsh(covariance)[::-1][:axes]
    ridge = 1e-3 * total / dimension
    np.testing.assert_allclose(embedding.variance, largest + ridge, rtol=1e-6, atol=1e-6 * total)
    assert embedding.variance_beside == pytest.approx(max(total - largest.sum(), ridge), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("dimension", [6, 90])
def test_a_place_loses_nothing_of_the_distance_to_the_centre(dimension: int) -> None:
    rows = _rows(200, dimension)
    embedding, asked = Embedding.fit(rows), _rows(50, dimension, seed=1)
    placed = embedding.place(asked)
    along = ((asked - embedding.centre) @ embedding.axes).astype(np.float32)
    np.testing.assert_allclose(placed.points, along, rtol=1e-5, atol=1e-5)
    whole = ((asked - embedding.centre) ** 2).sum(axis=1)
    np.testing.assert_allclose((placed.points.astype(float) ** 2).sum(axis=1) + placed.beside**2, whole, rtol=1e-5)
    assert (placed.beside > 1.0).all() == (dimension > AXES)


def test_a_row_lies_where_it_would_alone() -> None:
    rows = _rows(400, 90)
    embedding = Embedding.fit(rows)
    together = embedding.place(rows)
    for at in (0, 7, 399):
        alone = embedding.place(rows[at : at + 1])
        np.testing.assert_allclose(alone.points[0], together.points[at], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(alone.beside[0], together.beside[at], rtol=1e-6, atol=1e-6)


def test_outlyingness_is_the_mahalanobis_distance_a_feature() -> None:
    rows = _rows(300, 12)
    centre, inverse = _inverse_deviation(rows)
    embedding, asked = Embedding.fit(rows), _rows(30, 12, seed=2)
    wanted = [log((row - centre) @ inverse @ (row - centre) / 12) for row in asked.astype(np.float64)]
    np.testing.assert_allclose(embedding.outlyingness(embedding.place(asked)), wanted, rtol=1e-4, atol=1e-4)


def test_what_lies_off_the_axes_weighs_half_as_much_as_all_axes() -> None:
    rows = _rows(300, 90)
    embedding, asked = Embedding.fit(rows), _rows(30, 90, seed=3)
    placed = embedding.place(asked)
    wanted = []
    for point, beside in zip(placed.points.astype(np.float64), placed.beside.tolist(), strict=True):
        along = sum(point[axis] ** 2 / embedding.variance[axis] for axis in range(AXES))
        wanted.append(log((along + AXES / 2 * beside**2 / embedding.variance_beside) / 90))
    np.testing.assert_allclose(embedding.outlyingness(placed), wanted, rtol=1e-9)


def test_the_farther_off_the_more_outlying_even_where_honest_rows_never_vary() -> None:
    rows = _rows(100, 8)
    rows[:, 3] = 2.0
    embedding = Embedding.fit(rows)
    steps = np.repeat(rows[:1], 5, axis=0)
    steps[:, 3] += np.arange(5, dtype=np.float32)
    assert (np.diff(embedding.outlyingness(embedding.place(steps))) > 0.1).all()


@pytest.mark.parametrize("count", [1, 5])
def test_rows_all_alike_are_no_obstacle(count: int) -> None:
    rows = np.full((count, 7), 3.0, np.float32)
    embedding = Embedding.fit(rows)
    said = embedding.outlyingness(embedding.place(np.concatenate((rows[:1], rows[:1] + 1))))
    assert np.isfinite(said).all() and said[1] > said[0]


def test_its_record_brings_it_back() -> None:
    embedding = Embedding.fit(_rows(60, 40))
    back = Embedding.from_record(unpack(pack(embedding.to_record())))
    asked = _rows(9, 40, seed=4)
    np.testing.assert_array_equal(back.place(asked).points, embedding.place(asked).points)
    np.testing.assert_array_equal(back.outlyingness(back.place(asked)), embedding.outlyingness(embedding.place(asked)))
