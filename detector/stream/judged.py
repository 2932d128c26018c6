"""What the owner of a partition sends to the owners that watch groups: the judged queries that matter to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from detector.contracts.topics import Topics, watch_partition
from detector.core.engine import Observation
from detector.core.pipeline.run import ProfiledRows
from detector.core.profile import Profile
from detector.groups.judged_record import JudgedRecord, Source, encode_judged
from detector.groups.links import sampled_cells
from detector.groups.queries import selected_queries
from detector.stream.intake import DecodedRecords
from detector.stream.state_log import Message


class JudgedQueriesOutlet:
    """Selects the judged queries of partition ``partition`` for groups, of model versions whose profile has a crowd."""

    def __init__(self, profiles: Sequence[Profile], topics: Topics, partition: int, partitions: int) -> None:
        self._topic = topics.judged
        self._partition = partition
        self._partitions = partitions
        self._known = {
            (profile.model, profile.model_version): (profile.hash, sampled_cells(profile.reference))
            for profile in profiles
            if profile.crowd is not None
        }

    def messages(self, decoded: DecodedRecords, observation: Observation) -> Iterator[Message]:
        """Yields the messages about ``observation`` of ``decoded``, to the owners of their model versions."""
        by_version: dict[tuple[str, str], list[ProfiledRows]] = {}
        for part in observation.profiled:
            by_version.setdefault((part.model, part.model_version), []).append(part)
        for (model, version), parts in by_version.items():
            home = watch_partition(model, version, self._partitions)
            for value in encode_judged(self._record(decoded, parts, observation)):
                yield Message(self._topic, home, None, value)

    def _record(self, decoded: DecodedRecords, parts: Sequence[ProfiledRows], observation: Observation) -> JudgedRecord:
        model, version = parts[0].model, parts[0].model_version
        profile, sampled = self._known[model, version]
        queries = selected_queries(parts, observation, sampled)
        rows = queries.row
        offsets = np.array([record.offset for record in decoded.records], np.int64)
        learning = np.zeros(len(rows), np.bool_) if decoded.learning is None else decoded.learning[rows]
        return JudgedRecord(
            model,
            version,
            profile,
            cast(Source, decoded.records[0].source),
            self._partition,
            replace(queries, row=decoded.row_of[rows]),
            offsets[decoded.record_of[rows]],
            decoded.times[rows],
            learning,
        )
