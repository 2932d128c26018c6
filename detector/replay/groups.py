"""Groups in recorded queries: the verdicts of ``groups``, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.core.engine import Observation
from detector.core.pipeline.run import ProfiledRows
from detector.core.profile import Profile
from detector.groups.links import sampled_cells
from detector.groups.queries import selected_queries
from detector.groups.watch import CHANCE, GroupRevision, GroupWatch

_LEAST_CHANCE = 1e-300


@dataclass(frozen=True, slots=True)
class GroupsInBatch:
    """``ids`` object (n,): for each row of a micro-batch, the group under a verdict to which its principal belongs
    after that row, or None. ``revisions``, each with its model and version."""

    ids: NDArray[np.object_]
    revisions: list[tuple[str, str, GroupRevision]]


class GroupReplay:
    """Watches the accounts of each model version whose profile has a crowd."""

    def __init__(self, profiles: Sequence[Profile]) -> None:
        self._watches = {
            (profile.model, profile.model_version): (GroupWatch(profile), sampled_cells(profile.reference))
            for profile in profiles
            if profile.crowd is not None
        }

    def observe(self, observation: Observation) -> GroupsInBatch:
        """Learns from the judged queries of ``observation`` and returns the groups after each of its rows."""
        found = GroupsInBatch(np.full(len(observation.index), None, object), [])
        for profiled in observation.profiled:
            self._observe(profiled, observation, found)
        found.revisions.sort(key=lambda revision: revision[2].row)
        return found

    def _observe(self, profiled: ProfiledRows, observation: Observation, found: GroupsInBatch) -> None:
        watch, sampled = self._watches[profiled.model, profiled.model_version]
        named = observation.key_index[profiled.row]
        used, principal = np.unique(named, return_inverse=True)
        names = [observation.keys[at].principal for at in used.tolist()]
        ids = np.array([watch.group_of(name) for name in names], object)[principal]
        number = {name: at for at, name in enumerate(names)}
        for revision in watch.observe(selected_queries([profiled], observation, sampled)):
            found.revisions.append((profiled.model, profiled.model_version, revision))
            for name in revision.joined:
                if name in number:
                    ids[(principal == number[name]) & (profiled.row >= revision.row)] = revision.id
        found.ids[profiled.row] = ids


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
        "family": revision.family,
        "evidence": [
            {"name": evidence.name, "value": evidence.value, "unit": evidence.unit} for evidence in revision.evidence
        ],
    }
