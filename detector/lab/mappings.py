"""The JSON forms in which a prediction API takes rows and gives answers: KServe v1, KServe v2, or a template."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import ConfigurationError
from detector.lab.traffic import ACCOUNT_HEADER

Rows = NDArray[np.float32]
JsonPath = tuple[str, ...]
"""Keys and indices from the top of a JSON document."""

ROWS, ROW, ACCOUNT, ACCURACY, LATENCY = "$rows", "$row", "$account", "$accuracy", "$latency"


@dataclass(frozen=True, slots=True)
class PredictionRequest:
    """``account`` asks for ``rows`` (n, d), NaN where a feature is left out.

    ``specification``: the accuracy, 0 to 1, and the milliseconds that a model zoo is asked for; None for any model.
    """

    rows: Rows
    account: str
    specification: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A response to n rows: ``values`` float64 (n, k), or (n,) for one number per row.

    ``leaf`` and ``asked``, int64 (n,) or None: as in ``Answers``.
    """

    values: NDArray[np.float64]
    leaf: NDArray[np.int64] | None = None
    asked: NDArray[np.int64] | None = None


class Mapping(Protocol):
    """``rows_at_once``: how many inputs one request may carry."""

    @property
    def rows_at_once(self) -> int: ...

    def headers(self, account: str) -> dict[str, str]:
        """The headers by which the service knows ``account``."""
        ...

    def body(self, request: PredictionRequest) -> Any:
        """The body, as JSON, that asks ``request``."""
        ...

    def reply(self, body: Any, count: int) -> Reply:
        """Returns the response ``body`` to ``count`` rows.

        Raises KeyError, IndexError, TypeError or ValueError for a body of another form.
        """
        ...


class _Tabular:
    rows_at_once = 100

    def headers(self, account: str) -> dict[str, str]:
        return {ACCOUNT_HEADER: account}


class KServeV1(_Tabular):
    """{"instances": [row, ...]} answered by {"predictions": [row or number, ...]}; a feature left out is null.

    A specification is {"parameters": {"accuracy": a, "latency": l}} beside the instances. "leaf" and "asked" beside the
    predictions are lists with a number a row.
    """

    def body(self, request: PredictionRequest) -> Any:
        return {"instances": _listed(request.rows, None), **_parameters(request)}

    def reply(self, body: Any, count: int) -> Reply:
        return _reply(body["predictions"], body.get("leaf"), body.get("asked"), count)


class KServeV2(_Tabular):
    """The Open Inference Protocol: the first tensor out answers the one tensor in; a feature left out is null.

    A specification is {"accuracy": a, "latency": l} among the parameters. Tensors called "leaf" and "asked" have a
    number a row.
    """

    def body(self, request: PredictionRequest) -> Any:
        flat = [value for row in _listed(request.rows, None) for value in row]
        tensor = {"name": "input-0", "shape": list(request.rows.shape), "datatype": "FP32", "data": flat}
        return {"inputs": [tensor], **_parameters(request)}

    def reply(self, body: Any, count: int) -> Reply:
        tensor = body["outputs"][0]
        shape = [int(size) for size in tensor["shape"]]
        named = {each["name"]: each["data"] for each in body["outputs"][1:]}
        values = np.asarray(tensor["data"], np.float64).reshape(shape)
        return _reply(values, named.get("leaf"), named.get("asked"), count)


@dataclass(frozen=True)
class Template:
    """Any API with JSON bodies. In ``form``, the body, and ``head``, "$rows" stands for all rows of a request as lists,
    "$row" for its one row, "$account" for the account; in ``form``, "$accuracy" and "$latency" for the two numbers of a
    specification, null without one. ``left_out``: what stands for a feature left out. ``answer``: the keys and indices
    that lead to the answers; ``leaf`` and ``asked``: those to ``Reply.leaf`` and ``Reply.asked``, None where the API
    does not tell.
    """

    form: Any
    answer: JsonPath
    head: dict[str, str]
    left_out: Any = None
    leaf: JsonPath | None = None
    asked: JsonPath | None = None

    @property
    def rows_at_once(self) -> int:
        return 100 if ROWS in _leaves(self.form) else 1

    def headers(self, account: str) -> dict[str, str]:
        return {name: value.replace(ACCOUNT, account) for name, value in self.head.items()}

    def body(self, request: PredictionRequest) -> Any:
        listed = _listed(request.rows, self.left_out)
        accuracy, latency = request.specification or (None, None)
        values = {ROWS: listed, ROW: listed[0], ACCOUNT: request.account, ACCURACY: accuracy, LATENCY: latency}
        return _filled(self.form, values)

    def reply(self, body: Any, count: int) -> Reply:
        answers, leaf, asked = (self._found(body, path) for path in (self.answer, self.leaf, self.asked))
        return _reply(answers, leaf, asked, count)

    def _found(self, body: Any, path: JsonPath | None) -> Any:
        """What ``path`` leads to, as a list with one entry a row."""
        if path is None:
            return None
        found = body
        for step in path:
            found = found[int(step)] if isinstance(found, list) else found[step]
        return [found] if self.rows_at_once == 1 else found


_NEEDED = {"request", "answer"}
_OPTIONAL = {"headers", "left_out", "leaf", "asked"}
_BUILT_IN: dict[str, Callable[[], Mapping]] = {"kserve-v1": KServeV1, "kserve-v2": KServeV2}


def mapping_of(name: str) -> Mapping:
    """``kserve-v1``, ``kserve-v2``, or the template in the YAML file ``name``. Raises ConfigurationError.

    A template has ``request``, the body; ``answer``, keys and indices to the answers joined by dots; ``headers``, if
    the account does not go into the body; and, as the API has them, ``left_out``, ``leaf`` and ``asked``, for which see
    ``Template``.
    """
    return _BUILT_IN[name]() if name in _BUILT_IN else _template(pathlib.Path(name))


def _template(path: pathlib.Path) -> Template:
    import yaml

    try:
        written = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        advice = f"name {' or '.join(_BUILT_IN)}, or a YAML file with request and answer"
        raise ConfigurationError(f"{path}: cannot read it as a mapping: {error}; {advice}") from error
    if not isinstance(written, dict) or not _NEEDED <= written.keys() <= _NEEDED | _OPTIONAL:
        optional = ", ".join(sorted(_OPTIONAL))
        raise ConfigurationError(f"{path}: a mapping has request, answer and, if need be, {optional}, and nothing else")
    leaves = _leaves(written["request"])
    if (ROWS in leaves) == (ROW in leaves):
        raise ConfigurationError(f'{path}: request must have either "{ROWS}" or "{ROW}" where the inputs go')
    headers = {str(name): str(value) for name, value in (written.get("headers") or {}).items()}
    paths = {name: tuple(str(written[name]).split(".")) for name in ("answer", "leaf", "asked") if name in written}
    return Template(written["request"], head=headers, left_out=written.get("left_out"), **paths)


def _reply(values: Any, leaf: Any, asked: Any, count: int) -> Reply:
    answers = np.asarray(values, np.float64)
    if answers.ndim not in (1, 2) or len(answers) != count or not np.isfinite(answers).all():
        raise ValueError(f"answers of shape {answers.shape} to {count} rows")
    single = answers.ndim == 2 and answers.shape[1] == 1
    return Reply(answers[:, 0] if single else answers, _whole("leaf", leaf, count), _whole("asked", asked, count))


def _whole(what: str, numbers: Sequence[Any] | None, count: int) -> NDArray[np.int64] | None:
    if numbers is None:
        return None
    found = np.asarray(numbers)
    if found.dtype.kind not in "iu" or found.shape != (count,):
        raise ValueError(f"{what} is {found.dtype} of shape {found.shape}, not a whole number for each of {count} rows")
    return found.astype(np.int64)


def _parameters(request: PredictionRequest) -> dict[str, Any]:
    if request.specification is None:
        return {}
    accuracy, latency = request.specification
    return {"parameters": {"accuracy": accuracy, "latency": latency}}


def _listed(rows: Rows, left_out: Any) -> list[list[Any]]:
    """``rows`` (n, d) as lists, with ``left_out`` for NaN."""
    listed: list[list[Any]] = rows.tolist()
    for row, feature in np.argwhere(np.isnan(rows)).tolist():
        listed[row][feature] = left_out
    return listed


def _leaves(document: Any) -> list[Any]:
    """What is neither a list nor a dictionary, wherever it stands."""
    if isinstance(document, dict | list):
        entries = document.values() if isinstance(document, dict) else document
        return [leaf for entry in entries for leaf in _leaves(entry)]
    return [document]


def _filled(document: Any, values: dict[str, Any]) -> Any:
    if isinstance(document, dict):
        return {key: _filled(entry, values) for key, entry in document.items()}
    if isinstance(document, list):
        return [_filled(entry, values) for entry in document]
    return values.get(document, document) if isinstance(document, str) else document
