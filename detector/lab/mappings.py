"""The JSON forms in which a prediction API takes rows and gives answers: KServe v1, KServe v2, or a template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import ConfigurationError
from detector.lab.answers import Answers

Rows = NDArray[np.float32]
Specification = tuple[float, float]
"""The accuracy, 0 to 1, and the milliseconds that are requested of a model zoo."""

ACCOUNT_HEADER = "X-Account"
ROWS, ROW, ACCOUNT, ACCURACY, LATENCY = "$rows", "$row", "$account", "$accuracy", "$latency"
_MOST_ROWS = 100


class Mapping(Protocol):
    """``rows_at_once``: how many inputs one request may carry."""

    @property
    def rows_at_once(self) -> int: ...

    def headers(self, account: str) -> dict[str, str]:
        """Returns the headers by which the service knows ``account``."""
        ...

    def body(self, rows: Rows, account: str, specification: Specification | None = None) -> Any:
        """Returns the body, as JSON, with which ``account`` queries ``rows`` (n, d); NaN is a feature left out."""
        ...

    def reply(self, body: Any, count: int) -> Answers:
        """Returns the answers in the response ``body`` to ``count`` rows, (n, 1) for an API with one number per row.

        Raises KeyError, IndexError, TypeError or ValueError for a body of another form.
        """
        ...


class _Tabular:
    rows_at_once = _MOST_ROWS

    def headers(self, account: str) -> dict[str, str]:
        return {ACCOUNT_HEADER: account}


class KServeV1(_Tabular):
    """{"instances": [row, ...]} answered by {"predictions": [row or number, ...]}; a feature left out is null.

    A specification is {"parameters": {"accuracy": a, "latency": l}} next to the instances. "leaf" and "asked" next to
    the predictions are lists with one number per row.
    """

    def body(self, rows: Rows, account: str, specification: Specification | None = None) -> Any:
        return {"instances": _as_lists(rows, None), **_parameters(specification)}

    def reply(self, body: Any, count: int) -> Answers:
        return _answers(body["predictions"], body.get("leaf"), body.get("asked"), count)


class KServeV2(_Tabular):
    """The Open Inference Protocol: the first output tensor answers the one input tensor; a feature left out is null.

    A specification is {"accuracy": a, "latency": l} in the parameters. Tensors called "leaf" and "asked" have one
    number per row.
    """

    def body(self, rows: Rows, account: str, specification: Specification | None = None) -> Any:
        flat = [value for row in _as_lists(rows, None) for value in row]
        tensor = {"name": "input-0", "shape": list(rows.shape), "datatype": "FP32", "data": flat}
        return {"inputs": [tensor], **_parameters(specification)}

    def reply(self, body: Any, count: int) -> Answers:
        tensor, *others = body["outputs"]
        named = {other["name"]: other["data"] for other in others}
        values = np.asarray(tensor["data"], np.float64).reshape([int(size) for size in tensor["shape"]])
        return _answers(values, named.get("leaf"), named.get("asked"), count)


@dataclass(frozen=True)
class Template:
    """Any API with JSON bodies. In ``form``, the body, and ``head``, the headers, "$rows" is replaced by all rows of a
    request as lists, "$row" for its one row, "$account" for the account; in ``form``, "$accuracy" and "$latency" for
    the two numbers of a specification, null without one. ``left_out``: the value of a feature left out. ``answer``,
    ``leaf`` and ``asked``: the keys and indices that lead to the parts of ``Answers``; the last two may be None.
    """

    form: Any
    answer: Sequence[str]
    head: dict[str, str]
    left_out: Any = None
    leaf: Sequence[str] | None = None
    asked: Sequence[str] | None = None

    @property
    def rows_at_once(self) -> int:
        return _MOST_ROWS if ROWS in _scalars(self.form) else 1

    def headers(self, account: str) -> dict[str, str]:
        return {name: value.replace(ACCOUNT, account) for name, value in self.head.items()}

    def body(self, rows: Rows, account: str, specification: Specification | None = None) -> Any:
        listed = _as_lists(rows, self.left_out)
        accuracy, latency = specification or (None, None)
        values = {ROWS: listed, ROW: listed[0], ACCOUNT: account, ACCURACY: accuracy, LATENCY: latency}
        return _filled(self.form, values)

    def reply(self, body: Any, count: int) -> Answers:
        values, leaf, specification = (self._entries(body, steps) for steps in (self.answer, self.leaf, self.asked))
        return _answers(values, leaf, specification, count)

    def _entries(self, body: Any, steps: Sequence[str] | None) -> Any:
        """Returns what ``steps`` lead to, as a list with one entry per row."""
        if steps is None:
            return None
        for step in steps:
            body = body[int(step)] if isinstance(body, list) else body[step]
        return [body] if self.rows_at_once == 1 else body


_NEEDED = {"request", "answer"}
_OPTIONAL = {"headers", "left_out", "leaf", "asked"}
_BUILT_IN: dict[str, Mapping] = {"kserve-v1": KServeV1(), "kserve-v2": KServeV2()}


def mapping_of(name: str) -> Mapping:
    """Returns ``kserve-v1``, ``kserve-v2``, or the template in the YAML file ``name``. Raises ConfigurationError.

    A template has ``request``, the body; ``answer``, keys and indices to the answers joined by dots; ``headers``, if
    the account does not go into the body; and, as the API has them, ``left_out``, ``leaf`` and ``asked``, for which see
    ``Template``.
    """
    return _BUILT_IN[name] if name in _BUILT_IN else _template(Path(name))


def _template(path: Path) -> Template:
    import yaml

    try:
        written = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        advice = f"name {' or '.join(_BUILT_IN)}, or a YAML file with request and answer"
        raise ConfigurationError(f"{path}: cannot read it as a mapping: {error}; {advice}") from error
    if not isinstance(written, dict) or not _NEEDED <= written.keys() <= _NEEDED | _OPTIONAL:
        optional = ", ".join(sorted(_OPTIONAL))
        raise ConfigurationError(f"{path}: a mapping has request, answer and, if need be, {optional}, and nothing else")
    scalars = _scalars(written["request"])
    if (ROWS in scalars) == (ROW in scalars):
        raise ConfigurationError(f'{path}: request must have either "{ROWS}" or "{ROW}" where the inputs go')
    headers = {str(name): str(value) for name, value in (written.get("headers") or {}).items()}
    steps = {name: str(written[name]).split(".") for name in ("answer", "leaf", "asked") if name in written}
    return Template(written["request"], head=headers, left_out=written.get("left_out"), **steps)


def _answers(values: Any, leaf: Any, specification: Any, count: int) -> Answers:
    answers = np.asarray(values, np.float64)
    if answers.ndim not in (1, 2) or len(answers) != count or not np.isfinite(answers).all():
        raise ValueError(f"answers of shape {answers.shape} to {count} rows")
    return Answers(answers.reshape(count, -1), _integers("leaf", leaf, count), _integers("asked", specification, count))


def _integers(what: str, numbers: Sequence[Any] | None, count: int) -> NDArray[np.int64] | None:
    if numbers is None:
        return None
    column = np.asarray(numbers)
    if column.dtype.kind not in "iu" or column.shape != (count,):
        raise ValueError(
            f"{what} is {column.dtype} of shape {column.shape}, not a whole number for each of {count} rows"
        )
    return column.astype(np.int64)


def _parameters(specification: Specification | None) -> dict[str, Any]:
    if specification is None:
        return {}
    accuracy, latency = specification
    return {"parameters": {"accuracy": accuracy, "latency": latency}}


def _as_lists(rows: Rows, left_out: Any) -> list[list[Any]]:
    """Returns ``rows`` (n, d) as lists, with ``left_out`` for NaN."""
    listed: list[list[Any]] = rows.tolist()
    for row, feature in np.argwhere(np.isnan(rows)).tolist():
        listed[row][feature] = left_out
    return listed


def _scalars(document: Any) -> list[Any]:
    """Returns everything in ``document`` that is neither a list nor a dictionary."""
    if isinstance(document, dict | list):
        entries = document.values() if isinstance(document, dict) else document
        return [scalar for entry in entries for scalar in _scalars(entry)]
    return [document]


def _filled(document: Any, values: dict[str, Any]) -> Any:
    if isinstance(document, dict):
        return {key: _filled(entry, values) for key, entry in document.items()}
    if isinstance(document, list):
        return [_filled(entry, values) for entry in document]
    return values.get(document, document) if isinstance(document, str) else document
