"""Rolling checkpoints: which principals' state is rewritten when, so that the state log stays bounded.

A round rewrites every principal once, between the deltas and never faster than they come. The log before a round's
first chunk may be deleted once the round has ended: chunks and later deltas hold everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from detector.core.engine import PrincipalKey, Sections
from detector.groups.owner import SECTION as GROUPS_SECTION
from detector.groups.owner import GroupOwner
from detector.stream.detector import ACCOUNTING_SECTION, ALLOWLIST_SECTION, BUDGETS_SECTION, POLICY_SECTION, Detector

_LEDGER_KEYS = 1_000


class Checkpointer:
    """Paces the rounds of one partition. ``round_bytes``: the bytes of deltas before a new round begins.
    ``first_chunk``: the offset of the first chunk of the round, None before it is written."""

    def __init__(self, detector: Detector, groups: GroupOwner, round_bytes: int, chunk_bytes: int) -> None:
        self.first_chunk: int | None = None
        self._detector = detector
        self._groups = groups
        self._round_bytes = round_bytes
        self._chunk_bytes = chunk_bytes
        self._since_round = 0
        self._credit = 0
        self._round: Iterator[Sections] | None = None

    def logged(self, nbytes: int) -> None:
        """Counts a delta of ``nbytes`` that went into the log."""
        self._since_round += nbytes
        self._credit += nbytes
        if self._round is None and self._since_round >= self._round_bytes:
            self._round = self._chunks()
            self._since_round = self._credit = 0

    def due(self) -> bool:
        """Returns whether a chunk, or the end of the round, should be written now."""
        return self._round is not None and self._credit > 0

    def next_chunk(self) -> Sections | None:
        """Returns the sections of the next chunk, or None when the round holds all principals."""
        return None if self._round is None else next(self._round, None)

    def chunk_written(self, offset: int, nbytes: int) -> None:
        """Notes that a chunk of ``nbytes`` is at ``offset`` of the log."""
        self._credit -= nbytes
        if self.first_chunk is None:
            self.first_chunk = offset

    def ended(self) -> None:
        """Notes that the record that ends the round is in the log."""
        self._round = self.first_chunk = None

    def _chunks(self) -> Iterator[Sections]:
        """Yields the chunks of a round. The principals are listed as the first chunk is made: what came before it is
        deleted with the round's end."""
        engine, ledger = self._detector.engine, self._detector.ledger
        principals = list(engine.keys())
        parts = (
            (POLICY_SECTION, ledger.keys(), ledger.dump),
            (ACCOUNTING_SECTION, ledger.accounting.keys(), ledger.accounting.dump),
            (BUDGETS_SECTION, ledger.budgets.keys(), ledger.budgets.dump),
        )
        for section in self._groups.dump():  # first, as its deltas are the costliest to apply
            yield {GROUPS_SECTION: section}
        if (allowlist := ledger.exemptions.dump()) is not None:
            yield {ALLOWLIST_SECTION: allowlist}
        for keys in self._batches(principals):
            yield engine.dump(keys)
        for name, keys_of, dump in parts:
            for start in range(0, len(keys_of), _LEDGER_KEYS):
                yield {name: dump(keys_of[start : start + _LEDGER_KEYS])}

    def _batches(self, principals: Sequence[PrincipalKey]) -> Iterator[list[PrincipalKey]]:
        """Yields ``principals`` that are still held, in batches of the bytes of a chunk."""
        batch: list[PrincipalKey] = []
        room = self._chunk_bytes
        for key in principals:
            nbytes = self._detector.engine.nbytes_of(key)
            if nbytes:
                batch.append(key)
                room -= nbytes
            if room <= 0:
                yield batch
                batch, room = [], self._chunk_bytes
        if batch:
            yield batch
