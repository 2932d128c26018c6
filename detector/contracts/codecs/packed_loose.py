"""What a packed record of loose queries holds besides: names of features and classes, and features that are texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from detector.contracts.codecs.limits import DIMENSIONS
from detector.contracts.codecs.packed_form import LOOSE_SCHEMA, PackedQueries
from detector.contracts.errors import InvalidRecord
from detector.contracts.queries import QueryBatch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def loose_fields(batch: QueryBatch) -> dict[str, Any]:
    """What is written of ``batch`` besides its plain columns; empty for a plain batch with outputs."""
    if not batch.is_loose and batch.output_kind != "none":
        return {}
    fields: dict[str, Any] = {"schema": LOOSE_SCHEMA}
    if batch.feature_names is not None:
        fields["feature_names"] = list(batch.feature_names)
    if batch.texts is not None:
        fields["texts"] = batch.texts.ravel().tolist()
    if batch.output_names is not None:
        names = batch.output_names.tolist()
        alike = all(row == names[0] for row in names[1:])
        fields["output_names"] = names[0] if alike else [name for row in names for name in row]
    return fields


def text_width(packed: PackedQueries) -> int:
    """How many features of a row are texts."""
    return 0 if packed.feature_names is None else len(packed.feature_names) - packed.dimension


def check_loose(packed: PackedQueries, rows: int) -> None:
    """Raises InvalidRecord unless names and texts are as many as ``rows`` and widths call for."""
    names = packed.feature_names
    if names is not None and not (packed.dimension <= len(names) <= DIMENSIONS and len(set(names)) == len(names)):
        raise InvalidRecord("length", f"{len(names)} feature_names for {packed.dimension} numbers; name each, once")
    texts = len(packed.texts or ())
    if texts != rows * text_width(packed):
        raise InvalidRecord("length", f"{texts} texts for {rows} event ids with {text_width(packed)} names of texts")
    named, width = packed.output_names, packed.output_width
    if named is not None and len(named) not in (width, rows * width):
        raise InvalidRecord("length", f"{len(named)} output_names; {rows} event ids call for {width} or {rows * width}")


def loose_columns(alike: Sequence[PackedQueries], rows: Sequence[int]) -> dict[str, Any]:
    """``feature_names``, ``texts`` and ``output_names`` of the records ``alike``, which agree in their layout."""
    first, columns = alike[0], dict[str, Any]()
    if first.feature_names is not None:
        columns["feature_names"] = tuple(first.feature_names)
    if first.texts:
        columns["texts"] = _table([text for packed in alike for text in packed.texts or ()], text_width(first))
    if first.output_names is not None:
        columns["output_names"] = _table(
            [
                name
                for packed, count in zip(alike, rows, strict=True)
                for name in _names_of_all(packed.output_names or [], count * packed.output_width)
            ],
            first.output_width,
        )
    return columns


def _names_of_all(names: list[str], cells: int) -> list[str]:
    return names if len(names) == cells else names * (cells // len(names))


def _table(cells: list[Any], width: int) -> NDArray[np.object_]:
    import numpy as np

    table = np.empty(len(cells), dtype=object)
    table[:] = cells
    return table.reshape(-1, width)
