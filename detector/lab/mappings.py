"""How a prediction API takes rows and gives answers as JSON: KServe v1, KServe v2, or a template."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import ConfigurationError
from detector.lab.client import ACCOUNT_HEADER

Rows = NDArray[np.float32]

ROWS, ROW, ACCOUNT = "$rows", "$row", "$account"


class Mapping(Protocol):
    """``rows_at_once``: how many inputs one request may carry."""

    @property
    def rows_at_once(self) -> int: ...

    def headers(self, account: str) -> dict[str, str]:
        """The headers by which the service knows ``account``."""
        ...

    def request(self, rows: Rows, account: str) -> Any:
        """The body, as JSON, that asks for ``rows`` (n, d); a feature left out, NaN, is null."""
        ...

    def answers(self, body: Any, count: int) -> NDArray[np.float64]:
        """What the response ``body`` says of ``count`` rows: (n, k), or (n,) where it is one number a row.

        Raises KeyError, IndexError, TypeError or ValueError where it is built otherwise.
        """
        ...


class _Tabular:
    rows_at_once = 100

    def headers(self, account: str) -> dict[str, str]:
        return {ACCOUNT_HEADER: account}


class KServeV1(_Tabular):
    """{"instances": [row, ...]} answered by {"predictions": [row or number, ...]}."""

    def request(self, rows: Rows, account: str) -> Any:
        return {"instances": _with_nulls(rows)}

    def answers(self, body: Any, count: int) -> NDArray[np.float64]:
        return _as_answers(body["predictions"], count)


class KServeV2(_Tabular):
    """The Open Inference Protocol: the first tensor out answers the one tensor in."""

    def request(self, rows: Rows, account: str) -> Any:
        flat = [value for row in _with_nulls(rows) for value in row]
        return {"inputs": [{"name": "input-0", "shape": list(rows.shape), "datatype": "FP32", "data": flat}]}

    def answers(self, body: Any, count: int) -> NDArray[np.float64]:
        tensor = body["outputs"][0]
        shape = [int(size) for size in tensor["shape"]]
        return _as_answers(np.asarray(tensor["data"], np.float64).reshape(shape), count)


@dataclass(frozen=True)
class Template:
    """Any API with JSON bodies. In ``body`` and ``head``, "$rows" stands for all rows of a request as lists, "$row" for
    its one row, "$account" for the account. ``path``: the keys and indices that lead to the answers.
    """

    body: Any
    path: tuple[str, ...]
    head: dict[str, str]

    @property
    def rows_at_once(self) -> int:
        return 100 if ROWS in _leaves(self.body) else 1

    def headers(self, account: str) -> dict[str, str]:
        return {name: value.replace(ACCOUNT, account) for name, value in self.head.items()}

    def request(self, rows: Rows, account: str) -> Any:
        listed = _with_nulls(rows)
        return _filled(self.body, {ROWS: listed, ROW: listed[0], ACCOUNT: account})

    def answers(self, body: Any, count: int) -> NDArray[np.float64]:
        found = body
        for step in self.path:
            found = found[int(step)] if isinstance(found, list) else found[step]
        return _as_answers([found] if self.rows_at_once == 1 else found, count)


_BUILT_IN: dict[str, Callable[[], Mapping]] = {"kserve-v1": KServeV1, "kserve-v2": KServeV2}


def mapping_of(name: str) -> Mapping:
    """``kserve-v1``, ``kserve-v2``, or the template in the YAML file ``name``. Raises ConfigurationError.

    A template has ``request``, the body; ``answer``, keys and indices to the answers joined by dots; and, if the
    account does not go into the body, ``headers``.
    """
    return _BUILT_IN[name]() if name in _BUILT_IN else _template(Path(name))


def _template(path: Path) -> Template:
    import yaml

    try:
        written = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        advice = f"name {' or '.join(_BUILT_IN)}, or a YAML file with request and answer"
        raise ConfigurationError(f"{path}: cannot read it as a mapping: {error}; {advice}") from error
    if not isinstance(written, dict) or not {"request", "answer"} <= written.keys() <= {"request", "answer", "headers"}:
        raise ConfigurationError(f"{path}: a mapping has request, answer and, if need be, headers, and nothing else")
    leaves = _leaves(written["request"])
    if (ROWS in leaves) == (ROW in leaves):
        raise ConfigurationError(f'{path}: request must have either "{ROWS}" or "{ROW}" where the inputs go')
    headers = {str(name): str(value) for name, value in (written.get("headers") or {}).items()}
    return Template(written["request"], tuple(str(written["answer"]).split(".")), headers)


def _as_answers(values: Any, count: int) -> NDArray[np.float64]:
    answers = np.asarray(values, np.float64)
    if answers.ndim not in (1, 2) or len(answers) != count or not np.isfinite(answers).all():
        raise ValueError(f"answers of shape {answers.shape} to {count} rows")
    return answers[:, 0] if answers.ndim == 2 and answers.shape[1] == 1 else answers


def _with_nulls(rows: Rows) -> list[list[float | None]]:
    listed = cast("list[list[float | None]]", rows.tolist())
    for row, feature in np.argwhere(np.isnan(rows)).tolist():
        listed[row][feature] = None
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
