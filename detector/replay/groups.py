"""Groups in recorded queries: the verdicts of ``groups``, row by row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import QueryBatch
from detector.core.calibration.crossfit import COLUMNS
from detector.core.engine import Observation
from detector.core.pipeline.plan import labels_of
from detector.core.profile import Profile, ProfileMatcher
from detector.core.state.arrays import Array
from detector.groups.watch import CHANCE, GroupRevision, GroupWatch, JudgedQueries

_LEAST_CHANCE = 1e-300


@dataclass(frozen=True, slots=True)
class GroupsInBatch:
    """``ids`` object (n,): for each row of a micro-batch the group under a verdict that its principal belongs to as of
    that row, or None. ``revisions``, each with its model and version."""

    ids: NDArray[np.object_]
    revisions: list[tuple[str, str, GroupRevision]]


class GroupReplay:
    """Watches the accounts of each model version whose profile has a crowd."""

    def __init__(self, profiles: Sequence[Profile]) -> None:
        self._matcher = ProfileMatcher(profiles)
        self._watches = {
            (own.model, own.model_version): GroupWatch(own, COLUMNS) for own in profiles if own.crowd is not None
        }

    def observe(self, pieces: Sequence[QueryBatch], observation: Observation) -> GroupsInBatch:
        """Learns from the judged queries of ``pieces`` and returns the groups as of each of their rows."""
        found = GroupsInBatch(np.full(len(observation.index), None, object), [])
        if self._watches:
            start = 0
            for piece in pieces:
                self._observe(piece, observation, start, found)
                start += len(piece)
        return found

    def _observe(self, piece: QueryBatch, observation: Observation, start: int, found: GroupsInBatch) -> None:
        span = slice(start, start + len(piece))
        named = observation.key_index[span]
        judged = (observation.index[span] >= 0) & ~np.isnan(observation.signals["suspicion"][span])
        rows = np.flatnonzero(judged)
        key = observation.keys[named[rows[0]]] if len(rows) else None
        watch = None if key is None else self._watches.get((key.model, key.model_version))
        if key is None or watch is None:
            return
        used, principal = np.unique(named[rows], return_inverse=True)
        names = [observation.keys[at].principal for at in used.tolist()]
        ids = np.array([watch.group_of(name) for name in names], object)[principal]
        fresh = ~observation.repeats[span][rows]
        queries = self._queries(piece, observation, start, rows[fresh], names, principal[fresh])
        number = {name: at for at, name in enumerate(names)}
        for own in watch.observe(queries):
            found.revisions.append((key.model, key.model_version, own))
            for name in own.joined:
                ids[(principal == number.get(name, -1)) & (start + rows >= own.row)] = own.id
        found.ids[start + rows] = ids

    def _queries(
        self,
        piece: QueryBatch,
        observation: Observation,
        start: int,
        rows: Array,
        names: Sequence[str],
        principal: Array,
    ) -> JudgedQueries:
        """Returns the ``rows`` of ``piece``, whose first row is ``start`` in ``observation``, each of a ``principal``
        int64 (n,) among ``names``."""
        plain = self._matcher.plain(piece, Counter())
        deviations = [observation.signals[f"suspicion.{name}"][start + rows] for name in COLUMNS]
        return JudgedQueries(
            features=plain.features[rows],
            label=labels_of(plain)[rows],
            principals=names,
            principal=principal,
            distance=observation.signals["suspicion"][start + rows],
            deviations=np.column_stack(deviations),
            row=start + rows,
        )


def group_record(model: str, version: str, revision: GroupRevision, row: int) -> dict[str, Any]:
    """Returns a line of ``groups.jsonl``, all but the members; ``row`` counts judged rows of the whole replay from 0,
    and ``score`` is 1 at the verdict."""
    return {
        "id": revision.id,
        "revision": revision.revision,
        "model": model,
        "model_version": version,
        "row": row,
        "score": log(max(revision.chance, _LEAST_CHANCE)) / log(CHANCE),
        "chance": revision.chance,
        "evidence": [{"name": own.name, "value": own.value, "unit": own.unit} for own in revision.evidence],
    }
