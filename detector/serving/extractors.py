"""What was asked and answered, out of the JSON of a request and its response.

An extractor takes both documents and returns the scored rows, or None where there are none. It may raise: the
middleware counts that and goes on.

Of what KServe leaves open, those here read: a feature that is null or NaN is missing; ``leaf`` in an answer is the tree
node of each row; ``accuracy`` (0 to 1) and ``latency`` (milliseconds) among a request's ``parameters`` are what it asks
a model zoo for. A caller cannot hide a query by filling these with something else: that is ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from detector.contracts.queries import OutputKind
from detector.serving.rows import Columns

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class Scored:
    """Rows of one request: ``features`` (n, d) and ``outputs`` (n, k) or (n,), as lists or arrays.

    ``columns``: the optional ones, as :meth:`QueryLogger.log` takes them.
    """

    features: ArrayLike
    outputs: ArrayLike
    output_kind: OutputKind = "probabilities"
    columns: Columns = field(default_factory=Columns)


_FLOAT32_LIMIT = 3.4e38

Extractor = Callable[[Any, Any], Scored | None]


def kserve_v1(output_kind: OutputKind = "probabilities") -> Extractor:
    """For ``{"instances": [row, ...]}`` answered by ``{"predictions": [row, ...]}`` (KServe v1, TensorFlow Serving).

    An instance of several dimensions, an image, is flattened.
    """

    def extract(request: Any, response: Any) -> Scored:
        rows = [_flat(row) for row in request["instances"]]
        return _scored(rows, response["predictions"], output_kind, request.get("parameters"), response.get("leaf"))

    return extract


def kserve_v2(
    output_kind: OutputKind = "probabilities", *, inputs: str | None = None, outputs: str | None = None
) -> Extractor:
    """For the Open Inference Protocol (KServe v2): the tensors called ``inputs`` and ``outputs``, the first if None.

    The first dimension of a tensor counts the queries; the rest is flattened. Binary tensors are not read.
    """

    def extract(request: Any, response: Any) -> Scored:
        asked = _rows(_tensor(request["inputs"], inputs))
        leaf = next((tensor["data"] for tensor in response["outputs"] if tensor["name"] == "leaf"), None)
        answered = _rows(_tensor(response["outputs"], outputs))
        return _scored(asked, answered, output_kind, request.get("parameters"), leaf)

    return extract


def _scored(rows: list[list[float]], outputs: Any, output_kind: OutputKind, parameters: Any, leaf: Any) -> Scored:
    import numpy as np

    features = np.array(rows, dtype=np.float32)
    columns = Columns()
    missing = np.isnan(features)
    if missing.any():
        columns["missing"] = missing
    if isinstance(leaf, list) and len(leaf) == len(rows) and all(type(node) is int for node in leaf):
        columns["leaf"] = leaf
    if isinstance(parameters, dict):
        specification: list[Any] = [parameters.get("accuracy"), parameters.get("latency")]
        if all(map(_is_plain_number, specification)):
            columns["specification"] = [specification] * len(rows)
    return Scored(features, outputs, output_kind, columns)


def _is_plain_number(value: Any) -> bool:
    """Whether it is a number that float32 can hold."""
    return type(value) in (int, float) and math.isfinite(value) and abs(value) < _FLOAT32_LIMIT


def _tensor(tensors: Sequence[Mapping[str, Any]], name: str | None) -> Mapping[str, Any]:
    if name is None:
        return tensors[0]
    return next(tensor for tensor in tensors if tensor["name"] == name)


def _rows(tensor: Mapping[str, Any]) -> list[list[float]]:
    numbers = _flat(tensor["data"])
    queries = tensor["shape"][0]
    width, rest = divmod(len(numbers), queries)
    if rest or not width:
        raise ValueError(f"tensor {tensor['name']!r} has {len(numbers)} numbers for {queries} rows of the same width")
    return [numbers[start : start + width] for start in range(0, len(numbers), width)]


def _flat(values: Any) -> list[float]:
    """The numbers in nested lists, in order."""
    if not isinstance(values, list):
        return [values]
    if values and isinstance(values[0], list):
        return [number for row in values for number in _flat(row)]
    return values
