"""The same queries, whatever program wrote them, are read as the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detector.contracts.batches import concatenate
from detector.contracts.queries import QueryBatch
from detector.sources import FORMATS, LogReader, files_of, format_of
from detector.sources.files import suffix_of
from detector.sources.mapping import parse_map
from tests.contracts.batches import assert_same_rows
from tests.sources.flavours import FLAVOURS, ROWS, Flavour, named, plain


def _read(flavour: Flavour, folder: Path) -> tuple[QueryBatch, list[str]]:
    lines: list[str] = []
    reading = LogReader(parse_map([flavour.map]), lines.append)
    portions = [
        portion for path in files_of([flavour.write(folder)]) for portion in format_of(path).read(path, reading)
    ]
    assert [bad for portion in portions for bad in portion.bad_rows] == []
    found = [portion.batch for portion in portions if portion.batch is not None]
    batches = list(concatenate(_as_numbered(batch) for batch in found))
    assert len(batches) == 1
    return batches[0], lines


def _as_numbered(batch: QueryBatch) -> QueryBatch:
    """With a mask even where nothing is missing, as where batches are joined."""
    return replace(batch, missing=np.zeros(batch.features.shape, np.bool_)) if batch.missing is None else batch


@pytest.mark.parametrize("name", FLAVOURS)
def test_the_same_queries_are_read(name: str, tmp_path: Path) -> None:
    flavour = FLAVOURS[name]
    found, told = _read(flavour, tmp_path)
    assert_same_rows(found, named() if flavour.is_named else plain())
    assert all("took as features" in line for line in told)


def test_every_format_has_a_flavour(tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number, _ in enumerate(FLAVOURS)]
    for folder in folders:
        folder.mkdir()
    written = [flavour.write(folder) for flavour, folder in zip(FLAVOURS.values(), folders, strict=True)]
    assert {suffix_of(path) for path in files_of(written)} == FORMATS.keys()


@pytest.mark.parametrize("name", FLAVOURS)
def test_rows_are_counted_without_reading_them(name: str, tmp_path: Path) -> None:
    assert sum(format_of(path).rows(path) for path in files_of([FLAVOURS[name].write(tmp_path)])) == ROWS
