"""CSV that is read in blocks holds what Python's own reader finds in all of it at once."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from detector.sources import separated

CELLS = st.text(alphabet="ab1 \",;\n'é", max_size=6)
WIDTH = 3


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.lists(CELLS, min_size=WIDTH - 1, max_size=WIDTH + 1), max_size=8),
    st.integers(1, 60),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.booleans(),
)
def test_rows_and_their_places_are_those_of_a_slow_reader(
    rows: list[list[str]], block: int, end: str, quoting: int, is_ended: bool
) -> None:
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator=end, quoting=quoting).writerows(rows)  # type: ignore[arg-type]
    text = file.getvalue() if is_ended else file.getvalue().removesuffix(end)
    expected = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    good: dict[int, list[str]] = {}
    bad: list[int] = []
    start = 0
    with patch.object(separated, "_BLOCK", block):
        for chunk in separated._chunks(io.BytesIO(text.encode())):
            found = separated._parsed(chunk, start, ("x", "y", "z"), ",")
            start += found.total
            bad += [one.row for one in found.bad]
            cells = [[value or "" for value in column.to_pylist()] for column in found.table.columns]
            good |= dict(zip(found.file_rows.tolist(), map(list, zip(*cells, strict=True)), strict=True))
    assert start == len(expected)
    assert good == {at: row for at, row in enumerate(expected) if len(row) == WIDTH}
    assert bad == [at for at, row in enumerate(expected) if len(row) != WIDTH]


def test_names_of_columns_are_apart(tmp_path: Path) -> None:
    assert separated._distinct(["a", "", " a", "a.1", "", "b"]) == (
        "a",
        "Unnamed: 1",
        "a.1",
        "a.1.1",
        "Unnamed: 4",
        "b",
    )
    assert separated.count_rows(_written(tmp_path, "a,b\n1,2\n")) == 1
    assert separated.count_rows(_written(tmp_path, "")) == 0


def _written(folder: Path, text: str) -> Path:
    (folder / "log.csv").write_text(text, "utf-8")
    return folder / "log.csv"
