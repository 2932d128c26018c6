"""Queries: rows that a model scored, held in columns."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from detector.contracts.errors import InvalidRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OutputKind = Literal["probabilities", "label", "score", "none", "unstated"]
"""``none``: no outputs were logged. ``unstated``: one number per row of unknown meaning."""

CountKind = Literal["dropped", "refused", "unjudged"]
"""Lost before they were logged; refused by the gate, so never answered; answered, but not loggable."""

MisfitReason = Literal["model", "model_version", "features", "outputs"]
"""The property of queries for which there is no profile."""


@dataclass(frozen=True, slots=True)
class Count:
    """Queries of one principal without features. ``reason``: a word for why they are missing, may be empty."""

    model: str
    principal: str
    kind: CountKind
    queries: int
    occurred_at: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class QueryBatch:
    """Queries of one model version with one dimension, in log order, as columns of ``n`` rows.

    ``features`` float32 (n, d); ``outputs`` float32 (n, k), always the answer of the model before any perturbation;
    ``occurred_at`` float64 (n,) seconds UTC; ``principal_index`` int32 (n,) into ``principals``. Optional columns are
    None if the log does not have them: ``missing`` bool (n, d) marks features that were absent (stored as 0),
    ``hardness`` float32 (n,), ``leaf`` int64 (n,), ``specification`` float32 (n, 2) of requested accuracy and latency,
    ``served_mode`` and the infrastructure attributes are lists of n strings. ``hardness`` and ``specification`` are NaN
    in a row that lacks them.

    ``outputs`` of kind ``none`` are (n, 0); probabilities of one column are those of the second of two classes. A
    *loose* batch holds queries with names or texts, and a ``Form`` (``detector.core.forms``) makes it plain.
    ``feature_names`` (d + t) name the columns of ``features``, then those of ``texts``, each once; None: unnamed.
    ``texts`` object (n, t): features that are texts, None if missing. A list of features with a text among them is
    named by position from 1. In named batches NaN in ``features`` is missing as well. ``output_names`` object (n, k):
    the class that each output of the row stands for; of a label that is a text, (n, 1), the output is 1.
    """

    model: str
    model_version: str
    output_kind: OutputKind
    event_ids: list[str]
    occurred_at: NDArray[np.float64]
    principals: list[str]
    principal_index: NDArray[np.int32]
    features: NDArray[np.float32]
    outputs: NDArray[np.float32]
    missing: NDArray[np.bool_] | None = None
    hardness: NDArray[np.float32] | None = None
    leaf: NDArray[np.int64] | None = None
    specification: NDArray[np.float32] | None = None
    served_mode: list[str] | None = None
    network_prefix: list[str] | None = None
    organisation: list[str] | None = None
    user_agent_hash: list[str] | None = None
    feature_names: tuple[str, ...] | None = None
    texts: NDArray[np.object_] | None = None
    output_names: NDArray[np.object_] | None = None

    def __len__(self) -> int:
        return len(self.event_ids)

    @property
    def dimension(self) -> int:
        return int(self.features.shape[1])

    @property
    def is_loose(self) -> bool:
        """Whether it needs a form before the engine can judge it."""
        named = self.feature_names is not None or self.output_names is not None
        single = self.output_kind == "probabilities" and self.outputs.shape[1] == 1
        return named or single or self.output_kind == "unstated"


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was refused: its index in the record (-1 for all of it), a reason word and a sentence.

    ``model`` and ``principal``: of the unjudged query; empty if unknown. ``queries``: how many rows were refused, as
    far as known; 0 for a record that holds counts alone.
    """

    row: int
    reason: str
    detail: str
    model: str = ""
    principal: str = ""
    queries: int = 1


@dataclass(frozen=True, slots=True)
class DecodedQueries:
    """One Kafka record of queries, decoded: the good rows, the counts, and the refused rows.

    ``rows`` int64 (n,) gives the index within the record of each good row of ``batch``. ``repaired``: as in
    ``DecodedRun``.
    """

    batch: QueryBatch | None
    rows: NDArray[np.int64]
    counts: list[Count] = field(default_factory=list)
    bad_rows: list[BadRow] = field(default_factory=list)
    repaired: Counter[str] = field(default_factory=Counter)


Part = tuple[QueryBatch, "NDArray[np.int64]", "NDArray[np.int64]"]
"""Rows of several records: for each, the position of its record (ascending) and its index in the record, both (n,)."""


@dataclass(frozen=True, slots=True)
class DecodedRun:
    """Kafka records of queries, decoded together: the same as one by one, at a fraction of the cost.

    ``parts``: one batch for each layout. ``counts`` and ``bad`` with the position of their record among the records, in
    order; row -1 is the whole record, which then has no other entry. ``repaired``: how often a bad value was replaced,
    by a word of ``limits.REPAIRS``.
    """

    parts: list[Part] = field(default_factory=list)
    counts: list[tuple[int, Count]] = field(default_factory=list)
    bad: list[tuple[int, BadRow]] = field(default_factory=list)
    repaired: Counter[str] = field(default_factory=Counter)

    def refuse(
        self, position: int, error: InvalidRecord, model: str = "", principal: str = "", queries: int = 1
    ) -> None:
        """Adds the unusable record at ``position``; other arguments as in ``BadRow``."""
        self.bad.append((position, BadRow(-1, error.reason, error.detail, model, principal, queries)))
