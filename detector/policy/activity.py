"""The input of the ledger and its output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import NewerStateLog, StateLogError
from detector.contracts.findings import Alert, Audit, Command, Decision, Family, Finding
from detector.contracts.queries import Count

Key = tuple[str, str]
"""(model, principal)."""

Affiliation = tuple[str, str]
"""(organisation, network prefix) of a query, as it was logged; empty where it was not."""
UNAFFILIATED: Affiliation = ("", "")

Section = tuple[int, bytes]
"""(format version, bytes): the ledger's or the accounting's part of a state record."""

_State = TypeVar("_State")


class ModelPrincipal(Protocol):
    """Model, version and principal of a row, as the engine gives them."""

    @property
    def model(self) -> str: ...
    @property
    def model_version(self) -> str: ...
    @property
    def principal(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Counted:
    """A count and its position: before row ``at_row`` (0..n) of the micro-batch, at policy time ``time``."""

    count: Count
    time: float
    at_row: int
    learning: bool = False


@dataclass(frozen=True, slots=True)
class UnjudgedRow:
    """Why a row could not be judged, and the model version that answered it."""

    reason: str
    model_version: str


@dataclass(frozen=True, slots=True)
class Accusation:
    """From here on the counted queries of the principal ``key`` give a finding of ``signal``, or (``finding`` None) no
    longer do."""

    key: Key
    signal: str
    finding: Finding | None


@dataclass(frozen=True, slots=True)
class Activity:
    """The ``n`` rows of a micro-batch, as the policy reads them, in log order.

    ``time`` float64 (n,): policy time in seconds, never falling, within the batch or between batches. ``keys``
    and ``key_index`` int32 (n,): the principal of each row. ``flagged`` bool (n,): the engine's verdict as of the row.
    ``findings``: the rows that made suspects. ``learning`` bool (n,): rows of the backlog, on which nothing is
    enforced; None for no row. ``counts``: queries without features, in order of ``at_row``. ``judged`` bool (n,): rows
    that the engine judged; None for all. ``unjudged`` has the others by row. ``score`` float64 (n,) and ``index`` int64
    (n,): normalised suspicion and the query's number from 0, as the engine gives them; None if they are unknown, and
    then no severity rises. ``exposure`` float64 (n,): percent of the model that the principal has learned, NaN where it
    is unknown; None for all. ``affiliations`` (n,): from where each query came; None where no exemption asks for it.
    ``organisations`` (n,): the organisation of each query, empty where it was not logged; None where no budget asks.
    ``price`` float64 (n,): what each query taught, in effective queries; NaN where it is unknown, None for all.
    ``families``: rows of suspects for content alone at which evidence of another family counts.

    Rows and counts together are the events of the micro-batch. An event's position is its index among them, in log
    order: a count comes before the row that it names.
    """

    time: NDArray[np.float64]
    keys: Sequence[ModelPrincipal]
    key_index: NDArray[np.int32]
    flagged: NDArray[np.bool_]
    findings: Sequence[Finding] = ()
    learning: NDArray[np.bool_] | None = None
    counts: Sequence[Counted] = ()
    judged: NDArray[np.bool_] | None = None
    unjudged: Mapping[int, UnjudgedRow] = field(default_factory=dict)
    score: NDArray[np.float64] | None = None
    index: NDArray[np.int64] | None = None
    exposure: NDArray[np.float64] | None = None
    price: NDArray[np.float64] | None = None
    affiliations: Sequence[Affiliation] | None = None
    organisations: Sequence[str] | None = None
    families: Mapping[int, Family] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.time)

    @property
    def ends_at(self) -> float:
        """The policy time of the last row or count; minus infinity for nothing at all."""
        last_row = float(self.time[-1]) if len(self.time) else -np.inf
        return max([last_row, *(counted.time for counted in self.counts[-1:])])

    def row_positions(self) -> NDArray[np.int64]:
        """Returns the position of each row, int64 (n,)."""
        rows = np.arange(len(self))
        return rows + np.searchsorted([counted.at_row for counted in self.counts], rows, side="right")

    def count_positions(self) -> list[int]:
        """Returns the position of each of ``counts``."""
        return [counted.at_row + at for at, counted in enumerate(self.counts)]


@dataclass(slots=True)
class Effects:
    """The records to publish, in stream order, and the state to record.

    Decisions carry the epoch (0, 0): the writer of the state record sets it. ``section``: the ledger's delta,
    ``accounting`` that of the counts of unjudged queries, ``budgets`` that of exposure budgets, and ``allowlist`` that
    of exemptions, None where nothing changed. ``clear``: principals whose
    engine state must be dropped, in all model versions. ``excused``: by model, unjudged queries that accuse no
    one because most of the model's principals send such queries. ``forgotten``: principals whose counts were evicted
    because the limit was reached. ``budgets_used``: model and used share of the budget, of each principal with one.
    ``spends``: commands to the owners of all other partitions, about shared budgets.
    """

    alerts: list[Alert] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    audits: list[Audit] = field(default_factory=list)
    section: Section | None = None
    accounting: Section | None = None
    budgets: Section | None = None
    allowlist: Section | None = None
    clear: list[Key] = field(default_factory=list)
    excused: Counter[str] = field(default_factory=Counter)
    forgotten: int = 0
    budgets_used: list[tuple[str, float]] = field(default_factory=list)
    spends: list[Command] = field(default_factory=list)


def decode_section(name: str, section: Section, newest: int, decoder: msgspec.msgpack.Decoder[_State]) -> _State:
    """Decodes the section ``name``. Raises NewerStateLog for a format above ``newest``, and StateLogError for bytes
    that cannot be read."""
    version, data = section
    if version > newest:
        raise NewerStateLog(
            f"{name} section: format {version} was written by a later Weirguard, this one reads up to {newest}; "
            "run that version or a later one"
        )
    try:
        return decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise StateLogError(f"{name} section of {len(data)} bytes cannot be read: {error}") from error
