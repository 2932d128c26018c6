"""Tables of numbers from JSON: nested lists, named values, columns and tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from detector.contracts.codecs.loose_values import as_float
from detector.contracts.errors import Unjudged

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Table:
    """``rows`` float64 (n, d), NaN where a value is missing, out of ``asked`` rows.

    ``places``: the positions of the n among these, None if all are here.
    """

    rows: NDArray[np.float64]
    asked: int
    places: list[int] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, places: list[int] | None) -> Table:
        """Returns the rows that are also at ``places``."""
        if places is None:
            return self
        here = {place: row for row, place in enumerate(self.places or range(self.asked))}
        both = [place for place in places if place in here]
        return Table(self.rows[[here[place] for place in both]], self.asked, both)


def of_rows(rows: Any, what: str) -> Table:
    """Returns a table with one of ``rows`` each; a nested row is flattened, one of names and values ordered by name.

    Where rows differ in width or names, those of the most frequent kind are kept. Raises Unjudged, with ``what`` as its
    reason, where none can be read.
    """
    import numpy as np

    if not isinstance(rows, list) or not rows:
        raise Unjudged(what, f"{what} are {type(rows).__name__}, or empty; a list of rows is expected")
    try:
        matrix = np.array(rows, dtype=np.float64).reshape(len(rows), -1)
    except (TypeError, ValueError, OverflowError):
        return _most_frequent(rows, what)
    return Table(matrix, len(rows)) if matrix.size else _most_frequent(rows, what)


def _most_frequent(rows: list[Any], what: str) -> Table:
    import numpy as np

    read = [_row(row) for row in rows]
    kinds = Counter(kind for kind, numbers in read if numbers)
    if not kinds:
        raise Unjudged(what, f"{what} are not numbers", len(rows))
    ((kind, _),) = kinds.most_common(1)
    places = [place for place, (its, numbers) in enumerate(read) if its == kind and numbers]
    return Table(np.array([read[place][1] for place in places], dtype=np.float64), len(rows), places)


def of_columns(columns: Sequence[Table], what: str) -> Table:
    """Returns all ``columns`` side by side. Raises Unjudged where their rows differ."""
    import numpy as np

    asked = max((column.asked for column in columns), default=1)
    if not columns or any(len(column) != asked for column in columns):
        raise Unjudged(what, f"{what} come as columns of different lengths, or not all are numbers", asked)
    return columns[0] if len(columns) == 1 else Table(np.hstack([column.rows for column in columns]), asked)


def of_tensor(tensor: Mapping[str, Any], what: str) -> Table:
    """Returns the table of a tensor with ``shape`` and flat or nested ``data``; its first dimension counts the rows."""
    import numpy as np

    name, shape, data = tensor.get("name"), tensor.get("shape"), tensor.get("data")
    if data is None:
        raise Unjudged("binary", f"tensor {name!r:.80} has no data in JSON")
    try:
        numbers = np.array(data, dtype=np.float64).ravel()
    except (TypeError, ValueError, OverflowError):
        numbers = np.array(_row(data)[1], dtype=np.float64)
    if not isinstance(shape, list) or not all(type(length) is int for length in shape):
        raise Unjudged(what, f"tensor {name!r:.80} has the shape {shape!r:.80}")
    try:
        rows = numbers.reshape(shape or [1])
        if not rows.size:
            raise ValueError("there is none")
        return Table(rows.reshape(len(rows), -1), len(rows))
    except (ValueError, OverflowError) as error:
        raise Unjudged(what, f"tensor {name!r:.80} has {len(numbers)} numbers for the shape {shape!r:.80}") from error


def _row(value: Any) -> tuple[object, list[float]]:
    """Returns the kind of a row, its width and names, and its numbers; none where one value is no number."""
    names: list[str] = []
    try:
        numbers = list(_numbers(value, names))
    except (TypeError, ValueError):
        return None, []
    return (len(numbers), *names), numbers


def _numbers(value: Any, names: list[str]) -> Iterator[float]:
    if isinstance(value, list):
        for one in value:
            yield from _numbers(one, names)
    elif isinstance(value, dict):
        names += sorted(value)
        for name in sorted(value):
            yield from _numbers(value[name], names)
    else:
        yield as_float(value)
