"""Which re-keyed records have arrived already: a previous owner's outbox may repeat them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detector.contracts.errors import InvalidRecord
from detector.contracts.queries import BadRow
from detector.stream.intake import SourceRecord, origin_of


class Origins:
    """``latest``: by partition of first arrival, the last offset of it that has arrived."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self.latest: dict[int, int] = {}

    def absorb(self, latest: Mapping[int, int]) -> None:
        """Applies the origins of a state record."""
        self.latest.update(latest)

    def unseen(self, records: Sequence[SourceRecord]) -> tuple[list[SourceRecord], dict[int, list[BadRow]]]:
        """Returns the ``records`` that count, and the reasons of those without a valid origin, by position."""
        unseen, refused = [], {}
        for at, record in enumerate(records):
            if record.source == "rekeyed":
                try:
                    partition, offset = origin_of(record, self._partitions)
                except InvalidRecord as error:
                    refused[at] = [BadRow(-1, error.reason, error.detail)]
                    continue
                if offset <= self.latest.get(partition, -1):
                    continue
                self.latest[partition] = offset
            unseen.append(record)
        return unseen, refused
