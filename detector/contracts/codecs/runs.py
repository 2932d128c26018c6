"""Decodes many records of queries together: each strictly, or loosely if that fails; then rows of one layout as one
batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from detector.contracts.codecs.limits import check_size
from detector.contracts.codecs.loose import Fields, text_of
from detector.contracts.codecs.screening import screen
from detector.contracts.errors import InvalidRecord
from detector.contracts.principals import is_name, usable_principal
from detector.contracts.queries import Count, DecodedQueries, DecodedRun, QueryBatch

if TYPE_CHECKING:
    import msgspec
    import numpy as np
    from numpy.typing import NDArray
else:
    from detector.contracts.lazy import msgspec, np


class ParsedRecord(Protocol):
    """A record whose columns have the lengths that it claims."""

    @property
    def rows(self) -> int: ...

    @property
    def counts(self) -> Sequence[Count]: ...


W = TypeVar("W")
P = TypeVar("P", bound=ParsedRecord)


@dataclass(frozen=True, slots=True)
class QueryFormat(Generic[W, P]):
    """The functions that decode one format: from bytes to the written form ``W``, and from that to ``P``.

    ``decoder`` returns the strict decoder, which raises msgspec's errors; all others raise InvalidRecord. ``fields``
    gets the value of a record. ``loose`` and ``parse`` count what they repair; ``parse`` also gets the time of the
    record (seconds) or None. ``owners`` returns the principals, None for one that is not a text, and the number of
    queries. ``layout`` is what records must share so that ``batch`` can join them. ``by_row``: a record has any number
    of rows, and each is bad by itself.
    """

    decoder: Callable[[], Callable[[bytes], W]]
    fields: Callable[[bytes], Fields]
    loose: Callable[[Fields, Counter[str]], W]
    parse: Callable[[W, float | None, Counter[str]], P]
    owners: Callable[[Fields], tuple[list[str | None], int]]
    layout: Callable[[P], object]
    batch: Callable[[Sequence[P]], QueryBatch]
    by_row: bool

    def read(self, value: bytes | None, repaired: Counter[str]) -> W:
        """Returns the record in ``value``. Raises InvalidRecord if it cannot be used at all."""
        data = check_size(value)
        try:
            return self.decoder()(data)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return self.loose(self.fields(data), repaired)

    def decode_run(self, values: Sequence[bytes | None], timestamps: Sequence[float | None]) -> DecodedRun:
        """Returns the queries and counts in the records ``values``. Does not raise for a bad one; its reason is one of
        ``limits.REASONS``. ``timestamps`` (seconds) replace absent or invalid times; None if there are none."""
        run = DecodedRun()
        layouts: dict[object, tuple[list[int], list[P]]] = {}
        for index, (value, timestamp) in enumerate(zip(values, timestamps, strict=True)):
            try:
                record = self.parse(self.read(value, run.repaired), timestamp, run.repaired)
            except InvalidRecord as error:
                run.refuse(index, error, *self._attribution(value))
                continue
            if record.counts:
                run.counts.extend((index, count) for count in record.counts)
            if record.rows:
                layout = self.layout(record)
                indexes, alike = layouts.get(layout) or layouts.setdefault(layout, ([], []))
                indexes.append(index)
                alike.append(record)
        for indexes, alike in layouts.values():
            self._screen(indexes, alike, timestamps, run)
        return run

    def decode(self, value: bytes | None, *, timestamp: float | None = None) -> DecodedQueries:
        """Returns the queries and counts in the one record ``value``; ``timestamp`` as in ``decode_run``. Raises only
        InvalidRecord, if the whole record is unusable; bad rows are listed."""
        run = self.decode_run([value], [timestamp])
        bad = [fault for _, fault in run.bad]
        if bad and bad[0].row < 0:
            raise InvalidRecord(bad[0].reason, bad[0].detail)
        batch, _, rows = run.parts[0] if run.parts else (None, None, np.zeros(0, dtype=np.int64))
        return DecodedQueries(batch, rows, [count for _, count in run.counts], bad, run.repaired)

    def _attribution(self, value: bytes | None) -> tuple[str, str, int]:
        """Returns the model, the principal if there is only one, and the number of queries of a refused record."""
        try:
            fields = self.fields(check_size(value))
        except InvalidRecord:
            return "", "", 1
        model, (principals, queries) = text_of(fields.get("model")) or "", self.owners(fields)
        only = principals[0] if len(principals) == 1 else None
        return model if is_name(model) else "", "" if only is None else usable_principal(only), queries

    def _screen(self, indexes: list[int], alike: list[P], timestamps: Sequence[float | None], run: DecodedRun) -> None:
        """Screens the rows of ``alike``, records of one layout, as one batch, and assigns each row to its record."""
        records, within = np.array(indexes, dtype=np.int64), np.zeros(len(alike), dtype=np.int64)
        if self.by_row:
            rows = [record.rows for record in alike]
            records = records.repeat(rows)
            within = np.arange(len(records)) - np.array([0, *accumulate(rows[:-1])]).repeat(rows)

        def record_times() -> NDArray[np.float64]:
            return np.array(timestamps, dtype=np.float64).take(records)

        decoded = screen(self.batch(alike), run.repaired, record_times)
        if decoded.bad_rows:
            for bad in decoded.bad_rows:
                moved = replace(bad, row=int(within[bad.row]) if self.by_row else -1)
                run.bad.append((int(records[bad.row]), moved))
            records, within = records[decoded.rows], within[decoded.rows]
        if decoded.batch is not None:
            run.parts.append((decoded.batch, records, within))
