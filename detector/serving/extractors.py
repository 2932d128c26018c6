"""Reads queries and answers from the JSON of a request and its response.

An extractor takes both documents and returns the scored rows. It raises Unjudged for what it cannot read, or counts it
in ``Scored.unjudged``. Any other error counts as one unjudged query, and so does None.

KServe leaves some things open. Here a feature that is null or NaN is missing, and one beyond float32 becomes the
largest float32; ``leaf`` in an answer is the tree node of each row; ``accuracy`` (0 to 1) and ``latency``
(milliseconds) among the ``parameters`` of a request are what it requests from a model zoo. A caller cannot hide a query
by other values there: these are ignored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from detector.contracts.codecs.limits import LARGEST_FLOAT32
from detector.contracts.codecs.loose import as_float
from detector.contracts.errors import Unjudged
from detector.contracts.queries import OutputKind
from detector.serving.rows import OptionalColumns

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray
else:
    from detector.contracts.lazy import np


@dataclass(frozen=True, slots=True)
class Scored:
    """Rows of one request: ``features`` (n, d) and ``outputs`` (n, k) or (n,), as lists or arrays; or one entry a row,
    as :meth:`QueryLogger.log` takes them.

    ``columns``: the optional ones, as :meth:`QueryLogger.log` takes them. ``unjudged``: the number of further rows that
    were answered and cannot be logged, by reason.
    """

    features: ArrayLike
    outputs: ArrayLike
    output_kind: OutputKind = "probabilities"
    columns: OptionalColumns = field(default_factory=OptionalColumns)
    unjudged: Mapping[str, int] = field(default_factory=dict)


Extractor = Callable[[Any, Any], Scored | None]


def kserve_v1(output_kind: OutputKind = "probabilities", *, inputs: Sequence[str] | None = None) -> Extractor:
    """Reads ``{"instances": [row, ...]}`` answered by ``{"predictions": [row, ...]}`` (KServe v1, TensorFlow Serving).

    An instance of several dimensions, such as an image, is flattened. Named features (an object per row, or
    TensorFlow's ``inputs`` with one list per feature) are logged with their names, texts included. ``inputs`` gives the
    features to read, in order: an absent one is missing, others are left out. A prediction may be a text, or an object
    of classes and probabilities. If rows of numbers differ in width, those of the most frequent width are logged.
    """

    def extract(request: Any, response: Any) -> Scored:
        request, response = _object(request, "features"), _object(response, "outputs")
        answers, leaf = _only(response.get("predictions", response.get("outputs"))), response.get("leaf")
        rows = _rows(request, inputs)
        if rows and (any(map(_has_names, rows)) or _are_named(rows, answers)):
            if not isinstance(answers, list) or len(answers) != len(rows):
                queries = max(len(rows), len(answers) if isinstance(answers, list) else 1)
                raise Unjudged("rows", f"{len(rows)} rows were asked, and others answered", queries)
            return Scored(rows, answers, output_kind, _columns(request, leaf, len(rows), None))
        return _scored(_instances(request, inputs), of_rows(answers, "outputs"), output_kind, request, leaf)

    return extract


def kserve_v2(
    output_kind: OutputKind = "probabilities",
    *,
    inputs: str | Sequence[str] | None = None,
    outputs: str | None = None,
) -> Extractor:
    """Reads the Open Inference Protocol (KServe v2): the tensors called ``inputs`` and the one called ``outputs``.

    The first dimension of a tensor counts the queries; the rest is flattened. Several tensors are columns, or groups of
    columns, of one table, in the order of ``inputs``, else in that of the request: name them if the model reads them
    by name, or a caller can change the order. Without ``outputs`` the first tensor of the answer counts.
    """
    wanted = [inputs] if isinstance(inputs, str) else inputs

    def extract(request: Any, response: Any) -> Scored:
        request, response = _object(request, "features"), _object(response, "outputs")
        tensors = _tensors(request.get("inputs"), "features")
        features = [of_tensor(_named(tensors, name, "features"), "features") for name in wanted or tensors]
        results = _tensors(response.get("outputs"), "outputs")
        leaf = results.pop("leaf", {}).get("data")
        answered = of_tensor(_named(results, outputs or next(iter(results), ""), "outputs"), "outputs")
        return _scored(side_by_side(features, "rows"), answered, output_kind, request, leaf)

    return extract


def _object(document: Any, reason: str) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise Unjudged(reason, f"a body is {type(document).__name__}, not an object")
    return document


def _only(outputs: Any) -> Any:
    """Returns the one entry of an object with one, and anything else unchanged."""
    return next(iter(outputs.values())) if isinstance(outputs, dict) and len(outputs) == 1 else outputs


def _rows(request: Mapping[str, Any], names: Sequence[str] | None) -> list[Any] | None:
    """Returns the rows of ``instances`` or ``inputs``, each unchanged, or with ``names`` a list of these features.
    Returns None if there are no rows, or if it is not clear which they are."""
    rows = request.get("instances", request.get("inputs"))
    if isinstance(rows, dict) and len(rows) > 1 and all(isinstance(column, list) for column in rows.values()):
        if len({len(column) for column in rows.values()}) > 1:
            return None
        rows = [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]
    if not isinstance(rows, list) or ("instances" in request and "inputs" in request):
        return None
    return _select(rows, names)


def _select(rows: list[Any], names: Sequence[str] | None) -> list[Any]:
    """Returns the features called ``names``, if any, of the rows that are objects."""
    if names is None:
        return rows
    return [[row.get(name) for name in names] if isinstance(row, dict) else row for row in rows]


def _has_names(row: Any) -> bool:
    """Returns whether a row has texts in it or names; an object with a single name is a tensor."""
    if isinstance(row, dict):
        return len(row) > 1
    return isinstance(row, list) and any(map(_is_text, row))


def _is_text(cell: Any) -> bool:
    if not isinstance(cell, str):
        return False
    try:
        float(cell)
    except ValueError:
        return True
    return False


def _are_named(rows: list[Any], answers: Any) -> bool:
    """Returns whether any of ``answers`` to ``rows`` of features is a text, or names its class."""
    if not isinstance(answers, list) or not any(isinstance(row, (dict, list)) for row in rows):
        return False
    firsts = [answer[0] if isinstance(answer, list) and answer else answer for answer in answers]
    return any(isinstance(first, dict) or _is_text(first) for first in firsts)


def _instances(request: Mapping[str, Any], names: Sequence[str] | None) -> ParsedMatrix:
    """Returns the rows of ``instances``, or of ``inputs``, which may be one list a feature. ``names``: of the
    features."""
    if "instances" in request and "inputs" in request:
        raise Unjudged("ambiguous", "a request has both instances and inputs, and servers differ in which they take")
    inputs = request.get("inputs")
    if not isinstance(inputs, dict) or not inputs:
        rows = request.get("instances", inputs)
        return of_rows(_select(rows, names) if isinstance(rows, list) else rows, "features")
    if names is None:
        names = sorted(inputs)
    lengths = [len(inputs[name]) for name in names if isinstance(inputs.get(name), list)]
    absent = [None] * max(lengths, default=0)
    return side_by_side([of_rows(inputs.get(name, absent), "features") for name in names], "rows")


def _tensors(tensors: Any, reason: str) -> dict[str, Mapping[str, Any]]:
    """Returns tensors by name, in order. Raises Unjudged, ``ambiguous`` if two have one name."""
    if not isinstance(tensors, list) or not all(isinstance(tensor, dict) for tensor in tensors):
        raise Unjudged(reason, "a body has no list of tensors")
    by_name = {str(tensor.get("name")): tensor for tensor in tensors}
    if len(by_name) != len(tensors):
        raise Unjudged("ambiguous", "two tensors of a body have the same name")
    return by_name


def _named(tensors: Mapping[str, Mapping[str, Any]], name: str, reason: str) -> Mapping[str, Any]:
    if name not in tensors:
        raise Unjudged(reason, f"a body has no tensor {name!r:.80}, only {list(tensors)!r:.200}")
    return tensors[name]


def _scored(
    sent: ParsedMatrix, answered: ParsedMatrix, output_kind: OutputKind, request: Mapping[str, Any], leaf: Any
) -> Scored:
    rows = sent.total
    if answered.total != rows:
        raise Unjudged("rows", f"{rows} rows were asked and {answered.total} answered", max(rows, answered.total))
    usable = sent.only(answered.positions)
    if not len(usable):
        raise Unjudged("rows", "no row that can be read has an answer that can be", rows)
    features = np.minimum(np.maximum(usable.rows, -LARGEST_FLOAT32), LARGEST_FLOAT32).astype(np.float32)
    columns = _columns(request, leaf, rows, usable.positions)
    missing = np.isnan(features)
    if np.logical_or.reduce(missing, axis=None):
        columns["missing"] = missing
    unjudged = {"features": rows - len(sent), "outputs": len(sent) - len(usable)}
    counts = {reason: queries for reason, queries in unjudged.items() if queries}
    return Scored(features, answered.only(usable.positions).rows, output_kind, columns, counts)


def _columns(request: Mapping[str, Any], leaf: Any, rows: int, positions: list[int] | None) -> OptionalColumns:
    """Returns the optional columns of the ``rows`` that were sent, or of those at ``positions``: tree nodes, and the
    accuracy and latency that the request specifies. Anything else in their place is ignored."""
    columns = OptionalColumns()
    if isinstance(leaf, list) and len(leaf) == rows and all(map(_is_node, leaf)):
        columns["leaf"] = leaf if positions is None else [leaf[position] for position in positions]
    parameters = request.get("parameters")
    if isinstance(parameters, dict):
        specification: list[Any] = [parameters.get("accuracy"), parameters.get("latency")]
        if all(type(value) in (int, float) and abs(value) <= LARGEST_FLOAT32 for value in specification):
            columns["specification"] = [specification] * (rows if positions is None else len(positions))
    return columns


def _is_node(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


@dataclass(frozen=True, slots=True)
class ParsedMatrix:
    """``rows`` float64 (n, d), NaN where a value is missing, out of a ``total`` of rows.

    ``positions``: those of the n rows among all, None if all are here.
    """

    rows: NDArray[np.float64]
    total: int
    positions: list[int] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, positions: list[int] | None) -> ParsedMatrix:
        """Returns the rows that are also at ``positions``."""
        if positions is None:
            return self
        row_at = {position: row for row, position in enumerate(self.positions or range(self.total))}
        both = [position for position in positions if position in row_at]
        return ParsedMatrix(self.rows[[row_at[position] for position in both]], self.total, both)


def of_rows(rows: Any, what: str) -> ParsedMatrix:
    """Returns a matrix with one of ``rows`` each; a nested row is flattened, one of names and values ordered by name.

    If rows differ in width or names, those of the most frequent kind are kept. Raises Unjudged with the reason ``what``
    if none can be read.
    """
    if not isinstance(rows, list) or not rows:
        raise Unjudged(what, f"{what} are {type(rows).__name__}, or empty; a list of rows is expected")
    try:
        matrix = np.array(rows, dtype=np.float64).reshape(len(rows), -1)
    except (TypeError, ValueError, OverflowError):
        return _most_frequent(rows, what)
    return ParsedMatrix(matrix, len(rows)) if matrix.size else _most_frequent(rows, what)


def _most_frequent(rows: list[Any], what: str) -> ParsedMatrix:
    read = [_row(row) for row in rows]
    kinds = Counter(kind for kind, numbers in read if numbers)
    if not kinds:
        raise Unjudged(what, f"{what} are not numbers", len(rows))
    ((kind, _),) = kinds.most_common(1)
    positions = [position for position, (kind_of_row, numbers) in enumerate(read) if kind_of_row == kind and numbers]
    return ParsedMatrix(np.array([read[position][1] for position in positions], dtype=np.float64), len(rows), positions)


def side_by_side(columns: Sequence[ParsedMatrix], what: str) -> ParsedMatrix:
    """Returns all ``columns`` side by side. Raises Unjudged if their numbers of rows differ."""
    total = max((column.total for column in columns), default=1)
    if not columns or any(len(column) != total for column in columns):
        raise Unjudged(what, f"{what} come as columns of different lengths, or not all are numbers", total)
    return columns[0] if len(columns) == 1 else ParsedMatrix(np.hstack([column.rows for column in columns]), total)


def of_tensor(tensor: Mapping[str, Any], what: str) -> ParsedMatrix:
    """Returns the matrix of a tensor with ``shape`` and flat or nested ``data``; the first dimension is the rows."""
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
        return ParsedMatrix(rows.reshape(len(rows), -1), len(rows))
    except (ValueError, OverflowError) as error:
        raise Unjudged(what, f"tensor {name!r:.80} has {len(numbers)} numbers for the shape {shape!r:.80}") from error


def _row(value: Any) -> tuple[object, list[float]]:
    """Returns the kind of a row (its width and names) and its numbers; no numbers if a value is not a number."""
    names: list[str] = []
    try:
        numbers = list(_numbers(value, names))
    except (TypeError, ValueError):
        return None, []
    return (len(numbers), *names), numbers


def _numbers(value: Any, names: list[str]) -> Iterator[float]:
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item, names)
    elif isinstance(value, dict):
        names += sorted(value)
        for name in sorted(value):
            yield from _numbers(value[name], names)
    else:
        yield as_float(value)
