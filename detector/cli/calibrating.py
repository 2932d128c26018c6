"""From honest traffic, and what the owner gives besides, to a profile that says how it was made."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import detector
from detector.cli.honest import Traffic, digest_of
from detector.contracts.errors import ConfigurationError
from detector.contracts.queries import QueryBatch
from detector.core.calibration.accounts import accounts_of, of_one_version
from detector.core.calibration.owned import Owned
from detector.core.calibration.screening import Screened, calibrate_screened
from detector.core.owner_model import from_json
from detector.core.profile import Profile
from detector.core.stream import labels_of
from detector.core.validation import ROWS, Validation
from detector.runtime.text_files import read_text
from detector.sources import format_of

SEED = 0
"""The same files make the same profile."""


@dataclass(frozen=True, slots=True)
class Request:
    """What ``calibrate`` was asked for. ``keep``: accounts that stay whatever they look like."""

    budget: float
    model: str | None = None
    model_version: str | None = None
    validation: Path | None = None
    owner_model: Path | None = None
    keep: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Made:
    """The ``profile``, how it came about, and how many ``queries`` it rests on."""

    profile: Profile
    screened: Screened
    queries: int


def make_profile(traffic: Traffic, request: Request, progress: Callable[[int], None] | None = None) -> Made:
    """A profile from honest ``traffic``; ``progress`` is told of accounts as they are replayed. Raises
    ConfigurationError."""
    pieces = of_one_version(traffic.pieces, request.model, request.model_version)
    accounts = accounts_of(pieces)
    _check_names(request.keep, accounts)
    owned = Owned(_owner_model(request.owner_model), _validation(request.validation, pieces[0]))
    screened = calibrate_screened(accounts, request.budget, SEED, request.keep, progress, owned)
    named = set(screened.calibration.accounts)
    queries = sum(len(own) for own in accounts if own.principals[0] in named)
    given = [path for path in (request.validation, request.owner_model) if path is not None]
    digests = [*traffic.digests, *map(digest_of, given)]
    made = _provenance(screened, request.budget, queries, digests)
    return Made(replace(screened.calibration.profile, made=made), screened, queries)


def _check_names(keep: Collection[str], accounts: list[QueryBatch]) -> None:
    strangers = set(keep) - {own.principals[0] for own in accounts}
    if strangers:
        raise ConfigurationError(f"--keep: there is no account {', '.join(sorted(strangers))} in the honest logs")


def _provenance(screened: Screened, budget: float, queries: int, digests: list[str]) -> dict[str, Any]:
    """Names are left out: whoever may read a profile need not know whose queries it was made from."""
    reference = screened.calibration.profile.reference
    low, high = screened.achieved.interval
    return {
        "code_version": detector.__version__,
        "budget": budget,
        "accounts": screened.achieved.accounts,
        "accounts_left_out": len(screened.left_out),
        "queries": queries,
        "flagged": screened.achieved.flagged,
        "rate": screened.achieved.rate,
        "rate_low": low,
        "rate_high": high,
        "data": digests,
        "feature_scale": "as logged" if bool((reference.scale == 1).all()) else "divided by ranges",
        "embedding_axes": int(reference.embedding.axes.shape[1]),
    }


def _owner_model(path: Path | None) -> Any:
    if path is None:
        return None
    text = read_text(path, "--model")
    try:
        return from_json(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"--model: {path}: {error}") from error


def _validation(path: Path | None, honest: QueryBatch) -> Validation | None:
    """Of the log at ``path``; of more rows than are kept, random ones."""
    if path is None:
        return None
    pieces = [portion.batch for portion in format_of(path).read(path) if portion.batch is not None]
    if not pieces or {own.dimension for own in pieces} != {honest.dimension}:
        found = sorted({own.dimension for own in pieces})
        raise ConfigurationError(
            f"--validation: {path} has rows of {found or 'no'} features and the honest logs {honest.dimension}; give "
            "rows in the form that the model is asked in"
        )
    features = np.concatenate([own.features for own in pieces])
    labels = np.concatenate([labels_of(own) for own in pieces])
    kept = np.sort(np.random.default_rng(SEED).permutation(len(features))[:ROWS])
    return Validation.of(features[kept], labels[kept])
