"""The progress of a worker's partitions, every few seconds: what Faust's consumer knows of them, for the reporter."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import faust
from faust.types import TP

from detector.contracts.errors import ConfigurationError
from detector.contracts.topics import Topics
from detector.stream import faust_edges
from detector.stream.agreement import Reach
from detector.stream.exits import Exit, stop_now
from detector.stream.partition import Partition
from detector.stream.reporter import Reporter


class Survey:
    """``sources``: the names of the topics that are read, as attributes of ``topics``."""

    def __init__(self, app: faust.App, topics: Topics, sources: Sequence[str], reporter: Reporter) -> None:
        self._app = app
        self._topics = {source: getattr(topics, source) for source in sources}
        self._reporter = reporter
        self._reach = Reach(topics)

    async def take(self, ready: Sequence[Partition], in_thread: Callable[..., Awaitable[Any]]) -> None:
        """Checks the partitions that are ``ready``; ``in_thread`` alone touches their state. Ends the process where a
        source keeps ending before the applied offset."""
        places = {TP(name, one.number): (source, one.number) for source, name in self._topics.items() for one in ready}
        readings = faust_edges.readings(self._app)
        heard_at = max((one.heard_at for one in readings.values()), default=None)
        self._reporter.heard(heard_at, faust_edges.any_connection(self._app))
        known = {places[tp]: reading for tp, reading in readings.items() if tp in places}
        committed = faust_edges.committed_offsets(self._app)
        applied = {(source, one.number): one.applied.get(source, -1) for source in self._topics for one in ready}
        try:
            self._reach.check({place: reading.end for place, reading in known.items()}, applied)
        except ConfigurationError as error:
            stop_now(Exit.CONFIGURATION, str(error))
        done = {places[tp]: offset for tp, offset in committed.items() if tp in places}
        await in_thread(self._reporter.survey, ready, known, done)
