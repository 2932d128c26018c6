"""What was asked and answered, out of the JSON of a request and its response.

An extractor takes both documents and returns the scored rows, or None where there are none. It may raise: the
middleware counts that and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from detector.contracts.queries import OutputKind

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class Scored:
    """Rows of one request: ``features`` (n, d) and ``outputs`` (n, k) or (n,), as lists or arrays."""

    features: ArrayLike
    outputs: ArrayLike
    output_kind: OutputKind = "probabilities"


Extractor = Callable[[Any, Any], Scored | None]


def kserve_v1(output_kind: OutputKind = "probabilities") -> Extractor:
    """For ``{"instances": [row, ...]}`` answered by ``{"predictions": [row, ...]}`` (KServe v1, TensorFlow Serving).

    An instance of several dimensions, an image, is flattened.
    """

    def extract(request: Any, response: Any) -> Scored:
        return Scored([_flat(row) for row in request["instances"]], response["predictions"], output_kind)

    return extract


def kserve_v2(
    output_kind: OutputKind = "probabilities", *, inputs: str | None = None, outputs: str | None = None
) -> Extractor:
    """For the Open Inference Protocol (KServe v2): the tensors called ``inputs`` and ``outputs``, the first if None.

    The first dimension of a tensor counts the queries; the rest is flattened. Binary tensors are not read.
    """

    def extract(request: Any, response: Any) -> Scored:
        asked = _rows(_tensor(request["inputs"], inputs))
        return Scored(asked, _rows(_tensor(response["outputs"], outputs)), output_kind)

    return extract


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
