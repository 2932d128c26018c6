"""What the ledger keeps of one principal of one model, and its form in the state log."""

from __future__ import annotations

import math

import msgspec

from detector.contracts.errors import NewerStateLog, StateLogError
from detector.contracts.findings import HIGH_SCORE, Action, Alert, Cause, Decision, Mode
from detector.policy.activity import Key, Section

FORMAT = 2
"""The second has the last alert with each latch; the first is read."""
DAY = 86_400.0
IDLE_SECONDS = 30 * DAY
"""A suspect not heard of for so long is forgotten, or a ledger would grow for ever."""


class Latch(msgspec.Struct, array_like=True, frozen=True):
    """A signal's standing verdict on one model version. ``lifted``: an operator deleted the cause it gave. ``alert``:
    the last one published of it, None where there was none or format 1 did not say."""

    model_version: str
    signal: str
    episode: int
    lifted: bool = False
    alert: Alert | None = None

    @property
    def rises_at(self) -> float:
        """The score from which its alert says less than it should; infinity for none or the highest severity."""
        return HIGH_SCORE if self.alert is not None and self.alert.severity != "high" else math.inf

    @property
    def nbytes(self) -> int:
        """Memory in bytes, to within a third."""
        return 250 if self.alert is None else 1_400 + 250 * len(self.alert.evidence)


class Standing(msgspec.Struct, array_like=True, frozen=True):
    """One cause, and what it alone asks for."""

    cause: Cause
    action: Action
    mode: Mode


class Entry(msgspec.Struct, array_like=True):
    """One principal of one model.

    ``decision``: the last one published, until it expires. ``queries``: how many he made as a suspect, as far as
    the ladder cares. ``episode``: the number of his last latch. ``seen``: when he was last active as a suspect,
    to the day. The parts are immutable, so that a copy need not be deep.
    """

    latches: tuple[Latch, ...] = ()
    standings: tuple[Standing, ...] = ()
    decision: Decision | None = None
    queries: int = 0
    episode: int = -1
    seen: float = -math.inf

    @property
    def droppable_at(self) -> float:
        """The policy time from which this entry means nothing more than none."""
        ends = [standing.cause.expires_at for standing in self.standings]
        if self.decision is not None:
            ends.append(self.decision.expires_at)
        if self.latches:
            ends.append(self.seen + IDLE_SECONDS)
        return max([self.episode + 1.0, *ends])

    @property
    def nbytes(self) -> int:
        """Memory in bytes, to within a third."""
        causes = len(self.standings) + (len(self.decision.causes) if self.decision else 0)
        return 800 + 350 * causes + sum(latch.nbytes for latch in self.latches)


class _Row(msgspec.Struct, array_like=True, frozen=True):
    model: str
    principal: str
    entry: Entry | None


Changes = dict[Key, Entry | None]
"""After-values of the entries that changed; None for one that is gone."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[_Row])


def encode_changes(changes: Changes) -> Section:
    """The section that :func:`decode_changes` turns back into ``changes``, in the same order."""
    return FORMAT, _encoder.encode([_Row(*key, entry) for key, entry in changes.items()])


def decode_changes(section: Section) -> Changes:
    """Raises NewerStateLog for a later format and StateLogError for bytes that are none of ours."""
    version, data = section
    if version > FORMAT:
        raise NewerStateLog(
            f"policy section: format {version} was written by a later Weirguard, this one reads up to {FORMAT}; "
            "run that version or a later one"
        )
    try:
        rows = _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise StateLogError(f"policy section of {len(data)} bytes cannot be read: {error}") from error
    return {(row.model, row.principal): row.entry for row in rows}
