"""Rolling checkpoints: which principals' state is rewritten when, so that the state log stays bounded.

A round rewrites every principal once, between the deltas and never faster than they come. The log before a round's
first chunk may be deleted once the round has ended: chunks and later deltas hold everything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from detector.core.engine import PrincipalKey, Sections
from detector.stream.detector import ACCOUNTING_SECTION, POLICY_SECTION, Detector

_LEDGER_KEYS = 1_000


class Checkpointer:
    """Paces the rounds of one partition. ``round_bytes``: the bytes of deltas before a new round begins."""

    def __init__(self, detector: Detector, round_bytes: int, chunk_bytes: int) -> None:
        self._detector = detector
        self._round_bytes = round_bytes
        self._chunk_bytes = chunk_bytes
        self._since_round = 0
        self._credit = 0
        self._keys: deque[PrincipalKey] = deque()
        self._ledger_keys: deque[tuple[str, str]] = deque()
        self._accounts: deque[tuple[str, str]] = deque()
        self.first_chunk: int | None = None
        self.in_round = False
        self._listed = False

    def logged(self, nbytes: int) -> None:
        """A delta of ``nbytes`` went into the log."""
        self._since_round += nbytes
        self._credit += nbytes
        if not self.in_round and self._since_round >= self._round_bytes:
            self._begin()

    def due(self) -> bool:
        """Whether a chunk, or the end of the round, should be written now."""
        return self.in_round and self._credit > 0

    def next_chunk(self) -> Sections | None:
        """Returns the sections of the next chunk, or None when the round holds all principals."""
        if not self._listed:
            self._list()
        keys = self._engine_keys()
        if keys:
            return self._detector.engine.dump(keys)
        if self._ledger_keys:
            taken = [self._ledger_keys.popleft() for _ in range(min(_LEDGER_KEYS, len(self._ledger_keys)))]
            return {POLICY_SECTION: self._detector.ledger.dump(taken)}
        if self._accounts:
            taken = [self._accounts.popleft() for _ in range(min(_LEDGER_KEYS, len(self._accounts)))]
            return {ACCOUNTING_SECTION: self._detector.ledger.accounting.dump(taken)}
        return None

    def chunk_written(self, offset: int, nbytes: int) -> None:
        """A chunk of ``nbytes`` stands at ``offset`` of the log."""
        self._credit -= nbytes
        if self.first_chunk is None:
            self.first_chunk = offset

    def ended(self) -> None:
        """The record that ends the round stands in the log."""
        self.in_round = self._listed = False
        self.first_chunk = None

    def _begin(self) -> None:
        self.in_round = True
        self.first_chunk = None
        self._since_round = self._credit = 0

    def _list(self) -> None:
        """Lists the principals as the first chunk is made: what came before it is deleted with the round's end."""
        self._listed = True
        self._keys = deque(self._detector.engine.keys())
        self._ledger_keys = deque(self._detector.ledger.keys())
        self._accounts = deque(self._detector.ledger.accounting.keys())

    def _engine_keys(self) -> Sequence[PrincipalKey]:
        taken: list[PrincipalKey] = []
        room = self._chunk_bytes
        while self._keys and room > 0:
            key = self._keys.popleft()
            nbytes = self._detector.engine.nbytes_of(key)
            if nbytes:
                taken.append(key)
                room -= nbytes
        return taken
