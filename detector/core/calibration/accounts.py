"""Prepares logged queries for calibration: one batch per honest account of one model version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from detector.contracts.batches import COLUMNS, concatenate, cut, take
from detector.contracts.errors import ConfigurationError
from detector.contracts.queries import QueryBatch


def of_one_version(
    pieces: Sequence[QueryBatch], model: str | None = None, version: str | None = None
) -> list[QueryBatch]:
    """Returns the ``pieces`` for ``model`` and ``version``, any if None. Raises ConfigurationError, with the names,
    unless exactly one model version is left."""
    chosen = [own for own in pieces if model in (None, own.model) and version in (None, own.model_version)]
    there = sorted({(own.model, own.model_version) for own in chosen})
    if len(there) > 1:
        raise ConfigurationError(
            f"the logs are of {_listed(there)}, and a profile is of one model version; choose with --model-name and "
            "--model-version"
        )
    if not there:
        all_there = sorted({(own.model, own.model_version) for own in pieces})
        raise ConfigurationError(f"there are no honest queries to calibrate on; the logs are of {_listed(all_there)}")
    return chosen


def accounts_of(pieces: Sequence[QueryBatch]) -> list[QueryBatch]:
    """Returns one batch for each principal of ``pieces``, queries of one model version, sorted by name. Queries are
    sorted by time; equal times keep their order. Raises ConfigurationError if features or outputs differ."""
    _check_form(pieces)
    whole = next(concatenate(_alike(pieces)))
    order = np.argsort(whole.occurred_at, kind="stable")
    order = order[np.argsort(whole.principal_index[order], kind="stable")]
    edges = np.cumsum(np.bincount(whole.principal_index, minlength=len(whole.principals)))
    ordered = take(whole, order)
    ends = dict(zip(whole.principals, pairwise([0, *edges.tolist()]), strict=True))
    return [_account(cut(ordered, *own), name) for name, own in sorted(ends.items()) if own[0] < own[1]]


def _account(queries: QueryBatch, name: str) -> QueryBatch:
    return replace(queries, principals=[name], principal_index=np.zeros(len(queries), np.int32))


def _check_form(pieces: Sequence[QueryBatch]) -> None:
    forms = sorted({(own.dimension, own.output_kind, own.outputs.shape[1]) for own in pieces})
    if len(forms) > 1:
        told = " and ".join(f"{features} features with {width} {kind}" for features, kind, width in forms)
        first = pieces[0]
        raise ConfigurationError(
            f"{first.model} {first.model_version}: the logs have queries of {told}; a model version has one form: give "
            "logs of one"
        )


def _alike(pieces: Sequence[QueryBatch]) -> list[QueryBatch]:
    """Returns the batches with the optional columns that all of them have, and with missing features if any batch has
    them."""
    partial = {name for name in COLUMNS if any(getattr(own, name) is None for own in pieces)}
    masked = any(own.missing is not None for own in pieces)
    without: dict[str, Any] = dict.fromkeys(partial - {"missing"})
    alike = [replace(own, **without) for own in pieces]
    return [
        replace(own, missing=np.zeros(own.features.shape, np.bool_)) if masked and own.missing is None else own
        for own in alike
    ]


def _listed(versions: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{model} {version}" for model, version in versions) or "no model"
