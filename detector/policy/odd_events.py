"""The unjudged and dropped queries of a micro-batch, and the judged rows between them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import KeysView
from dataclasses import dataclass

import numpy as np

from detector.contracts.principals import plain
from detector.policy.account import OTHER
from detector.policy.activity import Activity, Key, Place

_UNKNOWN_VERSION = "unknown"
_WORD_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class OddEvent:
    """``queries`` of ``key`` to ``version`` that were "dropped" or "unjudged", at ``place``, after ``rows`` rows of the
    micro-batch."""

    place: Place
    rows: int
    kind: str
    key: Key
    version: str
    queries: int
    reason: str


def odd_events(activity: Activity) -> list[OddEvent]:
    """All unjudged and dropped queries of a micro-batch, in log order."""
    events = []
    for row, why in activity.unjudged.items():
        identity = activity.keys[activity.key_index[row]]
        key = identity.model, identity.principal
        events.append(OddEvent((2 * row + 1, 0), row, "unjudged", key, why.model_version, 1, why.reason))
    for at, counted in enumerate(activity.counts):
        count, place = counted.count, (2 * counted.at_row, at)
        if count.kind != "refused":
            key = count.model, count.principal
            reason = _word(count.reason) or count.kind
            events.append(OddEvent(place, counted.at_row, count.kind, key, _UNKNOWN_VERSION, count.queries, reason))
    events.sort(key=lambda event: event.place)
    return events


def _word(reason: str) -> str:
    """``reason`` if a record can hold it, else ``OTHER``: it comes from outside."""
    return reason if plain(reason, _WORD_CHARACTERS) else OTHER


class JudgedRows:
    """The judged rows of an activity, by principal and by model; each row is returned once."""

    def __init__(self, activity: Activity) -> None:
        judged = np.arange(len(activity)) if activity.judged is None else np.flatnonzero(activity.judged)
        own = activity.key_index[judged]
        order = np.argsort(own, kind="stable")
        self._rows, self._own = judged[order], own[order]
        self._bounds = np.searchsorted(self._own, np.arange(len(activity.keys) + 1)).tolist()
        self._names = [identity.principal for identity in activity.keys]
        self._members: dict[Key, list[int]] = {}
        for at, identity in enumerate(activity.keys):
            self._members.setdefault((identity.model, identity.principal), []).append(at)
            self._members.setdefault((identity.model, ""), []).append(at)
        self._found: dict[Key, tuple[list[int], list[int]]] = {}
        self._taken: dict[Key, int] = {}

    @property
    def keys(self) -> KeysView[Key]:
        """The keys that can have rows; (model, "") is the key of all rows of a model."""
        return self._members.keys()

    def of(self, key: Key, before: int) -> list[int]:
        """The next rows of ``key`` up to the row ``before``."""
        start, end = self._next(key, before)
        return self._of(key)[0][start:end]

    def principals_of(self, model: str, before: int) -> list[str]:
        """The principals of the next rows of ``model`` up to the row ``before``."""
        start, end = self._next((model, ""), before)
        return [self._names[own] for own in self._of((model, ""))[1][start:end]]

    def pass_by(self, key: Key, before: int) -> None:
        """Skips the rows of ``key`` up to the row ``before``."""
        self._next(key, before)

    def _next(self, key: Key, before: int) -> tuple[int, int]:
        start = self._taken.get(key, 0)
        end = self._taken[key] = bisect_left(self._of(key)[0], before, start)
        return start, end

    def _of(self, key: Key) -> tuple[list[int], list[int]]:
        """The rows of ``key`` in order, and the index of each row's principal."""
        if key not in self._found:
            parts = [slice(self._bounds[at], self._bounds[at + 1]) for at in self._members.get(key, ())]
            rows = np.concatenate([self._rows[:0], *(self._rows[part] for part in parts)])
            own = np.concatenate([self._own[:0], *(self._own[part] for part in parts)])
            order = np.argsort(rows)
            self._found[key] = rows[order].tolist(), own[order].tolist()
        return self._found[key]
