"""The odometer over a replay: what clones of the answers that accounts and groups got would be worth.

Of each account it keeps answered queries at even distances, so that a reading needs no second look at the logs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import OutputKind, QueryBatch
from detector.core.engine import EngineConfig, Observation
from detector.core.profile import ProfileMatcher
from detector.replay.odometer import MAX_TRAINING_QUERIES, Odometer, Reading

MOST_READ = 100
"""Accounts that are read at most, as a reading takes 30 to 60 ms of CPU."""
MOST_BYTES = 256 << 20
"""Bytes of answered queries that are kept; beyond that, accounts of the fewest are forgotten."""

Account = tuple[str, str]
"""(model, principal)."""


@dataclass(slots=True)
class _Answers:
    """Every ``stride``-th of the queries, ``seen`` in all, that the last model version it asked answered an account;
    repeats are left out."""

    version: str
    output_kind: OutputKind
    seen: int = 0
    stride: int = 1
    kept: int = 0
    features: list[NDArray[np.float32]] = field(default_factory=list)
    outputs: list[NDArray[np.float32]] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        return 4 * self.kept * sum(self.shape)

    @property
    def shape(self) -> tuple[int, int]:
        """Returns the numbers of features and outputs."""
        return (self.features[0].shape[1], self.outputs[0].shape[1]) if self.features else (-1, -1)

    def add(self, features: NDArray[np.float32], outputs: NDArray[np.float32]) -> int:
        """Adds further queries (n, d) with their answers (n, k); returns how many bytes more are kept."""
        before = self.nbytes
        kept = np.arange(-self.seen % self.stride, len(features), self.stride)
        self.seen += len(features)
        if len(kept):
            self.features.append(features[kept])
            self.outputs.append(outputs[kept])
            self.kept += len(kept)
        while self.kept >= 2 * MAX_TRAINING_QUERIES:
            self.stride *= 2
            self.features, self.outputs = (
                [np.concatenate(parts)[::2].copy()] for parts in (self.features, self.outputs)
            )
            self.kept = len(self.features[0])
        return self.nbytes - before


class Readings:
    """Keeps answered queries to the model versions whose profile has a validation set."""

    def __init__(self, config: EngineConfig) -> None:
        self._matcher = ProfileMatcher(config.judging)
        self._odometers = {
            (profile.model, profile.model_version): Odometer(profile.validation, profile.reference.scale)
            for profile in config.judging
            if profile.validation is not None
        }
        self._answers: dict[Account, _Answers] = {}
        self._nbytes = 0

    def add(self, pieces: Iterable[QueryBatch], observation: Observation) -> None:
        """Adds the queries of a micro-batch, those that were judged and are no repeats."""
        if not self._odometers:
            return
        start, counts = 0, (observation.index >= 0) & ~observation.repeats
        for piece in pieces:
            rows = np.flatnonzero(counts[start : start + len(piece)])
            start += len(piece)
            version = self._matcher.judged_as(piece)
            if version is not None and (piece.model, version) in self._odometers and len(rows):
                self._add(version, self._matcher.plain(piece, Counter()), rows)
        while self._nbytes > MOST_BYTES:
            self._forget()

    def of_accounts(self, suspects: Sequence[Account]) -> dict[Account, Reading]:
        """Returns the readings of ``suspects`` and then of those who asked most, MOST_READ at most."""
        most = sorted(self._answers, key=lambda account: (-self._answers[account].seen, account))
        chosen = [account for account in dict.fromkeys((*suspects, *most)) if account in self._answers][:MOST_READ]
        readings = self._read([account] for account in chosen)
        return {account: reading for account, reading in zip(chosen, readings, strict=True) if reading is not None}

    def of_groups(self, groups: Sequence[Sequence[Account]]) -> list[Reading | None]:
        """Returns the reading of what the members of each of ``groups`` were answered together."""
        return list(self._read(groups))

    def _add(self, version: str, piece: QueryBatch, rows: NDArray[np.int64]) -> None:
        """Adds ``rows`` of ``piece``, ascending, to the accounts that sent them."""
        order = rows[np.argsort(piece.principal_index[rows], kind="stable")]
        for part in np.split(order, np.flatnonzero(np.diff(piece.principal_index[order])) + 1):
            account = piece.model, piece.principals[piece.principal_index[part[0]]]
            answers, shape = self._answers.get(account), (piece.features.shape[1], piece.outputs.shape[1])
            known = None if answers is None else (answers.version, answers.output_kind, answers.shape)
            if answers is None or known != (version, piece.output_kind, shape):
                self._nbytes -= 0 if answers is None else answers.nbytes
                answers = self._answers[account] = _Answers(version, piece.output_kind)
            self._nbytes += answers.add(np.nan_to_num(piece.features[part]), piece.outputs[part])

    def _forget(self) -> None:
        """Forgets the half of the accounts that have asked least."""
        least = sorted(self._answers, key=lambda account: (self._answers[account].seen, account))
        for account in least[: (len(least) + 1) // 2]:
            self._nbytes -= self._answers.pop(account).nbytes

    def _read(self, unions: Iterable[Sequence[Account]]) -> Iterator[Reading | None]:
        """Yields the reading of what the accounts of each of ``unions``, of one model version, were answered."""
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        with threadpool_limits(1, "blas"):  # more threads only wait for one another on matrices of this size
            for accounts in unions:
                known = [(account[0], self._answers[account]) for account in accounts if account in self._answers]
                model, first = known[0] if known else ("", None)
                if first is None:
                    yield None
                    continue
                like = (first.version, first.output_kind, first.shape)
                fitting = [kept for _, kept in known if (kept.version, kept.output_kind, kept.shape) == like]
                features, outputs = (
                    np.concatenate([part for answers in fitting for part in getattr(answers, name)])
                    for name in ("features", "outputs")
                )
                yield self._odometers[model, first.version].read(features, outputs, first.output_kind)
